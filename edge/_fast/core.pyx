# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.conn cimport (buf_add, FLAG_KEEP_FD, FLAG_MEMBER, FLAG_READY, FLAG_RESET, KIND_CLOSING, KIND_DEAD,
                              conn_give, conn_open, table_free, table_init, timer_set)
from edge._fast.peers cimport peers_free, peers_init, peers_leave
from edge._fast.registry cimport registry_free, registry_init, registry_remove
from edge._fast.room cimport members_add, members_remove, room_job, rooms_free, rooms_init
from edge._fast.sys cimport (EPOLL_CLOEXEC, EPOLL_CTL_DEL, NONE, SHUT_RDWR, SO_LINGER, SOL_SOCKET, close, epoll_create1,
                             epoll_ctl, linger, map_alloc, map_free, mem_free, mem_grow, memset, now_ns, setsockopt,
                             shutdown)


cdef int core_init(Core* k, uint32_t cap, uint32_t rooms, uint64_t seed) noexcept nogil:
    memset(k, 0, sizeof(Core))
    k.now = now_ns()
    k.random = seed | 1
    k.epfd = epoll_create1(EPOLL_CLOEXEC)
    k.ready = <uint32_t*>map_alloc(<size_t>cap * 4)
    k.dead = <uint32_t*>map_alloc(<size_t>cap * 4)
    k.queue_first[0] = k.queue_first[1] = k.queue_last[0] = k.queue_last[1] = NONE
    k.scratch = <uint8_t*>map_alloc(SCRATCH)
    k.pongs = <uint8_t*>map_alloc(SCRATCH)
    if k.epfd < 0 or k.ready == NULL or k.dead == NULL or k.scratch == NULL or k.pongs == NULL:
        return -1
    if table_init(&k.table, cap, k.now) < 0 or rooms_init(&k.rooms, rooms, seed) < 0:
        return -1
    return registry_init(&k.registry, seed, k.now) or peers_init(&k.peers, cap, seed)


cdef void core_free(Core* k) noexcept nogil:
    cdef uint32_t slot
    cdef uint64_t cause = 0
    for slot in range(k.table.high):
        if k.table.conns[slot].kind != 0:
            core_kill(k, slot, &cause)
    core_reap(k)
    events_clear(k)
    mem_free(k.events.list, k.events.cap * sizeof(Event))
    mem_free(k.events.arena, k.events.arena_cap)
    memset(&k.events, 0, sizeof(Events))
    rooms_free(&k.rooms)
    registry_free(&k.registry)
    peers_free(&k.peers)
    map_free(k.scratch, SCRATCH)
    map_free(k.pongs, SCRATCH)
    map_free(k.ready, <size_t>k.table.cap * 4)
    map_free(k.dead, <size_t>k.table.cap * 4)
    table_free(&k.table)
    if k.epfd >= 0:
        close(k.epfd)
        k.epfd = -1
    # Whoever still holds an id or a name finds nothing, and nothing is left to do.
    k.queue_first[0] = k.queue_first[1] = k.queue_last[0] = k.queue_last[1] = NONE
    k.ready_n = k.dead_n = 0
    k.ready = k.dead = NULL
    k.scratch = NULL


cdef void core_kill(Core* k, uint32_t slot, uint64_t* cause) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    if c.kind == KIND_DEAD:
        return
    core_leave(k, c, slot)
    c.kind = KIND_DEAD
    cause[0] += 1
    k.dead[k.dead_n] = slot
    k.dead_n += 1


cdef void core_let_go(Core* k, uint32_t slot) noexcept nogil:
    k.table.conns[slot].flags |= FLAG_KEEP_FD
    core_kill(k, slot, &k.count.handed_over)


cdef uint32_t core_reap(Core* k) noexcept nogil:
    cdef uint32_t i, n = k.dead_n
    cdef Conn* c
    cdef linger hard
    hard.l_onoff = 1
    hard.l_linger = 0
    for i in range(n):
        c = &k.table.conns[k.dead[i]]
        # In this order: a duplicate of the descriptor elsewhere would keep ghost events, and hide the end from the
        # peer.
        epoll_ctl(k.epfd, EPOLL_CTL_DEL, c.fd, NULL)
        if not c.flags & FLAG_KEEP_FD:
            if c.flags & FLAG_RESET:
                setsockopt(c.fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard))
            else:
                shutdown(c.fd, SHUT_RDWR)
            close(c.fd)
        c.flags &= ~FLAG_READY
        if c.ident != NONE:
            registry_remove(&k.registry, c.ident)
        if c.peer != NONE:
            peers_leave(&k.peers, c.peer)
        conn_give(&k.table, k.dead[i])
    k.dead_n = 0
    return n


cdef void core_ready(Core* k, uint32_t slot) noexcept nogil:
    k.table.conns[slot].flags |= FLAG_READY
    if k.ready[slot] != 0:
        return
    k.ready[slot] = NONE
    if k.ready_n == 0:
        k.ready_first = slot
    else:
        k.ready[k.ready_last] = slot + 1
    k.ready_last = slot
    k.ready_n += 1


cdef uint32_t core_ready_take(Core* k) noexcept nogil:
    cdef uint32_t slot
    while k.ready_n > 0:
        slot = k.ready_first
        k.ready_first = k.ready[slot] - 1
        k.ready[slot] = 0
        k.ready_n -= 1
        if k.table.conns[slot].flags & FLAG_READY:
            k.table.conns[slot].flags &= ~FLAG_READY
            return slot
    return NONE


cdef void core_close(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    core_leave(k, c, slot)
    c.kind = KIND_CLOSING
    timer_set(&k.table, slot, k.now, k.opt.close_ms)
    core_ready(k, slot)


cdef int core_join(Core* k, Room* room, Conn* c, uint32_t slot) noexcept nogil:
    if members_add(room, slot) < 0:
        return -1
    c.room = room.index
    c.flags |= FLAG_MEMBER
    k.viewers[c.enc] += 1
    room_job(&k.rooms, room)
    return 0


cdef void core_leave(Core* k, Conn* c, uint32_t slot) noexcept nogil:
    if c.flags & FLAG_MEMBER:
        c.flags &= ~FLAG_MEMBER
        k.viewers[c.enc] -= 1
        members_remove(core_room(k, c), slot)
        room_job(&k.rooms, core_room(k, c))
        c.room = NONE           # which may be closed now, and its index another's


cdef uint32_t core_random(Core* k, uint32_t below) noexcept nogil:
    k.random ^= k.random << 13
    k.random ^= k.random >> 7
    k.random ^= k.random << 17
    return <uint32_t>((k.random >> 32) % below) if below else 0


cdef Event* event_add(Core* k, int kind, uint64_t id) noexcept nogil:
    cdef Events* v = &k.events
    cdef uint32_t cap
    cdef void* p
    if v.n == v.cap:
        cap = v.cap * 2 if v.cap else 64
        p = mem_grow(v.list, v.cap * sizeof(Event), cap * sizeof(Event))
        if p == NULL:
            return NULL
        v.list = <Event*>p
        v.cap = cap
    cdef Event* e = &v.list[v.n]
    v.n += 1
    memset(e, 0, sizeof(Event))
    e.kind = <uint8_t>kind
    e.id = id
    e.at = v.arena_n
    return e


cdef int event_bytes(Core* k, Event* e, const uint8_t* p, size_t n) noexcept nogil:
    if buf_add(&k.events.arena, &k.events.arena_n, &k.events.arena_cap, p, n) < 0:
        return -1
    e.len += <uint32_t>n
    return 0


cdef bint event_waits(Core* k, uint64_t id) noexcept nogil:
    cdef uint32_t i
    for i in range(k.events.n):
        if k.events.list[i].id == id:
            return True
    return False


cdef void events_clear(Core* k) noexcept nogil:
    cdef uint32_t i
    for i in range(k.events.n):
        mem_free(k.events.list[i].own, k.events.list[i].own_cap)
    k.events.n = 0
    k.events.arena_n = 0
    if k.events.arena_cap > 1 << 20:        # a burst's arena is given back
        mem_free(k.events.arena, k.events.arena_cap)
        k.events.arena = NULL
        k.events.arena_cap = 0


# ---- for tests ----

cdef class CoreProbe:
    """A core whose sockets have no descriptors."""
    cdef Core k

    def __cinit__(self, uint32_t cap):
        if core_init(&self.k, cap, 1, 1) < 0:
            core_free(&self.k)
            raise MemoryError

    def __dealloc__(self):
        core_free(&self.k)

    def open(self):
        return conn_open(&self.k.table, -1)

    def kill(self, uint32_t slot):
        cdef uint64_t cause = 0
        core_kill(&self.k, slot, &cause)
        core_reap(&self.k)

    def ready(self, uint32_t slot):
        core_ready(&self.k, slot)

    def take(self):
        cdef uint32_t slot = core_ready_take(&self.k)
        return None if slot == NONE else slot

    def waiting(self):
        return self.k.ready_n
