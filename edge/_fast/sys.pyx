# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdlib cimport calloc, free, realloc

cdef extern from "<sys/mman.h>" nogil:
    void* mmap(void* addr, size_t n, int prot, int flags, int fd, int64_t offset)
    int munmap(void* addr, size_t n)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE
    void* MAP_FAILED

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        int64_t tv_nsec
    int CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec* t)

cdef extern from "<sys/timerfd.h>" nogil:
    struct itimerspec:
        timespec it_interval
        timespec it_value
    int TFD_NONBLOCK, TFD_CLOEXEC
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)

cdef uint64_t live_blocks = 0
cdef uint64_t live_bytes = 0
cdef uint64_t live_mapped = 0


cdef void* mem_alloc(size_t n) noexcept nogil:
    global live_blocks, live_bytes
    cdef void* p = calloc(1, n)
    if p != NULL:
        live_blocks += 1
        live_bytes += n
    return p


cdef void* mem_grow(void* p, size_t old, size_t new) noexcept nogil:
    global live_bytes
    if p == NULL:
        return mem_alloc(new)
    cdef void* q = realloc(p, new)
    if q != NULL:
        live_bytes += new - old
    return q


cdef void mem_free(void* p, size_t n) noexcept nogil:
    global live_blocks, live_bytes
    if p != NULL:
        live_blocks -= 1
        live_bytes -= n
        free(p)


cdef void* map_alloc(size_t n) noexcept nogil:
    global live_mapped
    cdef void* p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
    if p == MAP_FAILED:
        return NULL
    live_mapped += n
    return p


cdef void map_free(void* p, size_t n) noexcept nogil:
    global live_mapped
    if p != NULL:
        live_mapped -= n
        munmap(p, n)


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


cdef uint64_t wall_ms() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <uint64_t>t.tv_sec * 1000 + <uint64_t>t.tv_nsec // 1000000


cdef int timer_open(int every_ms) noexcept nogil:
    cdef itimerspec t
    cdef int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    if fd >= 0:
        t.it_interval.tv_sec = every_ms // 1000
        t.it_interval.tv_nsec = <int64_t>(every_ms % 1000) * 1000000
        t.it_value = t.it_interval
        timerfd_settime(fd, 0, &t, NULL)
    return fd


cdef uint64_t hash_bytes(const void* p, size_t n, uint64_t seed) noexcept nogil:
    # FNV-1a with a secret start and a mixing end: names come from clients, who must not be able to choose collisions.
    cdef const uint8_t* b = <const uint8_t*>p
    cdef uint64_t h = seed ^ <uint64_t>0xCBF29CE484222325
    cdef size_t i
    for i in range(n):
        h = (h ^ b[i]) * <uint64_t>0x100000001B3
        h ^= h >> 29
    h = (h ^ (h >> 32)) * <uint64_t>0x9E3779B97F4A7C15
    return h ^ (h >> 29)


cdef int slots_init(Slots* s, uint32_t cap) noexcept nogil:
    cdef uint32_t words = (cap + 63) // 64, sums = (words + 63) // 64
    s.cap = cap
    s.free = cap
    s.words = <uint64_t*>map_alloc(words * 8)
    s.sums = <uint64_t*>map_alloc(sums * 8)
    return 0 if s.words != NULL and s.sums != NULL else -1


cdef void slots_free(Slots* s) noexcept nogil:
    cdef uint32_t words = (s.cap + 63) // 64, sums = (words + 63) // 64
    map_free(s.words, words * 8)
    map_free(s.sums, sums * 8)
    s.words = s.sums = NULL
    s.cap = s.free = 0


cdef uint32_t slots_take(Slots* s) noexcept nogil:
    cdef uint32_t i, word, slot, sums = (((s.cap + 63) // 64) + 63) // 64
    for i in range(sums):
        if ~s.sums[i] == 0:
            continue
        word = i * 64 + <uint32_t>ctz64(~s.sums[i])
        if word * 64 >= s.cap:
            return NONE
        slot = word * 64 + <uint32_t>ctz64(~s.words[word])
        if slot >= s.cap:
            return NONE
        s.words[word] |= <uint64_t>1 << (slot & 63)
        if ~s.words[word] == 0:
            s.sums[i] |= <uint64_t>1 << (word & 63)
        s.free -= 1
        return slot
    return NONE


cdef void slots_give(Slots* s, uint32_t slot) noexcept nogil:
    s.words[slot >> 6] &= ~(<uint64_t>1 << (slot & 63))
    s.sums[slot >> 12] &= ~(<uint64_t>1 << ((slot >> 6) & 63))
    s.free += 1


def memory() -> dict[str, int]:
    """What the engine holds of this process: blocks and bytes taken singly, and bytes of address space mapped."""
    return {"blocks": live_blocks, "bytes": live_bytes, "mapped": live_mapped}


# ---- for tests ----

cdef class SlotsProbe:
    cdef Slots s

    def __cinit__(self, uint32_t cap):
        if slots_init(&self.s, cap) < 0:
            raise MemoryError

    def __dealloc__(self):
        slots_free(&self.s)

    def take(self):
        cdef uint32_t slot = slots_take(&self.s)
        return None if slot == NONE else slot

    def give(self, uint32_t slot):
        slots_give(&self.s, slot)

    def free(self):
        return self.s.free


def hash_of(bytes data, uint64_t seed):
    return hash_bytes(<const uint8_t*>data, len(data), seed)
