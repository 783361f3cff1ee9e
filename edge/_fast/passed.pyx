# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Which comments have passed lately, and with what words: so one that is sent again, because its answer was lost, is
# known. It owns a table of a set size, and no text. It must never take another comment for one that has passed: what it
# keeps is made of Python's own hashes, whose key nobody outside knows.
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY
from libc.stdint cimport uint64_t


cdef enum:
    WAYS = 8                    # two lines of the cache


ctypedef struct Cell:
    uint64_t what               # the room, the comment, its words
    double at                   # when; 0 where nothing is


cdef class Passed:
    """Of the last half of `size` comments nearly all: each has one of eight places, and of those the one goes that
    passed longest ago."""

    cdef Cell* cells
    cdef size_t sets

    def __cinit__(self, size_t size):
        self.sets = max(size // WAYS, <size_t>1)
        self.cells = <Cell*>PyMem_Calloc(self.sets * WAYS, sizeof(Cell))
        if self.cells == NULL:
            raise MemoryError("no memory for what has passed")

    def __dealloc__(self):
        PyMem_Free(self.cells)

    def since(self, str room not None, str made not None, str text not None, re) -> float:
        """When this comment has passed, with these words, as a reply to `re`; long ago where that is not known."""
        cdef uint64_t what = whole(room, made, text, re)
        cdef Cell* cell = self.cells + what % self.sets * WAYS
        cdef int i
        for i in range(WAYS):
            if cell[i].what == what and cell[i].at:
                return cell[i].at
        return -INFINITY

    def put(self, str room not None, str made not None, str text not None, re, double now) -> None:
        """It has passed, now: `now` is above 0."""
        cdef uint64_t what = whole(room, made, text, re)
        cdef Cell* cell = self.cells + what % self.sets * WAYS
        cdef int i, at = 0
        for i in range(WAYS):
            if cell[i].what == what:
                at = i
                break
            if cell[i].at < cell[at].at:
                at = i
        cell[at].what, cell[at].at = what, now


cdef inline uint64_t mixed(uint64_t h, object one) except? 0:
    h = (h ^ <uint64_t>hash(one)) * <uint64_t>0xD6E8FEB86659FD93
    return h ^ (h >> 32)


cdef inline uint64_t whole(str room, str made, str text, object re) except? 0:
    return mixed(mixed(mixed(mixed(0, room), made), text), re)
