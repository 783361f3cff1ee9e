# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The names of a text by which texts nearly like it are known (edge/ingest/crowd.py), and tables of what is known under
# them: it owns the numbers that say what of a text is looked at, two secret keys, and a table's cells. It must never
# tell a hash, nor a name to anybody outside.
#
# A hash is a chain of multiplications to 128 bits, of which both halves are kept, with a secret in each step. It need
# not be more: nobody outside sees a hash, or which texts share a name. All there is to learn is that a text was
# refused, which takes many users each time, and what could be won with words of chosen hashes is that an innocent text
# is not counted, for texts that share a name are compared before one is held against the other.
from cpython.mem cimport PyMem_Calloc, PyMem_Free
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


ctypedef struct Cell:
    uint64_t name
    uint32_t nth                # of what is known, from 1; 0 where nothing is
    uint32_t own                # no other name has the same


cdef class Names:
    """What is known under each name: a table that begins small and doubles. What is put under several names at once is
    kept once."""

    cdef Cell* cells
    cdef uint32_t size          # a power of two; half of it is free
    cdef uint32_t count
    cdef list known

    def __cinit__(self):
        self.known = []
        self.size = 8
        self.cells = <Cell*>PyMem_Calloc(self.size, sizeof(Cell))
        if self.cells == NULL:
            raise MemoryError("no memory for names")

    def __dealloc__(self):
        PyMem_Free(self.cells)

    def __len__(self):
        return self.count

    def get(self, uint64_t name):
        cdef Cell* cell = self.find(name)
        return self.known[cell.nth - 1] if cell.nth else None

    def put(self, uint64_t name, known) -> None:
        cdef Cell* cell = self.find(name)
        if cell.nth and cell.own:
            self.known[cell.nth - 1] = known
        else:
            self.known.append(known)
            self.set(name, True)

    cdef inline Cell* find(self, uint64_t name) noexcept:
        # Names are hashes: their last bits are as good as any. Where one is not found, its place is.
        cdef uint32_t at = <uint32_t>name & (self.size - 1)
        while self.cells[at].nth and self.cells[at].name != name:
            at = (at + 1) & (self.size - 1)
        return &self.cells[at]

    cdef int set(self, uint64_t name, bint own) except -1:
        """What was last appended is known under this name."""
        cdef Cell* cell = self.find(name)
        if not cell.nth:
            if 2 * (self.count + 1) > self.size:
                self.double()
                cell = self.find(name)
            self.count += 1
            cell.name = name
        cell.nth = <uint32_t>len(self.known)
        cell.own = own
        return 0

    cdef int double(self) except -1:
        cdef Cell* old = self.cells
        cdef uint32_t size = self.size, i
        cdef Cell* cells = <Cell*>PyMem_Calloc(2 * size, sizeof(Cell))
        if cells == NULL:
            raise MemoryError("no memory for names")
        self.cells, self.size = cells, 2 * size
        for i in range(size):
            if old[i].nth:
                self.find(old[i].name)[0] = old[i]
        PyMem_Free(old)
        return 0


cdef class Sketch:
    """`keys` are two numbers of 64 bits that nobody outside knows."""

    cdef uint64_t start
    cdef uint64_t step

    def __init__(self, keys):
        self.start, self.step = keys[0] & 0xFFFFFFFFFFFFFFFF, keys[1] & 0xFFFFFFFFFFFFFFFF | 1

    def names(self, str bones not None):
        """The four names of a skeleton; None for one that has too few words."""
        cdef uint64_t names[NAMES]
        if not sketched(self, bones, names):
            return None
        return names[0], names[1], names[2], names[3]

    def first(self, str bones not None, str user not None, Names young not None, Names old not None):
        """None where nobody has said the like: `user` has from now on, as `young` knows. Else the four names. A
        skeleton that has too few words is like no other."""
        cdef uint64_t names[NAMES]
        cdef int i
        if not sketched(self, bones, names):
            return None
        for i in range(NAMES):
            if young.find(names[i]).nth or (old.count and old.find(names[i]).nth):
                return names[0], names[1], names[2], names[3]
        young.known.append((1, user, bones))
        for i in range(NAMES):
            young.set(names[i], False)
        return None


cdef bint sketched(Sketch it, str bones, uint64_t* names):
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(bones), size = 0, longest = 0, i
    cdef int kind = PyUnicode_KIND(bones)
    cdef const void* p = PyUnicode_DATA(bones)
    cdef uint64_t h = it.start, first, last
    cdef uint32_t code
    cdef Least least
    least.count = 0
    for i in range(n + 1):
        code = PyUnicode_READ(kind, p, i) if i < n else 32
        if code > 32 and not (code > 127 and Py_UNICODE_ISSPACE(code)):
            h = mixed(h ^ code, it.step)
            size += 1
            continue
        if code < 32 and not Py_UNICODE_ISSPACE(code):
            h = mixed(h ^ code, it.step)
            size += 1
            continue
        if size >= _LONG:
            least_put(&least, mixed(h, it.start | 1))
            longest = max(longest, size)
        h, size = it.start, 0
    if least.count < NAMES and longest >= _UNSPACED:
        unspaced(it, kind, p, n, &least)
    if least.count < NAMES:
        return False
    first, last = least.hashes[0] ^ least.hashes[1], least.hashes[2] ^ least.hashes[3]
    names[0] = (first ^ least.hashes[2]) >> 4
    names[1] = (first ^ least.hashes[3]) >> 4
    names[2] = (last ^ least.hashes[0]) >> 4
    names[3] = (last ^ least.hashes[1]) >> 4
    return True


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
