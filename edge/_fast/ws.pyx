# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# WebSocket frames (RFC 6455) as bytes, read and written. The handshake before them is in handshake.pyx.
# It owns nothing. It must never do I/O, allocate, keep a pointer, or touch a byte outside the buffer that it was
# given.
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from edge._fast.utf8 cimport UTF8_WHOLE, utf8_done, utf8_feed

cdef enum:
    PROTOCOL_ERROR = -1002
    NOT_UTF8 = -1007
    TOO_BIG = -1009
    NO_CODE = 1005
    CONTROL_MAX = 125           # RFC 6455 section 5.5


# ---- frames, read ----

cdef inline int head_bits(const WsState* s, uint8_t bits, bint deflate) noexcept nogil:
    """The first byte of a head: FIN, RSV, opcode."""
    cdef uint8_t op = bits & 0x0F
    cdef uint8_t rsv = bits & 0x70
    if op & 8:
        return 0 if op <= WS_PONG and bits & 0x80 and not rsv else PROTOCOL_ERROR
    if op == WS_CONTINUATION:
        return 0 if s.msg_op and not rsv else PROTOCOL_ERROR
    if op > WS_BINARY or s.msg_op:
        return PROTOCOL_ERROR
    return 0 if not rsv or (rsv == 0x40 and deflate) else PROTOCOL_ERROR


cdef int head_length(const uint8_t* h, size_t n, uint64_t* length) noexcept nogil:
    """The second byte of a head and the length after it: the size of the whole head, 0 if h does not tell yet."""
    cdef int i
    length[0] = h[1] & 0x7F
    if not h[1] & 0x80 or (h[0] & 8 and length[0] > CONTROL_MAX):
        return PROTOCOL_ERROR
    if length[0] < 126:
        return 6
    if length[0] == 126:
        if n < 4:
            return 0
        length[0] = <uint64_t> h[2] << 8 | h[3]
        return 8 if length[0] > 125 else PROTOCOL_ERROR
    if n >= 3 and h[2] & 0x80:
        return PROTOCOL_ERROR
    if n < 10:
        return 0
    length[0] = 0
    for i in range(2, 10):
        length[0] = length[0] << 8 | h[i]
    return 14 if length[0] > 0xFFFF else PROTOCOL_ERROR


cdef int head_read(WsState* s, const uint8_t* h, size_t n, uint64_t limit, bint deflate) noexcept nogil:
    """Begins a frame when h holds a whole head, and returns the head's size; 0 if it needs more bytes.

    Each fault is reported at the first byte that shows it, so that a fault is the same however the bytes were split.
    """
    cdef uint64_t length
    cdef int size
    if n == 0:
        return 0
    size = head_bits(s, h[0], deflate)
    if size < 0 or n == 1:
        return size
    size = head_length(h, n, &length)
    if size <= 0:
        return size
    if not h[0] & 8 and (s.size > limit or length > limit - s.size):
        return TOO_BIG
    if n < <size_t> size:
        return 0
    s.frame_op = h[0] & 0x0F
    s.fin = h[0] >> 7
    s.left = length
    memcpy(s.mask, h + size - 4, 4)
    s.mask_at = 0
    s.in_frame = 1
    s.frame_told = 0
    if not s.frame_op & 8:
        s.size += length
        if s.frame_op:
            s.msg_op = s.frame_op
            s.msg_deflated = h[0] >> 6 & 1
    return size


cdef int head_take(WsState* s, const uint8_t* p, size_t n, size_t* at, uint64_t limit, bint deflate) noexcept nogil:
    """Takes a frame's head from p[at:n], keeping in s what is not whole: positive when the frame has begun."""
    cdef int size
    if s.head_len == 0:
        size = head_read(s, p + at[0], n - at[0], limit, deflate)
        if size == 0:           # at most 13 bytes, or it would be whole
            memcpy(s.head, p + at[0], n - at[0])
            s.head_len = <uint8_t> (n - at[0])
            at[0] = n
        elif size > 0:
            at[0] += <size_t> size
        return size
    while at[0] < n:
        s.head[s.head_len] = p[at[0]]
        s.head_len += 1
        at[0] += 1
        size = head_read(s, s.head, s.head_len, limit, deflate)
        if size:
            s.head_len = 0
            return size
    return 0


cdef inline void unmask_word(uint8_t* p, uint64_t key) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    word ^= key
    memcpy(p, &word, 8)


cdef void unmask(uint8_t* p, size_t n, const uint8_t* mask, uint8_t at) noexcept nogil:
    """Any alignment, any phase: the key is turned to begin at p, and bytes are loaded by memcpy."""
    cdef uint8_t turned[8]
    cdef uint64_t key
    cdef size_t i
    for i in range(8):
        turned[i] = mask[(at + i) & 3]
    memcpy(&key, turned, 8)
    while n >= 32:
        unmask_word(p, key)
        unmask_word(p + 8, key)
        unmask_word(p + 16, key)
        unmask_word(p + 24, key)
        p += 32
        n -= 32
    while n >= 8:
        unmask_word(p, key)
        p += 8
        n -= 8
    for i in range(n):
        p[i] ^= turned[i]


cdef inline void frame_end(WsState* s, bint last) noexcept nogil:
    if last and (not s.frame_op & 8 or not s.msg_op):
        memset(s, 0, sizeof(WsState))
    else:
        s.in_frame = 0


cdef int payload_take(WsState* s, uint8_t* p, size_t n, WsPiece* piece) noexcept nogil:
    """Takes the frame's payload from p[0:n], n at most s.left. WS_MORE if that is nothing worth telling."""
    cdef bint control = s.frame_op & 8
    cdef bint last
    if n:
        unmask(p, n, s.mask, s.mask_at)
        s.mask_at = <uint8_t> (s.mask_at + n) & 3
        s.left -= n
    last = s.fin and s.left == 0
    if not control and s.msg_op == WS_TEXT and not s.msg_deflated:
        if not utf8_feed(&s.utf8, p, n) or (last and not utf8_done(s.utf8)):
            return NOT_UTF8
    piece.ptr = p
    piece.len = n
    piece.last = last
    if control:
        piece.op = s.frame_op
        piece.first = not s.frame_told
        piece.deflated = 0
        s.frame_told |= n > 0
    else:
        piece.op = s.msg_op
        piece.first = not s.msg_told
        piece.deflated = s.msg_deflated
        s.msg_told |= n > 0
    if s.left == 0:
        frame_end(s, last)
    return WS_PIECE if n or last else WS_MORE


cdef int ws_parse(WsState* s, uint8_t* p, size_t n, size_t* used, uint64_t limit, bint deflate,
                  WsPiece* piece) noexcept nogil:
    cdef size_t at = 0
    cdef size_t take
    cdef int rc
    used[0] = n
    while at < n:
        if not s.in_frame:
            rc = head_take(s, p, n, &at, limit, deflate)
            if rc <= 0:
                return rc
        take = n - at
        if take > s.left:
            take = <size_t> s.left
        rc = payload_take(s, p + at, take, piece)
        at += take
        if rc:
            used[0] = at
            return rc
    return WS_MORE


# ---- close frames ----

cdef size_t ws_close(uint8_t* out, int code, const char* reason) noexcept nogil:
    cdef size_t n = 0
    out[0] = 0x80 | WS_CLOSE
    if code == 0 or code == NO_CODE:
        out[1] = 0
        return 2
    out[2] = <uint8_t> (code >> 8)
    out[3] = <uint8_t> code
    if reason != NULL:
        while reason[n] and n < CONTROL_MAX - 2:
            n += 1
        if reason[n]:
            while n and (<uint8_t> reason[n] & 0xC0) == 0x80:
                n -= 1
        memcpy(out + 4, reason, n)
    out[1] = <uint8_t> (2 + n)
    return 4 + n


cdef int ws_close_code(const uint8_t* p, size_t n) noexcept nogil:
    cdef uint32_t utf8 = UTF8_WHOLE
    cdef int code
    if n == 0:
        return NO_CODE
    if n == 1:
        return PROTOCOL_ERROR
    code = p[0] << 8 | p[1]
    # 1004 is reserved; 1005, 1006 and 1015 are for reporting only; up to 2999 the rest awaits a meaning.
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        return PROTOCOL_ERROR
    if not utf8_feed(&utf8, p + 2, n - 2) or not utf8_done(utf8):
        return NOT_UTF8
    return code


# ---- for tests ----

STATE_SIZE = sizeof(WsState)
CLOSE_MAX = WS_CLOSE_MAX


def parse(bytearray state not None, data, uint64_t limit, bint deflate):
    """One call of ws_parse on a writable buffer: (status, used, piece), piece as (start, length, op, first, last,
    deflated) or None. state is STATE_SIZE bytes, and is changed."""
    cdef WsState s
    cdef WsPiece piece
    cdef Py_buffer view
    cdef size_t used = 0
    cdef int rc
    if len(state) != sizeof(WsState):
        raise ValueError(f"a state has {sizeof(WsState)} bytes")
    memcpy(&s, <char*> state, sizeof(WsState))
    PyObject_GetBuffer(data, &view, PyBUF_WRITABLE)
    rc = ws_parse(&s, <uint8_t*> view.buf, <size_t> view.len, &used, limit, deflate, &piece)
    PyBuffer_Release(&view)
    memcpy(<char*> state, &s, sizeof(WsState))
    if rc != WS_PIECE:
        return rc, used, None
    start = piece.ptr - <uint8_t*> view.buf
    return rc, used, (start, piece.len, piece.op, bool(piece.first), bool(piece.last), bool(piece.deflated))


def idle(bytearray state not None):
    cdef WsState s
    if len(state) != sizeof(WsState):
        raise ValueError(f"a state has {sizeof(WsState)} bytes")
    memcpy(&s, <char*> state, sizeof(WsState))
    return bool(ws_idle(&s))


def head(uint8_t op, bint rsv1, uint64_t length):
    cdef uint8_t out[WS_HEAD_MAX]
    return PyBytes_FromStringAndSize(<char*> out, ws_head(out, op, rsv1, length))


def close(int code, bytes reason=None):
    cdef uint8_t out[WS_CLOSE_MAX]
    cdef const char* text = NULL
    if reason is not None:
        text = reason
    return PyBytes_FromStringAndSize(<char*> out, ws_close(out, code, text))


def close_code(data):
    cdef Py_buffer view
    cdef int code
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    code = ws_close_code(<const uint8_t*> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return code
