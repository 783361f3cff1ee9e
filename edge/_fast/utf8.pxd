# UTF-8, checked as it arrives: a state of one word is carried over any split of the text.
# It owns nothing. It never decodes, and it never looks past the bytes that it was given.
from libc.stdint cimport uint8_t, uint32_t

cdef enum:
    UTF8_WHOLE = 0              # between two characters: the state to begin with, and to end with

# False at the first byte that no valid text could have here (overlong forms, surrogates and code points above
# U+10FFFF included); a state that has failed goes on failing. p may be NULL when n is 0.
cdef bint utf8_feed(uint32_t* state, const uint8_t* p, size_t n) noexcept nogil

cdef inline bint utf8_done(uint32_t state) noexcept nogil:
    return state == UTF8_WHOLE
