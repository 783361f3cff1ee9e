# A table from names to indices: rooms by name, users by name. Open addressing, grown as it fills, and no tombstones:
# whoever could have stood in the place of one that goes moves back into it. It owns its places, never the names:
# whoever adds one keeps it where it is until it is removed.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

ctypedef struct Place:
    const uint8_t* name         # NULL: free
    uint32_t len
    uint32_t index

ctypedef struct Names:
    Place* places
    uint32_t cap                # a power of two
    uint32_t count
    uint64_t seed               # names come from clients, who must not be able to choose collisions

cdef int names_init(Names* t, uint64_t seed) noexcept nogil
cdef void names_free(Names* t) noexcept nogil
cdef uint32_t names_find(Names* t, const uint8_t* name, size_t n) noexcept nogil       # its index, or NONE
cdef int names_add(Names* t, const uint8_t* name, size_t n, uint32_t index) noexcept nogil  # one that is not there yet
cdef void names_remove(Names* t, const uint8_t* name, size_t n) noexcept nogil         # one that is
