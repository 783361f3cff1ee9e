# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# What the engine itself says to a client: positions, the opening of an event stream and the ids in it, hello and gap.
# It owns nothing but constants. It must never do I/O, allocate, or write more than the sizes in the .pxd say.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, strlen

cdef const char* PAIRS = (
    b"00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354"
    b"555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899"
)


cdef inline size_t put(uint8_t* out, size_t at, const char* text) noexcept nogil:
    cdef size_t n = strlen(text)
    memcpy(out + at, text, n)
    return at + n


# ---- positions ----

cdef size_t u64_write(uint8_t* out, uint64_t x) noexcept nogil:
    """Two digits a division: an event stream gets its own id line per socket, so this runs per viewer."""
    cdef uint8_t text[U64_MAX]
    cdef size_t at = U64_MAX
    while x >= 100:
        at -= 2
        memcpy(text + at, PAIRS + 2 * (x % 100), 2)
        x //= 100
    at -= 2
    memcpy(text + at, PAIRS + 2 * x, 2)
    if x < 10:
        at += 1
    memcpy(out, text + at, U64_MAX - at)
    return U64_MAX - at


cdef size_t vector_write(uint8_t* out, const Vector* v) noexcept nogil:
    cdef size_t at = 1
    out[0] = b"i"
    at += u64_write(out + at, v.incarnation)
    at = put(out, at, b".m")
    at += u64_write(out + at, v.must)
    at = put(out, at, b".c")
    return at + u64_write(out + at, v.chat)


cdef int u64_parse(const uint8_t* p, size_t n, size_t* at, uint64_t* x) noexcept nogil:
    """Digits up to the first byte that is none; -1 for none at all, a leading zero, or more than 2**64 - 1."""
    cdef size_t i = at[0]
    cdef uint8_t digit
    x[0] = 0
    while i < n and b"0" <= p[i] <= b"9":
        digit = p[i] & 0x0F
        if i > at[0] and x[0] == 0:
            return -1
        if x[0] > <uint64_t> 1844674407370955161ULL or (x[0] == <uint64_t> 1844674407370955161ULL and digit > 5):
            return -1
        x[0] = 10 * x[0] + digit
        i += 1
    if i == at[0]:
        return -1
    at[0] = i
    return 0


cdef inline int literal(const uint8_t* p, size_t n, size_t* at, uint8_t c) noexcept nogil:
    if at[0] == n or p[at[0]] != c:
        return -1
    at[0] += 1
    return 0


cdef int vector_parse(const uint8_t* p, size_t n, Vector* v) noexcept nogil:
    cdef Vector found
    cdef size_t at = 0
    if literal(p, n, &at, b"i") or u64_parse(p, n, &at, &found.incarnation):
        return -1
    if literal(p, n, &at, b".") or literal(p, n, &at, b"m") or u64_parse(p, n, &at, &found.must):
        return -1
    if literal(p, n, &at, b".") or literal(p, n, &at, b"c") or u64_parse(p, n, &at, &found.chat):
        return -1
    if at != n:
        return -1
    v[0] = found
    return 0


# ---- event streams ----

cdef size_t sse_id(uint8_t* out, const Vector* v) noexcept nogil:
    cdef size_t at = put(out, 0, b"id: ")
    at += vector_write(out + at, v)
    out[at] = b"\n"
    return at + 1


cdef size_t sse_open(uint8_t* out, size_t cap, uint32_t retry_ms, const char* origin) noexcept nogil:
    cdef size_t at
    if cap + 1 < SSE_OPEN_MAX + strlen(origin):
        return 0
    # X-Accel-Buffering: nginx would otherwise hold events back until its buffer is full.
    at = put(out, 0, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n"
                     b"X-Accel-Buffering: no\r\n")
    if origin[0] != 0:
        at = put(out, at, b"Access-Control-Allow-Origin: ")
        at = put(out, at, origin)
        at = put(out, at, b"\r\n")
    at = put(out, at, b"Connection: close\r\n\r\nretry: ")
    at += u64_write(out + at, retry_ms)
    return put(out, at, b"\n\n")


# ---- hello and gap ----

cdef size_t gap_write(uint8_t* out, uint8_t lane_letter, uint64_t first, uint64_t last) noexcept nogil:
    cdef size_t at = put(out, 0, b'{"t":"gap","from":"')
    out[at] = lane_letter
    at += 1 + u64_write(out + at + 1, first)
    at = put(out, at, b'","to":"')
    out[at] = lane_letter
    at += 1 + u64_write(out + at + 1, last)
    return put(out, at, b'"}')


cdef size_t hello_write(uint8_t* out, const Vector* since, uint64_t viewers, bint resumed) noexcept nogil:
    cdef size_t at = put(out, 0, b'{"t":"hello","since":"')
    at += vector_write(out + at, since)
    at = put(out, at, b'","viewers":')
    at += u64_write(out + at, viewers)
    at = put(out, at, b',"resumed":')
    at = put(out, at, b"true" if resumed else b"false")
    return put(out, at, b',"state":"live"}')


cdef size_t pack_id(uint8_t* out, size_t at, uint8_t lane_letter, uint64_t x) noexcept nogil:
    """A lane's id as a fixstr: at most 21 bytes of 31."""
    cdef size_t n = 1 + u64_write(out + at + 2, x)
    out[at] = <uint8_t> (0xA0 | n)
    out[at + 1] = lane_letter
    return at + 1 + n


cdef size_t pack_vector(uint8_t* out, size_t at, const Vector* v) noexcept nogil:
    """As a fixstr up to 31 bytes, else as a str 8."""
    cdef uint8_t text[VECTOR_MAX]
    cdef size_t n = vector_write(text, v)
    if n < 32:
        out[at] = <uint8_t> (0xA0 | n)
        at += 1
    else:
        out[at] = 0xD9
        out[at + 1] = <uint8_t> n
        at += 2
    memcpy(out + at, text, n)
    return at + n


cdef size_t pack_u64(uint8_t* out, size_t at, uint64_t x) noexcept nogil:
    """In the shortest form there is."""
    cdef int size, i
    if x < 0x80:
        out[at] = <uint8_t> x
        return at + 1
    if x <= 0xFF:
        out[at] = 0xCC
        size = 1
    elif x <= 0xFFFF:
        out[at] = 0xCD
        size = 2
    elif x <= 0xFFFFFFFFU:
        out[at] = 0xCE
        size = 4
    else:
        out[at] = 0xCF
        size = 8
    for i in range(size):
        out[at + 1 + i] = <uint8_t> (x >> (8 * (size - 1 - i)))
    return at + 1 + size


cdef size_t gap_write_msgpack(uint8_t* out, uint8_t lane_letter, uint64_t first, uint64_t last) noexcept nogil:
    cdef size_t at = put(out, 0, b"\x83\xa1t\xa3gap\xa4from")
    at = pack_id(out, at, lane_letter, first)
    at = put(out, at, b"\xa2to")
    return pack_id(out, at, lane_letter, last)


cdef size_t hello_write_msgpack(uint8_t* out, const Vector* since, uint64_t viewers, bint resumed) noexcept nogil:
    cdef size_t at = put(out, 0, b"\x85\xa1t\xa5hello\xa5since")
    at = pack_vector(out, at, since)
    at = put(out, at, b"\xa7viewers")
    at = pack_u64(out, at, viewers)
    at = put(out, at, b"\xa7resumed")
    at = put(out, at, b"\xc3" if resumed else b"\xc2")
    return put(out, at, b"\xa5state\xa4live")


cdef size_t zstd_raw(uint8_t* out, const uint8_t* body, size_t n) noexcept nogil:
    """RFC 8878: magic, a single-segment frame header with the content's size, one last raw block."""
    cdef size_t at = 4
    if n > 0xFFFF:
        return 0
    memcpy(out, b"\x28\xb5\x2f\xfd", 4)
    if n < 256:
        out[4] = 0x20
        out[5] = <uint8_t> n
        at = 6
    else:
        out[4] = 0x60           # two bytes of size, less 256
        out[5] = <uint8_t> (n - 256)
        out[6] = <uint8_t> ((n - 256) >> 8)
        at = 7
    out[at] = <uint8_t> (n << 3 | 1)
    out[at + 1] = <uint8_t> (n >> 5)
    out[at + 2] = <uint8_t> (n >> 13)
    if n:
        memcpy(out + at + 3, body, n)
    return at + 3 + n


# ---- for tests ----

SIZES = {
    "u64": U64_MAX, "vector": VECTOR_MAX, "sse_id": SSE_ID_MAX, "sse_open": SSE_OPEN_MAX, "gap": GAP_MAX,
    "gap_msgpack": GAP_MSGPACK_MAX, "hello": HELLO_MAX, "hello_msgpack": HELLO_MSGPACK_MAX,
    "zstd_raw_extra": ZSTD_RAW_EXTRA,
}


cdef Vector vector_of(tuple v) except *:
    cdef Vector made
    made.incarnation, made.must, made.chat = v
    return made


def parse(data):
    """(incarnation, must, chat), or None."""
    cdef Vector v
    cdef Py_buffer view
    cdef int rc
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    rc = vector_parse(<const uint8_t*> view.buf, <size_t> view.len, &v)
    PyBuffer_Release(&view)
    return (v.incarnation, v.must, v.chat) if rc == 0 else None


def vector(tuple v not None):
    cdef uint8_t out[VECTOR_MAX]
    cdef Vector made = vector_of(v)
    return PyBytes_FromStringAndSize(<char*> out, vector_write(out, &made))


def u64(uint64_t x):
    cdef uint8_t out[U64_MAX]
    return PyBytes_FromStringAndSize(<char*> out, u64_write(out, x))


def event_id(tuple v not None):
    cdef uint8_t out[SSE_ID_MAX]
    cdef Vector made = vector_of(v)
    return PyBytes_FromStringAndSize(<char*> out, sse_id(out, &made))


def stream_open(uint32_t retry_ms, size_t cap=SSE_OPEN_MAX, bytes origin=b"*"):
    cdef uint8_t out[SSE_OPEN_MAX + 256]
    return PyBytes_FromStringAndSize(<char*> out, sse_open(out, cap, retry_ms, origin))


def gap(uint8_t lane_letter, uint64_t first, uint64_t last):
    cdef uint8_t out[GAP_MAX]
    return PyBytes_FromStringAndSize(<char*> out, gap_write(out, lane_letter, first, last))


def gap_msgpack(uint8_t lane_letter, uint64_t first, uint64_t last):
    cdef uint8_t out[GAP_MSGPACK_MAX]
    return PyBytes_FromStringAndSize(<char*> out, gap_write_msgpack(out, lane_letter, first, last))


def hello(tuple since not None, uint64_t viewers, bint resumed):
    cdef uint8_t out[HELLO_MAX]
    cdef Vector made = vector_of(since)
    return PyBytes_FromStringAndSize(<char*> out, hello_write(out, &made, viewers, resumed))


def hello_msgpack(tuple since not None, uint64_t viewers, bint resumed):
    cdef uint8_t out[HELLO_MSGPACK_MAX]
    cdef Vector made = vector_of(since)
    return PyBytes_FromStringAndSize(<char*> out, hello_write_msgpack(out, &made, viewers, resumed))


def raw_frame(bytes body not None):
    """b"" when the body is too long."""
    cdef size_t n = len(body)
    cdef uint8_t* out = <uint8_t*> malloc(n + ZSTD_RAW_EXTRA)
    if out == NULL:
        raise MemoryError
    n = zstd_raw(out, <const uint8_t*> <const char*> body, n)
    frame = PyBytes_FromStringAndSize(<char*> out, n)
    free(out)
    return frame
