# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.conn cimport FLAG_BLOCKED, FLAG_HIDDEN, FLAG_MUST, KIND_SSE, KIND_WS, Conn
from edge._fast.const cimport LANE_CHAT, LANE_MUST
from edge._fast.core cimport core_ready
from edge._fast.out cimport OUT_MORE, out_flush, out_newest, out_tell
from edge._fast.room cimport Sweep, members_next, room_job
from edge._fast.sys cimport NONE, now_ns


cdef void fanout_begin(Core* k, Room* room, int lane) noexcept nogil:
    cdef Sweep* s = &room.sweeps[lane]
    if s.queued:
        return          # it goes round again by itself, since the head has moved
    if room.viewers == 0:
        return
    s.queued = 1
    s.at = 0
    s.target = room.logs[lane].head
    s.began_ns = k.now
    queue_add(k, room, lane)
    if lane == LANE_CHAT:
        room_job(&k.rooms, room)


cdef void queue_add(Core* k, Room* room, int lane) noexcept nogil:
    room.sweeps[lane].next = NONE
    if k.queue_last[lane] == NONE:
        k.queue_first[lane] = room.index
    else:
        k.rooms.rooms[k.queue_last[lane]].sweeps[lane].next = room.index
    k.queue_last[lane] = room.index


cdef Room* queue_take(Core* k, int lane) noexcept nogil:
    cdef uint32_t index = k.queue_first[lane]
    if index == NONE:
        return NULL
    cdef Room* room = k.rooms.rooms[index]
    k.queue_first[lane] = room.sweeps[lane].next
    if k.queue_first[lane] == NONE:
        k.queue_last[lane] = NONE
    return room


cdef bint fanout_pending(Core* k) noexcept nogil:
    return k.queue_first[LANE_MUST] != NONE or k.queue_first[LANE_CHAT] != NONE


cdef void fanout_forget(Core* k, Room* room) noexcept nogil:
    cdef int lane
    cdef uint32_t i, n
    cdef Room* other
    for lane in range(2):
        if not room.sweeps[lane].queued:
            continue
        n = k.queue_last[lane]
        while True:                     # once round the queue, leaving it out
            other = queue_take(k, lane)
            if other == NULL:
                break
            i = other.index
            if other != room:
                queue_add(k, other, lane)
            if i == n:
                break
        room.sweeps[lane].queued = 0


cdef void visit(Core* k, Room* room, int lane, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef int result
    if c.flags & FLAG_BLOCKED:
        return
    if lane == LANE_MUST:
        if c.must >= room.logs[LANE_MUST].head:
            return
    elif c.flags & (FLAG_HIDDEN | FLAG_MUST) or c.chat >= room.logs[LANE_CHAT].head:
        return
    if c.io == NONE and c.kind == KIND_WS:
        result = out_newest(k, slot, room, lane)
    else:
        result = out_flush(k, slot, lane)
    if result == OUT_MORE:
        core_ready(k, slot)


cdef bint sweep_turn(Core* k, Room* room, int lane, uint64_t until_ns) noexcept nogil:
    # A turn of one room; whether its sweep is over. The clock is asked for skipped sockets too.
    cdef Sweep* s = &room.sweeps[lane]
    cdef uint32_t slot
    cdef int i
    for i in range(TURN):
        slot = members_next(room, s.at)
        if slot == NONE:
            k.count.sweeps += 1
            k.now = now_ns()    # the last visits may have encoded a frame
            s.took_ns = k.now - s.began_ns
            if lane == LANE_CHAT:
                room.job.longest_ns = max(room.job.longest_ns, s.took_ns)
            if s.target == room.logs[lane].head:
                return True
            s.at = 0
            s.target = room.logs[lane].head
            s.began_ns = k.now
            return False
        s.at = slot + 1
        k.count.visits += 1
        visit(k, room, lane, slot)
        if i & 7 == 7:
            k.now = now_ns()
            if k.now >= until_ns:
                return False
    return False


cdef void fanout_slice(Core* k, uint64_t until_ns) noexcept nogil:
    cdef Room* room
    cdef int lane
    k.count.slices += 1
    k.now = now_ns()
    while True:
        lane = LANE_MUST if k.queue_first[LANE_MUST] != NONE else LANE_CHAT
        room = queue_take(k, lane)
        if room == NULL:
            return
        if sweep_turn(k, room, lane, until_ns):
            room.sweeps[lane].queued = 0
        else:
            queue_add(k, room, lane)
        k.now = now_ns()
        if k.now >= until_ns:
            return


cdef int64_t fanout_tell(Core* k, uint32_t after, uint32_t most, const uint8_t** frames, size_t* sizes) noexcept nogil:
    cdef uint64_t slot = after
    cdef uint64_t end = min(<uint64_t>k.table.high, slot + <uint64_t>most * STRIDE)
    cdef Conn* c
    while slot < end and most > 0:
        c = &k.table.conns[slot]
        if (c.kind == KIND_WS or c.kind == KIND_SSE) and frames[c.enc] != NULL:
            if out_tell(k, <uint32_t>slot, frames[c.enc], sizes[c.enc]) == OUT_MORE:
                core_ready(k, <uint32_t>slot)
            most -= 1
        slot += 1
    return <int64_t>slot if slot < k.table.high else -1
