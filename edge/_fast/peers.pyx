# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.sys cimport (NONE, hash_bytes, map_alloc, map_free, memcmp, memcpy, memset, slots_free, slots_give,
                             slots_init, slots_take)


cdef void peers_key(const uint8_t* addr, uint8_t* key) noexcept nogil:
    cdef int i
    cdef bint mapped = addr[10] == 255 and addr[11] == 255
    for i in range(10):
        mapped &= addr[i] == 0
    memset(key, 0, 16)
    memcpy(key, addr, 16 if mapped else 8)


cdef int peers_init(Peers* p, uint32_t cap, uint64_t seed) noexcept nogil:
    memset(p, 0, sizeof(Peers))
    p.seed = seed
    p.mask = 63
    while p.mask < cap:
        p.mask = p.mask * 2 + 1
    p.peers = <Peer*>map_alloc(<size_t>cap * sizeof(Peer))
    p.buckets = <uint32_t*>map_alloc((<size_t>p.mask + 1) * 4)
    return -1 if p.peers == NULL or p.buckets == NULL or slots_init(&p.slots, cap) < 0 else 0


cdef void peers_free(Peers* p) noexcept nogil:
    map_free(p.peers, <size_t>p.slots.cap * sizeof(Peer))
    map_free(p.buckets, (<size_t>p.mask + 1) * 4)
    slots_free(&p.slots)
    p.peers = NULL
    p.buckets = NULL


cdef uint32_t peers_enter(Peers* p, const uint8_t* addr) noexcept nogil:
    cdef uint8_t key[16]
    cdef uint32_t bucket, at
    peers_key(addr, key)
    bucket = <uint32_t>hash_bytes(key, 16, p.seed) & p.mask
    at = p.buckets[bucket]
    while at != 0:
        if memcmp(p.peers[at - 1].addr, key, 16) == 0:
            p.peers[at - 1].count += 1
            return at - 1
        at = p.peers[at - 1].next
    at = slots_take(&p.slots)
    if at == NONE:
        return NONE
    memcpy(p.peers[at].addr, key, 16)
    p.peers[at].count = 1
    p.peers[at].next = p.buckets[bucket]
    p.buckets[bucket] = at + 1
    return at


cdef void peers_leave(Peers* p, uint32_t index) noexcept nogil:
    cdef Peer* peer = &p.peers[index]
    cdef uint32_t* at
    peer.count -= 1
    if peer.count:
        return
    at = &p.buckets[<uint32_t>hash_bytes(peer.addr, 16, p.seed) & p.mask]
    while at[0] != index + 1:
        at = &p.peers[at[0] - 1].next
    at[0] = peer.next
    slots_give(&p.slots, index)


# ---- for tests ----

cdef class PeersProbe:
    cdef Peers p

    def __cinit__(self, uint32_t cap, uint64_t seed):
        if peers_init(&self.p, cap, seed) < 0:
            peers_free(&self.p)
            raise MemoryError

    def __dealloc__(self):
        peers_free(&self.p)

    def enter(self, bytes addr):
        """(index, how many from there), or None when the table is full."""
        if len(addr) != 16:
            raise ValueError("16 bytes")
        cdef uint32_t index = peers_enter(&self.p, addr)
        return None if index == NONE else (index, self.p.peers[index].count)

    def leave(self, uint32_t index):
        peers_leave(&self.p, index)

    def free(self):
        return self.p.slots.free
