# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# UTF-8, checked as it arrives. It owns one table of 2 KB, filled at import and never written again.
# It must never allocate, decode, or read a byte that it was not given.
#
# The checker is a state machine whose whole transition row for a byte is one 64-bit word: six bits for each of nine
# states, at the bit offset that *is* the state. A step is a load and a shift, with no branch to mispredict in text
# of mixed scripts; runs of ASCII are skipped by words before that.
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:                      # each state is its offset in a row
    BAD = 6                     # no way back
    ONE = 12                    # one continuation byte to come, 80..BF
    TWO = 18
    THREE = 24
    AFTER_E0 = 30               # A0..BF, or it would be overlong
    AFTER_ED = 36               # 80..9F, or it would be a surrogate
    AFTER_F0 = 42               # 90..BF, or it would be overlong
    AFTER_F4 = 48               # 80..8F, or it would be above U+10FFFF
    END = 54

cdef uint64_t HIGH_BITS = 0x8080808080808080ULL
cdef uint64_t ROW[256]


cdef void row_set(int low, int high, int state, int follower) noexcept:
    cdef int byte
    for byte in range(low, high + 1):
        ROW[byte] = (ROW[byte] & ~(<uint64_t> 63 << state)) | (<uint64_t> follower << state)


cdef void rows_fill() noexcept:
    cdef int state
    for state in range(UTF8_WHOLE, END, 6):
        row_set(0x00, 0xFF, state, BAD)
    row_set(0x00, 0x7F, UTF8_WHOLE, UTF8_WHOLE)
    row_set(0xC2, 0xDF, UTF8_WHOLE, ONE)
    row_set(0xE0, 0xEF, UTF8_WHOLE, TWO)
    row_set(0xE0, 0xE0, UTF8_WHOLE, AFTER_E0)
    row_set(0xED, 0xED, UTF8_WHOLE, AFTER_ED)
    row_set(0xF0, 0xF0, UTF8_WHOLE, AFTER_F0)
    row_set(0xF1, 0xF3, UTF8_WHOLE, THREE)
    row_set(0xF4, 0xF4, UTF8_WHOLE, AFTER_F4)
    row_set(0x80, 0xBF, ONE, UTF8_WHOLE)
    row_set(0x80, 0xBF, TWO, ONE)
    row_set(0x80, 0xBF, THREE, TWO)
    row_set(0xA0, 0xBF, AFTER_E0, ONE)
    row_set(0x80, 0x9F, AFTER_ED, ONE)
    row_set(0x90, 0xBF, AFTER_F0, TWO)
    row_set(0x80, 0x8F, AFTER_F4, TWO)


rows_fill()


cdef inline uint64_t word_at(const uint8_t* p) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, p, 8)
    return word


cdef inline uint64_t step(uint64_t state, uint8_t byte) noexcept nogil:
    return ROW[byte] >> (state & 63)


cdef bint utf8_feed(uint32_t* state, const uint8_t* p, size_t n) noexcept nogil:
    cdef uint64_t s = state[0]
    cdef size_t left = n
    while left >= 8:
        if s == UTF8_WHOLE:
            while left >= 32 and not (
                (word_at(p) | word_at(p + 8) | word_at(p + 16) | word_at(p + 24)) & HIGH_BITS
            ):
                p += 32
                left -= 32
            if left < 8:
                break
            if not (word_at(p) & HIGH_BITS):
                p += 8
                left -= 8
                continue
        s = step(step(step(step(s, p[0]), p[1]), p[2]), p[3])
        s = step(step(step(step(s, p[4]), p[5]), p[6]), p[7]) & 63
        p += 8
        left -= 8
    while left:
        s = step(s, p[0])
        p += 1
        left -= 1
    state[0] = <uint32_t> (s & 63)
    return state[0] != BAD


def feed(uint32_t state, data):
    """The state after data, or -1 when it can't be UTF-8."""
    cdef Py_buffer view
    cdef bint good
    if state % 6 or state >= END:
        raise ValueError("not a state of the checker")
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    good = utf8_feed(&state, <const uint8_t*> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return state if good else -1


def done(uint32_t state):
    return bool(utf8_done(state))
