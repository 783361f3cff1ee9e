# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The WebSocket handshake (RFC 6455 section 4, RFC 7692): the accept key, what a client offers, the 101 response.
# It owns the constant words of the accept key, computed at import and never written again. It must never do I/O,
# allocate, or touch a byte outside what it was given.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset, strlen

from edge._fast.const cimport ENC_JSON, ENC_MSGPACK, ENC_ZSTD


# ---- the accept key: SHA-1 of 60 bytes, in base64 ----
# Key and GUID are always 60 bytes, so the message is always two blocks, and the second is padding alone: its expanded
# words never change, and are computed once, at import, with the round constants already added.

cdef enum:
    H0 = 0x67452301
    K0 = 0x5A827999
    K1 = 0x6ED9EBA1

cdef uint32_t H1 = 0xEFCDAB89U, H2 = 0x98BADCFEU, H3 = 0x10325476U, H4 = 0xC3D2E1F0U
cdef uint32_t K2 = 0x8F1BBCDCU, K3 = 0xCA62C1D6U
cdef uint32_t PADDING[80]


cdef inline uint32_t rotl(uint32_t x, int by) noexcept nogil:
    return x << by | x >> (32 - by)


cdef inline void turn(uint32_t a, uint32_t* b, uint32_t mixed, uint32_t* e, uint32_t word) noexcept nogil:
    e[0] += word + mixed + rotl(a, 5)
    b[0] = rotl(b[0], 30)


cdef inline uint32_t choose(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return z ^ (x & (y ^ z))


cdef inline uint32_t parity(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return x ^ y ^ z


cdef inline uint32_t majority(uint32_t x, uint32_t y, uint32_t z) noexcept nogil:
    return (x & y) + (z & (x ^ y))


cdef void sha1_expand(uint32_t* w) noexcept nogil:
    """w[0:16] is the block; fills w[16:80], and adds the round constants to all."""
    cdef int t
    for t in range(16, 80):
        w[t] = rotl(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1)
    for t in range(20):
        w[t] += <uint32_t> K0
        w[t + 20] += <uint32_t> K1
        w[t + 40] += K2
        w[t + 60] += K3


cdef void sha1_mix(uint32_t* h, const uint32_t* w) noexcept nogil:
    """Five rounds a turn of each loop, so that the five words change places by name and not by moves."""
    cdef uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4]
    cdef int t
    for t in range(0, 20, 5):
        turn(a, &b, choose(b, c, d), &e, w[t])
        turn(e, &a, choose(a, b, c), &d, w[t + 1])
        turn(d, &e, choose(e, a, b), &c, w[t + 2])
        turn(c, &d, choose(d, e, a), &b, w[t + 3])
        turn(b, &c, choose(c, d, e), &a, w[t + 4])
    for t in range(20, 40, 5):
        turn(a, &b, parity(b, c, d), &e, w[t])
        turn(e, &a, parity(a, b, c), &d, w[t + 1])
        turn(d, &e, parity(e, a, b), &c, w[t + 2])
        turn(c, &d, parity(d, e, a), &b, w[t + 3])
        turn(b, &c, parity(c, d, e), &a, w[t + 4])
    for t in range(40, 60, 5):
        turn(a, &b, majority(b, c, d), &e, w[t])
        turn(e, &a, majority(a, b, c), &d, w[t + 1])
        turn(d, &e, majority(e, a, b), &c, w[t + 2])
        turn(c, &d, majority(d, e, a), &b, w[t + 3])
        turn(b, &c, majority(c, d, e), &a, w[t + 4])
    for t in range(60, 80, 5):
        turn(a, &b, parity(b, c, d), &e, w[t])
        turn(e, &a, parity(a, b, c), &d, w[t + 1])
        turn(d, &e, parity(e, a, b), &c, w[t + 2])
        turn(c, &d, parity(d, e, a), &b, w[t + 3])
        turn(b, &c, parity(c, d, e), &a, w[t + 4])
    h[0] += a
    h[1] += b
    h[2] += c
    h[3] += d
    h[4] += e


memset(PADDING, 0, sizeof(PADDING))
PADDING[15] = 60 * 8
sha1_expand(PADDING)


cdef inline uint8_t base64_digit(uint32_t six) noexcept nogil:
    return <uint8_t> b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[six & 63]


cdef void ws_accept_key(const uint8_t* key24, uint8_t* out28) noexcept nogil:
    cdef uint8_t block[64]
    cdef uint8_t digest[21]
    cdef uint32_t w[80]
    cdef uint32_t h[5]
    cdef uint32_t three
    cdef int i
    memcpy(block, key24, 24)
    memcpy(block + 24, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80\0\0\0", 40)
    for i in range(16):
        w[i] = (<uint32_t> block[4 * i] << 24 | <uint32_t> block[4 * i + 1] << 16
                | <uint32_t> block[4 * i + 2] << 8 | block[4 * i + 3])
    h[0], h[1], h[2], h[3], h[4] = H0, H1, H2, H3, H4
    sha1_expand(w)
    sha1_mix(h, w)
    sha1_mix(h, PADDING)
    for i in range(20):
        digest[i] = <uint8_t> (h[i >> 2] >> (24 - 8 * (i & 3)))
    digest[20] = 0
    for i in range(7):
        three = <uint32_t> digest[3 * i] << 16 | <uint32_t> digest[3 * i + 1] << 8 | digest[3 * i + 2]
        out28[4 * i] = base64_digit(three >> 18)
        out28[4 * i + 1] = base64_digit(three >> 12)
        out28[4 * i + 2] = base64_digit(three >> 6)
        out28[4 * i + 3] = base64_digit(three)
    out28[27] = b"="


# ---- header values: what the client offers ----

cdef enum:                      # parameters of permessage-deflate (RFC 7692 section 7.1), as bits
    SERVER_NO_CONTEXT = 1
    CLIENT_NO_CONTEXT = 2
    SERVER_BITS = 4
    CLIENT_BITS = 8
    MALFORMED = -1

ctypedef struct Param:
    const uint8_t* name
    size_t name_len
    bint has_value
    uint8_t value[2]            # its first bytes; no value that we accept is longer
    size_t value_len


cdef inline bint is_token(uint8_t c) noexcept nogil:
    """RFC 9110 section 5.6.2."""
    if b"a" <= (c | 0x20) <= b"z" or b"0" <= c <= b"9":
        return True
    return c in (b"!", b"#", b"$", b"%", b"&", b"'", b"*", b"+", b"-", b".", b"^", b"_", b"`", b"|", b"~")


cdef inline size_t token_end(const uint8_t* p, size_t i, size_t n) noexcept nogil:
    while i < n and is_token(p[i]):
        i += 1
    return i


cdef inline size_t skip_blank(const uint8_t* p, size_t i, size_t n) noexcept nogil:
    while i < n and (p[i] == b" " or p[i] == b"\t"):
        i += 1
    return i


cdef inline bint same(const uint8_t* p, size_t n, const char* text) noexcept nogil:
    return n == strlen(text) and memcmp(p, text, n) == 0


cdef inline int value_add(Param* param, uint8_t c) noexcept nogil:
    if not is_token(c):         # quoted or not, a value is a token (RFC 6455 section 9.1)
        return MALFORMED
    if param.value_len < sizeof(param.value):
        param.value[param.value_len] = c
    param.value_len += 1
    return 0


cdef int value_read(const uint8_t* p, size_t n, size_t* at, Param* param) noexcept nogil:
    cdef size_t i = at[0]
    cdef bint quoted = i < n and p[i] == b'"'
    if quoted:
        i += 1
        while i < n and p[i] != b'"':
            if p[i] == b"\\":
                i += 1
            if i == n or value_add(param, p[i]) < 0:
                return MALFORMED
            i += 1
        if i == n:
            return MALFORMED
        i += 1
    else:
        while i < n and is_token(p[i]):
            value_add(param, p[i])
            i += 1
    at[0] = i
    return 0 if param.value_len else MALFORMED


cdef int param_read(const uint8_t* p, size_t n, size_t* at, Param* param) noexcept nogil:
    """Reads `; name` or `; name=value`: 1, or 0 if there is none."""
    cdef size_t i = skip_blank(p, at[0], n)
    memset(param, 0, sizeof(Param))
    if i == n or p[i] != b";":
        at[0] = i
        return 0
    i = skip_blank(p, i + 1, n)
    param.name = p + i
    at[0] = token_end(p, i, n)
    param.name_len = at[0] - i
    if param.name_len == 0:
        return MALFORMED
    i = skip_blank(p, at[0], n)
    if i < n and p[i] == b"=":
        at[0] = skip_blank(p, i + 1, n)
        param.has_value = True
        if value_read(p, n, at, param) < 0:
            return MALFORMED
    return 1


cdef int window_bits(const Param* param) noexcept nogil:
    """8 to 15, or 0 for anything else."""
    if param.value_len == 1 and b"8" <= param.value[0] <= b"9":
        return param.value[0] - <uint8_t> b"0"
    if param.value_len == 2 and param.value[0] == b"1" and b"0" <= param.value[1] <= b"5":
        return 10 + param.value[1] - <uint8_t> b"0"
    return 0


cdef int param_judge(const Param* param) noexcept nogil:
    """The parameter's bit, or 0 if it makes the offer one that we decline."""
    if same(param.name, param.name_len, b"server_no_context_takeover"):
        return 0 if param.has_value else SERVER_NO_CONTEXT
    if same(param.name, param.name_len, b"client_no_context_takeover"):
        return 0 if param.has_value else CLIENT_NO_CONTEXT
    if same(param.name, param.name_len, b"server_max_window_bits"):     # one frame serves all: no smaller windows
        return SERVER_BITS if window_bits(param) == 15 else 0
    if same(param.name, param.name_len, b"client_max_window_bits"):     # may be ignored: our window is 15 anyway
        return CLIENT_BITS if window_bits(param) or not param.has_value else 0
    return 0


cdef int offer_read(const uint8_t* p, size_t n, size_t* at) noexcept nogil:
    """One extension with its parameters, judged as ws_offer does."""
    cdef Param param
    cdef size_t end = token_end(p, at[0], n)
    cdef bint good = same(p + at[0], end - at[0], b"permessage-deflate")
    cdef int seen = 0
    cdef int bit, rc
    if end == at[0]:
        return MALFORMED
    at[0] = end
    while True:
        rc = param_read(p, n, at, &param)
        if rc < 0:
            return rc
        if rc == 0:
            break
        bit = param_judge(&param)
        good = good and bit and not seen & bit
        seen |= bit
    if not good:
        return 0
    return 2 if seen & SERVER_BITS else 1


cdef size_t next_item(const uint8_t* p, size_t i, size_t n) noexcept nogil:
    """The next element of a list; empty ones are skipped (RFC 9110 section 5.6.1.2)."""
    i = skip_blank(p, i, n)
    while i < n and p[i] == b",":
        i = skip_blank(p, i + 1, n)
    return i


cdef int ws_offer(const uint8_t* p, size_t n) noexcept nogil:
    cdef size_t at = next_item(p, 0, n)
    cdef int answer = 0
    cdef int rc
    while at < n:
        rc = offer_read(p, n, &at)
        if rc < 0 or (at < n and p[at] != b","):
            return MALFORMED
        if answer == 0:
            answer = rc
        at = next_item(p, at, n)
    return answer


cdef int ws_subprotocol(const uint8_t* p, size_t n) noexcept nogil:
    cdef size_t at = next_item(p, 0, n)
    cdef size_t end, item
    while at < n:
        end = token_end(p, at, n)
        item = end - at
        if skip_blank(p, end, n) == n or p[skip_blank(p, end, n)] == b",":
            if same(p + at, item, b"edge.v1.json"):
                return ENC_JSON
            if same(p + at, item, b"edge.v1.msgpack"):
                return ENC_MSGPACK
            if same(p + at, item, b"edge.v1.msgpack.zstd"):
                return ENC_ZSTD
        while end < n and p[end] != b",":
            end += 1
        at = next_item(p, end, n)
    return -1


# ---- the answer to the handshake ----

cdef inline size_t put(uint8_t* out, size_t at, const char* text) noexcept nogil:
    cdef size_t n = strlen(text)
    memcpy(out + at, text, n)
    return at + n


cdef size_t ws_upgrade(uint8_t* out, size_t cap, const uint8_t* key24, int encoding, int offer) noexcept nogil:
    cdef size_t at = 0
    if cap < WS_UPGRADE_MAX:
        return 0
    at = put(out, at, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      b"Sec-WebSocket-Accept: ")
    ws_accept_key(key24, out + at)
    at = put(out, at + 28, b"\r\n")
    if encoding == ENC_JSON:
        at = put(out, at, b"Sec-WebSocket-Protocol: edge.v1.json\r\n")
    elif encoding == ENC_MSGPACK:
        at = put(out, at, b"Sec-WebSocket-Protocol: edge.v1.msgpack\r\n")
    elif encoding == ENC_ZSTD:
        at = put(out, at, b"Sec-WebSocket-Protocol: edge.v1.msgpack.zstd\r\n")
    if offer > 0:
        at = put(out, at, b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; "
                          b"client_no_context_takeover")
        if offer == 2:
            at = put(out, at, b"; server_max_window_bits=15")
        at = put(out, at, b"\r\n")
    return put(out, at, b"\r\n")


# ---- for tests ----

UPGRADE_MAX = WS_UPGRADE_MAX


def offer(data):
    cdef Py_buffer view
    cdef int answer
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    answer = ws_offer(<const uint8_t*> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return answer


def subprotocol(data):
    cdef Py_buffer view
    cdef int encoding
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    encoding = ws_subprotocol(<const uint8_t*> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return encoding


def accept_key(bytes key not None):
    cdef uint8_t out[28]
    if len(key) != 24:
        raise ValueError("a key has 24 characters")
    ws_accept_key(<const uint8_t*> <const char*> key, out)
    return PyBytes_FromStringAndSize(<char*> out, 28)


def upgrade(bytes key not None, int encoding, int offer, size_t cap=WS_UPGRADE_MAX):
    cdef uint8_t out[WS_UPGRADE_MAX]
    if len(key) != 24:
        raise ValueError("a key has 24 characters")
    return PyBytes_FromStringAndSize(
        <char*> out, ws_upgrade(out, cap, <const uint8_t*> <const char*> key, encoding, offer))
