# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.frame cimport frame_unref
from edge._fast.sys cimport (NONE, map_alloc, map_free, mem_free, mem_grow, memcpy, memset, slots_free, slots_give,
                             slots_init, slots_take)
from edge._fast.ws cimport ws_idle


cdef int table_init(Table* t, uint32_t cap, uint64_t now) noexcept nogil:
    memset(t, 0, sizeof(Table))
    t.cap = cap
    t.start_ns = t.woken_ns = now
    t.blocked_first = t.blocked_last = NONE
    t.conns = <Conn*>map_alloc(<size_t>cap * sizeof(Conn))
    t.ios = <Io*>map_alloc(<size_t>cap * sizeof(Io))
    t.wheel = <uint32_t*>map_alloc(WHEEL_BUCKETS * sizeof(uint32_t))
    if t.conns == NULL or t.ios == NULL or t.wheel == NULL:
        return -1
    return -1 if slots_init(&t.slots, cap) < 0 or slots_init(&t.io_slots, cap) < 0 else 0


cdef void table_free(Table* t) noexcept nogil:
    map_free(t.conns, <size_t>t.cap * sizeof(Conn))
    map_free(t.ios, <size_t>t.cap * sizeof(Io))
    map_free(t.wheel, WHEEL_BUCKETS * sizeof(uint32_t))
    slots_free(&t.slots)
    slots_free(&t.io_slots)
    t.conns = NULL
    t.ios = NULL
    t.wheel = NULL
    t.high = 0                  # no id is found any more


cdef uint32_t conn_open(Table* t, int fd) noexcept nogil:
    cdef uint32_t slot = slots_take(&t.slots)
    if slot == NONE:
        return NONE
    cdef Conn* c = &t.conns[slot]
    cdef uint32_t gen = c.gen + 1
    memset(c, 0, sizeof(Conn))
    c.fd = fd
    c.gen = gen
    c.kind = KIND_HEAD
    c.room = c.io = c.ident = c.peer = c.next = c.prev = NONE
    c.bucket = BUCKET_NONE
    t.live += 1
    if slot >= t.high:
        t.high = slot + 1
    return slot


cdef void conn_give(Table* t, uint32_t slot) noexcept nogil:
    cdef Conn* c = &t.conns[slot]
    timer_stop(t, slot)
    conn_io_drop(t, c)
    c.kind = KIND_FREE
    c.fd = -1
    t.live -= 1
    slots_give(&t.slots, slot)


cdef Io* conn_io(Table* t, Conn* c) noexcept nogil:
    if c.io == NONE:
        c.io = slots_take(&t.io_slots)
        if c.io == NONE:
            return NULL
        memset(&t.ios[c.io], 0, sizeof(Io))
        t.ios[c.io].next = t.ios[c.io].prev = NONE
    return &t.ios[c.io]


cdef void conn_io_tidy(Table* t, Conn* c) noexcept nogil:
    if c.io == NONE:
        return
    cdef Io* io = &t.ios[c.io]
    if io.out != NULL and io.out_at == io.out_len:
        mem_free(io.out, io.out_cap)
        io.out = NULL
        io.out_at = io.out_len = io.out_cap = 0
    if io.rx_cap != 0 and io.rx_len == 0:
        mem_free(io.rx, io.rx_cap)
        io.rx = NULL
        io.rx_cap = 0
    if (c.flags & FLAG_BLOCKED) or io.frame != NULL or io.pre_len != io.pre_at or io.out != NULL or io.rx != NULL:
        return
    if io.join != NULL or io.control_len != 0 or not ws_idle(&io.ws):
        return
    slots_give(&t.io_slots, c.io)
    c.io = NONE


cdef void conn_io_drop(Table* t, Conn* c) noexcept nogil:
    if c.io == NONE:
        return
    cdef Io* io = &t.ios[c.io]
    conn_unblock(t, c)
    frame_unref(io.frame)
    mem_free(io.out, io.out_cap)
    mem_free(io.rx, io.rx_cap)
    mem_free(io.join, sizeof(Join))
    slots_give(&t.io_slots, c.io)
    c.io = NONE


cdef void conn_block(Table* t, uint32_t slot, Conn* c, Io* io, uint64_t now) noexcept nogil:
    c.flags |= FLAG_BLOCKED
    io.blocked_ns = table_clock(t, now)
    io.next = NONE
    io.prev = t.blocked_last
    if t.blocked_last != NONE:
        t.ios[t.conns[t.blocked_last].io].next = slot
    else:
        t.blocked_first = slot
    t.blocked_last = slot


cdef void conn_unblock(Table* t, Conn* c) noexcept nogil:
    if not c.flags & FLAG_BLOCKED:
        return
    cdef Io* io = &t.ios[c.io]
    c.flags &= ~FLAG_BLOCKED
    if io.prev != NONE:
        t.ios[t.conns[io.prev].io].next = io.next
    else:
        t.blocked_first = io.next
    if io.next != NONE:
        t.ios[t.conns[io.next].io].prev = io.prev
    else:
        t.blocked_last = io.prev


cdef int buf_add(uint8_t** p, uint32_t* n, uint32_t* cap, const uint8_t* more, size_t m) noexcept nogil:
    cdef uint64_t want = <uint64_t>n[0] + m
    cdef uint64_t size = cap[0]
    cdef void* q
    if m == 0:
        return 0
    if want > 0x7FFFFFFF:
        return -1
    if want > size:
        size = max(want, size * 2) if size else max(want, <uint64_t>64)
        q = mem_grow(p[0], cap[0], size)
        if q == NULL:
            return -1
        p[0] = <uint8_t*>q
        cap[0] = <uint32_t>size
    memcpy(p[0] + n[0], more, m)
    n[0] = <uint32_t>want
    return 0


cdef void wheel_put(Table* t, uint32_t slot, uint64_t at) noexcept nogil:
    cdef Conn* c = &t.conns[slot]
    c.bucket = <uint16_t>(at % <uint64_t>WHEEL_BUCKETS)
    c.prev = NONE
    c.next = t.wheel[c.bucket] - 1      # 0, nobody, becomes NONE
    if c.next != NONE:
        t.conns[c.next].prev = slot
    t.wheel[c.bucket] = slot + 1


cdef void wheel_gather(Table* t, uint64_t at) noexcept nogil:
    # The wheel lags so far behind that what is armed now would land among what is due: that moves to the bucket of now.
    cdef uint64_t last = min(at, t.wheel_at + <uint64_t>WHEEL_BUCKETS)
    cdef uint32_t slot
    while t.wheel_at < last:
        while (t.wheel_at - at) % <uint64_t>WHEEL_BUCKETS != 0 and t.wheel[t.wheel_at % <uint64_t>WHEEL_BUCKETS] != 0:
            slot = t.wheel[t.wheel_at % <uint64_t>WHEEL_BUCKETS] - 1
            timer_stop(t, slot)
            wheel_put(t, slot, at)
        t.wheel_at += 1
    t.wheel_at = at


cdef void timer_set(Table* t, uint32_t slot, uint64_t now, uint64_t in_ms) noexcept nogil:
    cdef uint64_t clock = table_clock(t, now), step = <uint64_t>WHEEL_MS * 1000000
    cdef uint64_t first = max(clock // step, t.wheel_at) + 1
    cdef uint64_t at = max((clock + in_ms * 1000000 + step - 1) // step, first)     # never early
    timer_stop(t, slot)
    if at - t.wheel_at >= <uint64_t>WHEEL_BUCKETS:
        wheel_gather(t, first - 1)
        at = min(at, t.wheel_at + <uint64_t>WHEEL_BUCKETS - 1)
    wheel_put(t, slot, at)


cdef void timer_stop(Table* t, uint32_t slot) noexcept nogil:
    cdef Conn* c = &t.conns[slot]
    if c.bucket == BUCKET_NONE:
        return
    if c.prev != NONE:
        t.conns[c.prev].next = c.next
    else:
        t.wheel[c.bucket] = c.next + 1
    if c.next != NONE:
        t.conns[c.next].prev = c.prev
    c.bucket = BUCKET_NONE
    c.next = c.prev = NONE


cdef uint32_t timer_due(Table* t, uint64_t now) noexcept nogil:
    cdef uint64_t at = table_clock(t, now) // <uint64_t>(WHEEL_MS * 1000000)
    cdef uint32_t slot
    while t.wheel_at <= at:
        slot = t.wheel[t.wheel_at % <uint64_t>WHEEL_BUCKETS]
        if slot != 0:
            timer_stop(t, slot - 1)
            return slot - 1
        if t.wheel_at == at:
            break
        t.wheel_at += 1
    return NONE


# ---- for tests ----

CONN_SIZE = sizeof(Conn)
IO_SIZE = sizeof(Io)
TURN_MS = WHEEL_BUCKETS * WHEEL_MS


cdef class TableProbe:
    """A table whose descriptors are only numbers, and whose clock is the caller's, in milliseconds from its start."""
    cdef Table t

    def __cinit__(self, uint32_t cap):
        if table_init(&self.t, cap, 0) < 0:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t slot
        if self.t.conns != NULL:
            for slot in range(self.t.high):
                if self.t.conns[slot].kind != KIND_FREE:
                    conn_give(&self.t, slot)
        table_free(&self.t)

    def open(self, int fd):
        """An id, or None when the table is full."""
        cdef uint32_t slot = conn_open(&self.t, fd)
        return None if slot == NONE else conn_id(&self.t.conns[slot], slot)

    def find(self, uint64_t id):
        cdef uint32_t slot = conn_find(&self.t, id)
        return None if slot == NONE else self.t.conns[slot].fd

    def give(self, uint32_t slot):
        conn_give(&self.t, slot)

    def live(self):
        return self.t.live

    def cold(self):
        return self.t.io_slots.cap - self.t.io_slots.free

    def block(self, uint32_t slot, uint64_t now_ms):
        conn_block(&self.t, slot, &self.t.conns[slot], conn_io(&self.t, &self.t.conns[slot]), now_ms * 1000000)

    def unblock(self, uint32_t slot):
        conn_unblock(&self.t, &self.t.conns[slot])
        conn_io_tidy(&self.t, &self.t.conns[slot])

    def blocked(self):
        """The slots, the longest blocked first."""
        cdef uint32_t slot = self.t.blocked_first
        slots = []
        while slot != NONE:
            slots.append(slot)
            slot = self.t.ios[self.t.conns[slot].io].next
        return slots

    def set(self, uint32_t slot, uint64_t now_ms, uint64_t in_ms):
        timer_set(&self.t, slot, now_ms * 1000000, in_ms)

    def stop(self, uint32_t slot):
        timer_stop(&self.t, slot)

    def due(self, uint64_t now_ms):
        """The slots whose time has come, each taken out."""
        cdef uint32_t slot = timer_due(&self.t, now_ms * 1000000)
        slots = []
        while slot != NONE:
            slots.append(slot)
            slot = timer_due(&self.t, now_ms * 1000000)
        return slots


def buffer_of(list pieces):
    """What buf_add makes of pieces, and the block's size."""
    cdef uint8_t* p = NULL
    cdef uint32_t n = 0, cap = 0
    for piece in pieces:
        if buf_add(&p, &n, &cap, <const uint8_t*><bytes>piece, len(piece)) < 0:
            raise MemoryError
    result = p[:n], cap
    mem_free(p, cap)
    return result
