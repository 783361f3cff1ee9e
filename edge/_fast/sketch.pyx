# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The names of a text by which texts nearly like it are known (edge/ingest/crowd.py): it owns the numbers that say what
# of a text is looked at, and two secret keys. It must never tell a hash, nor a name to anybody outside.
#
# A hash is a chain of multiplications to 128 bits, of which both halves are kept, with a secret in each step. It need
# not be more: nobody outside sees a hash, or which texts share a name. All there is to learn is that a text was
# refused, which takes many users each time, and what could be won with words of chosen hashes is that an innocent text
# is not counted, for texts that share a name are compared before one is held against the other.
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND, PyUnicode_READ
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    typedef unsigned __int128 edge_wide;
    """
    ctypedef unsigned long long edge_wide

cdef extern from "Python.h":
    bint Py_UNICODE_ISSPACE(uint32_t code)

cdef enum:
    NAMES = 4

LONG = 4
"""Characters of a word that says more than "the": the others are not looked at."""
LEAST_WORDS = NAMES
"""Distinct long words below which a text is not looked at: everybody may shout "what a goal!"."""
UNSPACED = 12
"""Characters of a word from which on it is many, in writing without spaces."""
GRAM = 3
"""Characters that make do for a word there."""

cdef enum:
    _LONG = 4
    _UNSPACED = 12


cdef inline uint64_t mixed(uint64_t a, uint64_t b) noexcept nogil:
    cdef edge_wide both = <edge_wide>a * b
    return <uint64_t>both ^ <uint64_t>(both >> 64)


ctypedef struct Least:          # the least of what it was given, each once
    uint64_t hashes[NAMES]
    int count


cdef inline void least_put(Least* it, uint64_t h) noexcept nogil:
    cdef int at = it.count, i
    if at == NAMES and h >= it.hashes[NAMES - 1]:
        return
    while at and it.hashes[at - 1] >= h:
        at -= 1
    if at < it.count and it.hashes[at] == h:
        return
    if it.count < NAMES:
        it.count += 1
    i = it.count - 1
    while i > at:
        it.hashes[i] = it.hashes[i - 1]
        i -= 1
    it.hashes[at] = h


cdef class Sketch:
    """`keys` are two numbers of 64 bits that nobody outside knows."""

    cdef uint64_t start
    cdef uint64_t step

    def __init__(self, keys):
        self.start, self.step = keys[0] & 0xFFFFFFFFFFFFFFFF, keys[1] & 0xFFFFFFFFFFFFFFFF | 1

    def names(self, str bones not None):
        """The four names of a skeleton; None for one that has too few words."""
        cdef Py_ssize_t n = PyUnicode_GET_LENGTH(bones), size = 0, longest = 0, i
        cdef int kind = PyUnicode_KIND(bones)
        cdef const void* p = PyUnicode_DATA(bones)
        cdef uint64_t h = self.start, first, last
        cdef uint32_t code
        cdef Least it
        it.count = 0
        for i in range(n + 1):
            code = PyUnicode_READ(kind, p, i) if i < n else 32
            if code > 32 and not (code > 127 and Py_UNICODE_ISSPACE(code)):
                h = mixed(h ^ code, self.step)
                size += 1
                continue
            if code < 32 and not Py_UNICODE_ISSPACE(code):
                h = mixed(h ^ code, self.step)
                size += 1
                continue
            if size >= _LONG:
                least_put(&it, mixed(h, self.start | 1))
                longest = max(longest, size)
            h, size = self.start, 0
        if it.count < NAMES and longest >= _UNSPACED:
            unspaced(self, kind, p, n, &it)
        if it.count < NAMES:
            return None
        first, last = it.hashes[0] ^ it.hashes[1], it.hashes[2] ^ it.hashes[3]
        return (
            (first ^ it.hashes[2]) >> 4,
            (first ^ it.hashes[3]) >> 4,
            (last ^ it.hashes[0]) >> 4,
            (last ^ it.hashes[1]) >> 4,
        )


cdef void unspaced(Sketch it, int kind, const void* p, Py_ssize_t n, Least* least) noexcept:
    cdef uint64_t gram = 0
    cdef Py_ssize_t size = 0, i
    cdef uint32_t code
    least.count = 0
    for i in range(n):
        code = PyUnicode_READ(kind, p, i)
        if Py_UNICODE_ISSPACE(code):
            continue
        size += 1
        gram = gram >> 21 | <uint64_t>code << 42
        if size >= 3:
            least_put(least, mixed(mixed(it.start ^ gram, it.step), it.start | 1))
