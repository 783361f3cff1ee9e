# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Whether any of a list of words may be in a text: no is certain, yes is for who asks to find out. Most chat holds none,
# so most of it need not be searched by what finds out. It owns a table of bytes, made with the list, never changed and
# at most 1 MiB. It must never say no where a word is.
#
# The table is a tree of the words' beginnings, up to eight characters deep, without its branches: a beginning is known
# by its hash alone. So a step down is one multiplication and one look, and another beginning of the same hash costs a
# step more. Where a word ends, it is marked in a second place, too: a list of 1,000 fills one place in 65 with ends,
# and most texts have as many characters. Hashes are not secret: who chooses a text by them has it searched, no more.
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND, PyUnicode_READ
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr

from edge._fast.sys cimport mem_alloc, mem_free

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

cdef enum:
    DEEP = 8
    SPARE = 8                   # places for each beginning: one in eight, or fewer, is another's
    LEAST_BITS = 10
    MOST_BITS = 20

cdef enum:                      # of a beginning
    GOES_ON = 1                 # to some word
    ENDS = 2                    # some word with it
    ALONE = 4                   # some word that is found only where it stands alone
    SURE = 8                    # of a beginning's second place: some word ends there, alone or not

cdef uint64_t SPREAD = 0x9E3779B97F4A7C15ULL


# A beginning of one, two or three characters is their codes side by side, times a number; a longer one goes on from it.
cdef inline uint64_t first(uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    return (a | b << 21 | c << 42) * SPREAD


cdef inline uint64_t further(uint64_t h, uint64_t c) noexcept nogil:
    return (h ^ h >> 31 ^ c) * SPREAD


cdef inline uint64_t second(uint64_t h) noexcept nogil:
    return (h ^ h >> 29) * 0xD6E8FEB86659FD93ULL


cdef class Sieve:
    """Of `words`: the skeleton of each, and whether it must stand alone."""

    cdef uint8_t* table
    cdef size_t size
    cdef int shift
    cdef bint ones
    cdef bint twos

    def __cinit__(self, list words not None):
        cdef size_t wanted = 0
        cdef int bits = LEAST_BITS
        for bones, _ in words:
            wanted += SPARE * min(<size_t>len(bones), <size_t>DEEP)
        while bits < MOST_BITS and <size_t>1 << bits < wanted:
            bits += 1
        self.shift = 64 - bits
        self.size = <size_t>1 << bits
        self.table = <uint8_t*>mem_alloc(self.size)
        if self.table == NULL:
            raise MemoryError
        for bones, alone in words:
            sieve_add(self, bones, ALONE if alone else ENDS)

    def __dealloc__(self):
        mem_free(self.table, self.size)

    def may(self, str text not None, str bones not None):
        """`bones` is the skeleton of `text`, which is asked for signs, which may be letters, or none."""
        cdef Py_ssize_t n = PyUnicode_GET_LENGTH(bones), start, end
        cdef int kind = PyUnicode_KIND(bones)
        cdef const void* p = PyUnicode_DATA(bones)
        cdef uint64_t h, a = 0, b = 0, c
        cdef uint8_t found
        if self.ones or self.twos:
            for start in range(n):
                a, b = b, PyUnicode_READ(kind, p, start)
                if self.ones and sieve_ends(self, first(b, 0, 0), text, bones, start, start):
                    return True
                if self.twos and start and sieve_ends(self, first(a, b, 0), text, bones, start - 1, start):
                    return True
        if n < 3:
            return False
        a, b = PyUnicode_READ(kind, p, 0), PyUnicode_READ(kind, p, 1)
        for start in range(n - 2):
            end = start + 2
            c = PyUnicode_READ(kind, p, end)
            h = first(a, b, c)
            a, b = b, c
            found = self.table[h >> self.shift]
            while found:
                if found & (ENDS | ALONE) and sieve_ends(self, h, text, bones, start, end):
                    return True
                if not found & GOES_ON:
                    break
                if end - start == DEEP - 1:
                    return True
                end += 1
                if end == n:
                    break
                h = further(h, PyUnicode_READ(kind, p, end))
                found = self.table[h >> self.shift]
        return False


cdef int sieve_add(Sieve it, str bones, uint8_t ends) except -1:
    cdef Py_ssize_t n = len(bones), i
    cdef uint64_t h
    if n < 3:
        it.ones |= n == 1
        it.twos |= n == 2
        if n:
            sieve_end(it, first(ord(bones[0]), ord(bones[1]) if n == 2 else 0, 0), ends)
        return 0
    h = first(ord(bones[0]), ord(bones[1]), ord(bones[2]))
    for i in range(3, min(n, DEEP)):
        it.table[h >> it.shift] |= GOES_ON
        h = further(h, ord(bones[i]))
    if n <= DEEP:
        sieve_end(it, h, ends)
    else:
        it.table[h >> it.shift] |= GOES_ON
    return 0


cdef inline void sieve_end(Sieve it, uint64_t h, uint8_t ends) noexcept:
    it.table[h >> it.shift] |= ends
    it.table[second(h) >> it.shift] |= SURE


cdef bint sieve_ends(Sieve it, uint64_t h, str text, str bones, Py_ssize_t start, Py_ssize_t end):
    """Whether a word ends here, and may stand alone where it must."""
    cdef uint8_t found = it.table[h >> it.shift]
    cdef const void* p
    cdef Py_ssize_t n
    if not found & (ENDS | ALONE) or not it.table[second(h) >> it.shift] & SURE:
        return False
    if found & ENDS:
        return True
    if not PyUnicode_IS_ASCII(bones):
        return True
    p = PyUnicode_DATA(bones)
    if not PyUnicode_IS_ASCII(text):
        return True
    if start and letter(p, start - 1) and not (signs(p, start - 1, text) or signs(p, start, text)):
        return False
    n = PyUnicode_GET_LENGTH(bones)
    return not (end + 1 < n and letter(p, end + 1)) or signs(p, end + 1, text) or signs(p, end, text)


cdef bint signs(const void* p, Py_ssize_t i, str text):
    """Whether there is a sign in the text that may be this letter, and may be none (`normal.SIGNS`, `normal.THIN`)."""
    cdef uint8_t code = (<const uint8_t*>p)[i]
    if code == 97:  # a
        return has(text, 64)  # @
    if code == 105:  # i
        return has(text, 33) or has(text, 124)  # ! |
    if code == 115:  # s
        return has(text, 36)  # $
    if code == 116:  # t
        return has(text, 43)  # +
    return code == 99 and has(text, 40)  # c (


cdef inline bint has(str text, int code):
    return memchr(PyUnicode_DATA(text), code, PyUnicode_GET_LENGTH(text)) != NULL


cdef inline bint letter(const void* p, Py_ssize_t i) noexcept nogil:
    cdef uint32_t code = (<const uint8_t*>p)[i]
    return (code | 32) - 97 < 26 or code - 48 < 10
