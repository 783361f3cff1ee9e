# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Which comments a room's owner knows again: all of the last minute, at any rate that the limits let through. It owns a
# table for each of the last spans of time, and no text. It must never take one comment for another: what it keeps is
# Python's own hash, whose key nobody outside knows.
#
# A table that is full gives way to one of twice its size, a few places with each comment that comes: to move a million
# at once would hold up all rooms.
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdint cimport uint64_t
from libc.string cimport memset


cdef enum:
    SPANS = 3
    LEAST = 64
    MOVED = 8                   # places a comment


ctypedef struct Table:
    uint64_t* places            # 0 where nothing is
    size_t size                 # a power of two
    size_t count
    uint64_t* before            # what it has outgrown, while that is being moved
    size_t before_size
    size_t moved


cdef inline bint has(const uint64_t* places, size_t size, uint64_t h) noexcept nogil:
    cdef size_t at = h & (size - 1)
    while places[at]:
        if places[at] == h:
            return True
        at = (at + 1) & (size - 1)
    return False


cdef inline void put(uint64_t* places, size_t size, uint64_t h) noexcept nogil:
    cdef size_t at = h & (size - 1)
    while places[at]:
        if places[at] == h:
            return
        at = (at + 1) & (size - 1)
    places[at] = h


cdef inline bint table_has(const Table* t, uint64_t h) noexcept nogil:
    return t.count > 0 and (has(t.places, t.size, h) or (t.before != NULL and has(t.before, t.before_size, h)))


cdef void table_move(Table* t, size_t most) noexcept nogil:
    cdef size_t end = min(t.moved + most, t.before_size)
    while t.moved < end:
        if t.before[t.moved]:
            put(t.places, t.size, t.before[t.moved])
        t.moved += 1


cdef int table_grow(Table* t, size_t size) except -1:
    cdef uint64_t* places = <uint64_t*>PyMem_Calloc(size, sizeof(uint64_t))
    if places == NULL:
        raise MemoryError("no memory for what has been said")
    t.before, t.before_size, t.moved = t.places, t.size, 0
    t.places, t.size = places, size
    return 0


cdef int table_add(Table* t, uint64_t h) except -1:
    if t.before != NULL:
        table_move(t, MOVED)
        if t.moved == t.before_size:
            PyMem_Free(t.before)
            t.before = NULL
    if (t.count + 1) * 3 > t.size * 2:  # by now the one before has been moved: half as many have come since
        table_grow(t, max(2 * t.size, <size_t>LEAST))
    put(t.places, t.size, h)
    t.count += 1
    return 0


cdef void table_clear(Table* t) noexcept:
    PyMem_Free(t.places)
    PyMem_Free(t.before)
    memset(t, 0, sizeof(Table))


cdef class Said:
    """Each is known until `age` has been called three times since. Past `most` between two calls it ages by itself."""

    cdef Table spans[SPANS]     # the newest first
    cdef size_t most

    def __cinit__(self, size_t most):
        self.most = max(most, <size_t>1)

    def __dealloc__(self):
        cdef int i
        for i in range(SPANS):
            table_clear(&self.spans[i])

    def __contains__(self, str made not None):
        return self.holds(hash_of(made))

    def add(self, str made not None) -> bool:
        """False for one that is known already."""
        cdef uint64_t h = hash_of(made)
        if self.holds(h):
            return False
        if self.spans[0].count >= self.most:
            self.age()
        table_add(&self.spans[0], h)
        return True

    def age(self) -> None:
        """What came before the last two calls is forgotten."""
        cdef int i
        table_clear(&self.spans[SPANS - 1])
        for i in range(SPANS - 1, 0, -1):
            self.spans[i] = self.spans[i - 1]
        memset(&self.spans[0], 0, sizeof(Table))

    @property
    def bytes(self) -> int:
        """What its tables take."""
        cdef size_t places = 0
        cdef int i
        for i in range(SPANS):
            places += self.spans[i].size + (self.spans[i].before_size if self.spans[i].before != NULL else 0)
        return places * sizeof(uint64_t)

    cdef inline bint holds(self, uint64_t h) noexcept:
        cdef int i
        for i in range(SPANS):
            if table_has(&self.spans[i], h):
                return True
        return False


cdef inline uint64_t hash_of(str made) except? 0:
    cdef uint64_t h = <uint64_t>hash(made)
    return h if h else 1
