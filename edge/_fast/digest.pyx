# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The id of a comment, made of its author and ref: BLAKE2b (RFC 7693) of a few words, and its text in base64 as it goes
# into an address. For so little, most of hashlib's time goes to its objects. It owns nothing, and must never give other
# ids than hashlib's would.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edge._fast.sys cimport memcpy, memset

cdef enum:
    BLOCK = 128
    RAW = 12                    # bytes of an id
    CHARS = 16                  # and its characters

cdef uint64_t[8] START = [
    0x6A09E667F3BCC908, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1,
    0x510E527FADE682D1, 0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179,
]
cdef uint8_t[10][16] ORDER = [
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
    [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
    [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
    [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
    [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
    [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
    [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
    [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
]
cdef const char* LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


cdef inline uint64_t turned(uint64_t x, int by) noexcept nogil:
    return x >> by | x << (64 - by)


cdef inline void mix(uint64_t* v, int a, int b, int c, int d, uint64_t x, uint64_t y) noexcept nogil:
    v[a] += v[b] + x
    v[d] = turned(v[d] ^ v[a], 32)
    v[c] += v[d]
    v[b] = turned(v[b] ^ v[c], 24)
    v[a] += v[b] + y
    v[d] = turned(v[d] ^ v[a], 16)
    v[c] += v[d]
    v[b] = turned(v[b] ^ v[c], 63)


cdef void compress(uint64_t* h, const uint8_t* block, uint64_t upto, bint last) noexcept nogil:
    cdef uint64_t v[16]
    cdef uint64_t m[16]
    cdef const uint8_t* s
    cdef int i
    memcpy(m, block, BLOCK)     # little-endian, as all machines are that this is built for
    memcpy(v, h, 64)
    memcpy(v + 8, START, 64)
    v[12] ^= upto
    if last:
        v[14] = ~v[14]
    for i in range(12):
        s = ORDER[i % 10]
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for i in range(8):
        h[i] ^= v[i] ^ v[i + 8]


cdef class Ids:
    """`person` is what these ids are of, in up to 16 bytes: others of the same words are others."""

    cdef uint64_t start[8]

    def __init__(self, bytes person not None):
        cdef uint64_t own[2]
        if len(person) > 16:
            raise ValueError("a person of BLAKE2b has at most 16 bytes")
        memset(own, 0, 16)
        memcpy(own, PyBytes_AS_STRING(person), PyBytes_GET_SIZE(person))
        memcpy(self.start, START, 64)
        self.start[0] ^= 0x01010000 | RAW
        self.start[6] ^= own[0]
        self.start[7] ^= own[1]

    def of(self, str author not None, str ref not None) -> str:
        """The author's length, in four bytes, keeps ("ab", "c") apart from ("a", "bc")."""
        cdef Py_ssize_t author_n, ref_n, size, at
        cdef const char* author_p = PyUnicode_AsUTF8AndSize(author, &author_n)
        cdef const char* ref_p = PyUnicode_AsUTF8AndSize(ref, &ref_n)
        cdef uint8_t words[4 * BLOCK]
        cdef uint64_t h[8]
        cdef bytes long
        cdef uint8_t* p = words
        size = 4 + author_n + ref_n
        if size > <Py_ssize_t>sizeof(words):
            long = PyBytes_FromStringAndSize(NULL, size + BLOCK)
            p = <uint8_t*>PyBytes_AS_STRING(long)
        p[0], p[1] = <uint8_t>(author_n >> 24), <uint8_t>(author_n >> 16)
        p[2], p[3] = <uint8_t>(author_n >> 8), <uint8_t>author_n
        memcpy(p + 4, author_p, author_n)
        memcpy(p + 4 + author_n, ref_p, ref_n)
        memset(p + size, 0, (BLOCK - size % BLOCK) % BLOCK)
        memcpy(h, self.start, 64)
        at = 0
        while size - at > BLOCK:
            compress(h, p + at, at + BLOCK, False)
            at += BLOCK
        compress(h, p + at, size, True)
        return written(<uint8_t*>h)


cdef str written(const uint8_t* raw):
    cdef char out[CHARS]
    cdef uint32_t three
    cdef int i
    for i in range(RAW // 3):
        three = <uint32_t>raw[3 * i] << 16 | <uint32_t>raw[3 * i + 1] << 8 | raw[3 * i + 2]
        out[4 * i] = LETTERS[three >> 18]
        out[4 * i + 1] = LETTERS[three >> 12 & 63]
        out[4 * i + 2] = LETTERS[three >> 6 & 63]
        out[4 * i + 3] = LETTERS[three & 63]
    return PyUnicode_DecodeASCII(out, CHARS, NULL)
