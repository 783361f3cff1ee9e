# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Which comments have passed lately, and with what words: so one that is sent again, because its answer was lost, is
# known. It owns a table of a set size, and no text. It must never take another comment for one that has passed: both
# halves of what it keeps are Python's own hashes, whose key nobody outside knows.
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t

from edge._fast.sys cimport mem_alloc, mem_free

cdef enum:
    WAYS = 4


ctypedef struct Cell:
    uint64_t name               # of the room and the comment
    uint64_t words
    double at                   # when; 0 where nothing is


cdef class Passed:
    """Of the last `size` comments nearly all: each has one of four places, and the one that passed longest ago goes."""

    cdef Cell* cells
    cdef size_t sets

    def __cinit__(self, size_t size):
        self.sets = max(size // WAYS, <size_t>1)
        self.cells = <Cell*>mem_alloc(self.sets * WAYS * sizeof(Cell))
        if self.cells == NULL:
            raise MemoryError("no memory for what has passed")

    def __dealloc__(self):
        mem_free(self.cells, self.sets * WAYS * sizeof(Cell))

    def since(self, str room not None, str made not None, str text not None, re) -> float:
        """When this comment has passed, with these words, as a reply to `re`; long ago where that is not known."""
        cdef uint64_t name = named(room, made)
        cdef Cell* cell = self.cells + name % self.sets * WAYS
        cdef int i
        for i in range(WAYS):
            if cell[i].name == name and cell[i].at and cell[i].words == worded(text, re):
                return cell[i].at
        return -INFINITY

    def put(self, str room not None, str made not None, str text not None, re, double now) -> None:
        """It has passed, now: `now` is above 0."""
        cdef uint64_t name = named(room, made)
        cdef Cell* cell = self.cells + name % self.sets * WAYS
        cdef int i, at = 0
        for i in range(WAYS):
            if cell[i].name == name and cell[i].at:
                at = i
                break
            if cell[i].at < cell[at].at:
                at = i
        cell[at].name, cell[at].words, cell[at].at = name, worded(text, re), now


cdef inline uint64_t mixed(object one, object other) except? 0:
    cdef uint64_t h = <uint64_t>hash(one) * <uint64_t>0x9E3779B97F4A7C15 ^ <uint64_t>hash(other)
    h = (h ^ (h >> 32)) * <uint64_t>0xD6E8FEB86659FD93
    return h ^ (h >> 32)


cdef inline uint64_t named(str room, str made) except? 0:
    return mixed(room, made)


cdef inline uint64_t worded(str text, object re) except? 0:
    return mixed(text, re)
