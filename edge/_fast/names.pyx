# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.sys cimport NONE, hash_bytes, mem_alloc, mem_free, memcmp


cdef int names_init(Names* t, uint64_t seed) noexcept nogil:
    t.seed = seed
    t.cap = 64
    t.count = 0
    t.places = <Place*>mem_alloc(t.cap * sizeof(Place))
    return 0 if t.places != NULL else -1


cdef void names_free(Names* t) noexcept nogil:
    mem_free(t.places, t.cap * sizeof(Place))
    t.places = NULL


cdef uint32_t names_seat(Names* t, const uint8_t* name, size_t n) noexcept nogil:
    # Where the name is, or the free place where it would go.
    cdef uint32_t at = <uint32_t>(hash_bytes(name, n, t.seed) & (t.cap - 1))
    cdef Place* p
    while True:
        p = &t.places[at]
        if p.name == NULL or (p.len == n and memcmp(p.name, name, n) == 0):
            return at
        at = (at + 1) & (t.cap - 1)


cdef uint32_t names_find(Names* t, const uint8_t* name, size_t n) noexcept nogil:
    cdef Place* p
    if t.places == NULL:        # after the end
        return NONE
    p = &t.places[names_seat(t, name, n)]
    return p.index if p.name != NULL else NONE


cdef int names_grow(Names* t) noexcept nogil:
    cdef Place* old = t.places
    cdef uint32_t old_cap = t.cap, i
    cdef Place* places = <Place*>mem_alloc(<size_t>old_cap * 2 * sizeof(Place))
    if places == NULL:
        return -1
    t.places = places
    t.cap = old_cap * 2
    for i in range(old_cap):
        if old[i].name != NULL:
            places[names_seat(t, old[i].name, old[i].len)] = old[i]
    mem_free(old, <size_t>old_cap * sizeof(Place))
    return 0


cdef int names_add(Names* t, const uint8_t* name, size_t n, uint32_t index) noexcept nogil:
    cdef Place* p
    if t.count * 2 >= t.cap and names_grow(t) < 0:
        return -1
    p = &t.places[names_seat(t, name, n)]
    p.name = name
    p.len = <uint32_t>n
    p.index = index
    t.count += 1
    return 0


cdef void names_remove(Names* t, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t mask = t.cap - 1
    cdef uint32_t at = names_seat(t, name, n)
    cdef uint32_t hole = at, home
    while True:
        at = (at + 1) & mask
        if t.places[at].name == NULL:
            break
        home = <uint32_t>(hash_bytes(t.places[at].name, t.places[at].len, t.seed) & mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            t.places[hole] = t.places[at]
            hole = at
    t.places[hole].name = NULL
    t.count -= 1
