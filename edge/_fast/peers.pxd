# How many connections each address has. An IPv6 address counts by its /64, which is what one subscriber holds.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edge._fast.sys cimport Slots

ctypedef struct Peer:
    uint8_t addr[16]            # IPv4 as ::ffff:a.b.c.d
    uint32_t count
    uint32_t next               # in its bucket

ctypedef struct Peers:
    Peer* peers
    uint32_t* buckets           # index + 1
    Slots slots
    uint32_t mask
    uint64_t seed

cdef void peers_key(const uint8_t* addr, uint8_t* key) noexcept nogil       # the 16 bytes that an address counts by
cdef int peers_init(Peers* p, uint32_t cap, uint64_t seed) noexcept nogil
cdef void peers_free(Peers* p) noexcept nogil
cdef uint32_t peers_enter(Peers* p, const uint8_t* addr) noexcept nogil     # NONE when full; else its count is one more
cdef void peers_leave(Peers* p, uint32_t index) noexcept nogil
