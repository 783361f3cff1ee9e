# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.conn cimport (FLAG_BLOCKED, FLAG_HIDDEN, FLAG_MUST, FLAG_PINGED, FLAG_SKIP, KIND_CLOSING, KIND_DEAD,
                              KIND_POLL, KIND_SSE, KIND_WS, PRE_MAX, Conn, Io, buf_add, conn_block, conn_io,
                              conn_io_tidy, conn_unblock, table_second, timer_set)
from edge._fast.const cimport (ENC_DEFLATE, ENC_JSON, ENC_MSGPACK, ENC_SSE, ENC_ZSTD, LANE_CHAT, LANE_MUST)
from edge._fast.core cimport core_kill, core_ready, core_room
from edge._fast.frame cimport Frame, frame_data, frame_ref, frame_unref
from edge._fast.log cimport Log, log_frame
from edge._fast.poll cimport poll_answer
from edge._fast.room cimport Room
from edge._fast.sse cimport Vector, gap_write, gap_write_msgpack, sse_id, zstd_raw
from edge._fast.sys cimport (EAGAIN, EINTR, ENOBUFS, ENOMEM, MSG_DONTWAIT, MSG_NOSIGNAL, NONE, errno, iovec,
                             memcpy, memmove, memset, msghdr, send, sendmsg)
from edge._fast.ws cimport ws_head

cdef enum:
    UNITS = 24                  # batches in one sendmsg
    VECTORS = 64

ctypedef struct Unit:           # a small piece, then a frame; either may be missing; once begun, it is finished
    Frame* frame
    uint64_t seq                # the lane's cursor when it has begun
    uint32_t skipped            # batches that it stands for, unseen
    uint16_t pre_len
    uint8_t lane
    uint8_t pre[PRE_MAX]

ctypedef struct Plan:
    iovec iov[VECTORS]
    uint64_t bytes
    uint32_t iovs
    uint32_t units
    uint8_t whole               # nothing was left out
    Unit unit[UNITS]


cdef inline void plan_add(Plan* p, void* at, size_t n) noexcept nogil:
    if n:
        p.iov[p.iovs].iov_base = at
        p.iov[p.iovs].iov_len = n
        p.iovs += 1
        p.bytes += n


cdef size_t out_small(int enc, uint8_t* out, const uint8_t* json, size_t n, const uint8_t* pack, size_t m,
                      const char* event) noexcept nogil:
    cdef uint8_t packed[PRE_MAX]
    cdef size_t h, i
    if enc == ENC_JSON or enc == ENC_DEFLATE:
        h = ws_head(out, 1, False, n)
        memcpy(out + h, json, n)
        return h + n
    if enc == ENC_MSGPACK:
        h = ws_head(out, 2, False, m)
        memcpy(out + h, pack, m)
        return h + m
    if enc == ENC_ZSTD:
        m = zstd_raw(packed, pack, m)
        h = ws_head(out, 2, False, m)
        memcpy(out + h, packed, m)
        return h + m
    h = 7
    memcpy(out, b"event: ", 7)
    i = 0
    while event[i] != 0:
        out[h] = <uint8_t>event[i]
        h += 1
        i += 1
    memcpy(out + h, b"\ndata: ", 7)
    memcpy(out + h + 7, json, n)
    memcpy(out + h + 7 + n, b"\n\n", 2)
    return h + n + 9


cdef void plan_gap(Plan* p, Conn* c, Vector* v, int lane, uint64_t first, uint64_t last) noexcept nogil:
    cdef uint8_t json[96]
    cdef uint8_t pack[96]
    cdef Unit* u = &p.unit[p.units]
    cdef uint8_t letter = 109 if lane == LANE_MUST else 99
    u.frame = NULL
    u.lane = <uint8_t>lane
    u.seq = last
    u.skipped = <uint32_t>(last - first + 1)
    u.pre_len = <uint16_t>sse_id(u.pre, v) if c.enc == ENC_SSE else 0
    u.pre_len += <uint16_t>out_small(c.enc, u.pre + u.pre_len, json, gap_write(json, letter, first, last),
                                     pack, gap_write_msgpack(pack, letter, first, last), "gap")
    plan_add(p, u.pre, u.pre_len)
    p.units += 1


cdef void plan_lane(Plan* p, Conn* c, Log* g, uint64_t cursor, Vector* v, uint64_t* position) noexcept nogil:
    cdef Unit* u
    cdef Frame* f
    cdef uint64_t to
    if cursor < g.head and p.units == UNITS:
        p.whole = 0
        return
    if cursor < g.head:
        to = cursor
        if cursor + 1 < g.tail:
            to = g.tail - 1
        if g.lane == LANE_CHAT and c.flags & FLAG_SKIP and to + 1 < g.head:
            to = g.head - 1
        if to > cursor:
            position[0] = to
            plan_gap(p, c, v, g.lane, cursor + 1, to)
            cursor = to
    while cursor < g.head:
        if p.units == UNITS or p.bytes > 262144:
            p.whole = 0
            return
        f = log_frame(g, cursor + 1, c.enc)
        if f == NULL:
            p.whole = 0
            return
        cursor += 1
        position[0] = cursor
        u = &p.unit[p.units]
        u.frame = f
        u.lane = g.lane
        u.seq = cursor
        u.skipped = 0
        u.pre_len = <uint16_t>sse_id(u.pre, v) if c.enc == ENC_SSE else 0
        plan_add(p, u.pre, u.pre_len)
        plan_add(p, frame_data(f), f.len)
        p.units += 1


cdef void plan_make(Core* k, Conn* c, Io* io, int lane, Plan* p) noexcept nogil:
    cdef Room* room
    cdef Vector v
    p.iovs = p.units = 0
    p.bytes = 0
    p.whole = 1
    if io != NULL:
        plan_add(p, io.pre + io.pre_at, io.pre_len - io.pre_at)
        if io.frame != NULL:
            plan_add(p, frame_data(io.frame) + io.frame_at, io.frame.len - io.frame_at)
        plan_add(p, io.out + io.out_at, io.out_len - io.out_at)
    if c.kind != KIND_WS and c.kind != KIND_SSE:
        return
    room = core_room(k, c)
    v.incarnation = room.incarnation
    v.must = c.must
    v.chat = c.chat
    plan_lane(p, c, &room.logs[LANE_MUST], c.must, &v, &v.must)
    if lane == LANE_CHAT and not c.flags & (FLAG_HIDDEN | FLAG_MUST) and p.whole:
        plan_lane(p, c, &room.logs[LANE_CHAT], c.chat, &v, &v.chat)


cdef void plan_begun(Core* k, Conn* c, Unit* u) noexcept nogil:
    if u.lane == LANE_MUST:
        c.must = u.seq
    else:
        c.chat = u.seq
        c.flags &= ~FLAG_SKIP
    if u.skipped:
        k.count.skipped += u.skipped
        k.count.gaps += 1
    elif u.lane == LANE_MUST:
        k.count.frames_must += 1
    else:
        k.count.frames_chat += 1


cdef size_t io_took(Core* k, Io* io, size_t n) noexcept nogil:
    # Of n bytes that the kernel took, those of the old rest; how many are left for the units.
    cdef size_t part = min(n, <size_t>(io.pre_len - io.pre_at))
    io.pre_at += <uint16_t>part
    n -= part
    if io.frame != NULL:
        part = min(n, <size_t>(io.frame.len - io.frame_at))
        io.frame_at += <uint32_t>part
        n -= part
        if io.frame_at == io.frame.len:
            frame_unref(io.frame)
            io.frame = NULL
    part = min(n, <size_t>(io.out_len - io.out_at))
    io.out_at += <uint32_t>part
    return n - part


cdef int plan_took(Core* k, uint32_t slot, Conn* c, Plan* p, size_t n) noexcept nogil:
    # The units' share of what the kernel took: cursors move over whatever has begun, the rest of the last one is kept.
    cdef uint32_t i
    cdef Unit* u
    cdef Io* io
    cdef size_t size
    for i in range(p.units):
        if n == 0:
            return 0
        u = &p.unit[i]
        size = u.pre_len + (u.frame.len if u.frame != NULL else 0)
        plan_begun(k, c, u)
        if n >= size:
            n -= size
            continue
        io = conn_io(&k.table, c)
        if io == NULL:
            return -1
        io.pre_at = io.pre_len = 0
        if n < u.pre_len:
            io.pre_len = <uint16_t>(u.pre_len - n)
            memcpy(io.pre, u.pre + n, io.pre_len)
            n = 0
        else:
            n -= u.pre_len
        if u.frame != NULL:
            io.frame = u.frame
            io.frame_at = <uint32_t>n
            frame_ref(u.frame)
        return 0
    return 0


cdef void out_block(Core* k, uint32_t slot, Conn* c) noexcept nogil:
    cdef Io* io = conn_io(&k.table, c)
    if io == NULL:
        core_kill(k, slot, &k.count.closed_memory)
        return
    if c.flags & FLAG_BLOCKED:
        return
    k.count.blocked += 1
    conn_block(&k.table, slot, c, io, k.now)
    c.flags &= ~FLAG_PINGED     # its deadline is that of a blocked writer now
    if c.kind == KIND_WS or c.kind == KIND_SSE:
        io.blocked_head = core_room(k, c).logs[LANE_CHAT].head
    if c.kind != KIND_CLOSING:
        timer_set(&k.table, slot, k.now, k.opt.blocked_ms)


cdef int out_failed(Core* k, uint32_t slot, Conn* c) noexcept nogil:
    # Too little memory passes like a full buffer: if no EPOLLOUT comes for it, the blocked writer's deadline does.
    if errno != EAGAIN and errno != EINTR and errno != ENOBUFS and errno != ENOMEM:
        core_kill(k, slot, &k.count.closed_gone)
        return OUT_DEAD
    out_block(k, slot, c)
    return OUT_DEAD if c.kind == KIND_DEAD else OUT_BLOCKED


cdef inline void out_count(Core* k, Conn* c, ssize_t n) noexcept nogil:
    k.count.writes += 1
    k.count.bytes += <uint64_t>n
    c.sent += <uint64_t>n
    c.seen = table_second(&k.table, k.now)


cdef int out_newest(Core* k, uint32_t slot, Room* room, int lane) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Log* g = &room.logs[lane]
    cdef Frame* f
    cdef Io* io
    cdef ssize_t n
    if (c.must if lane == LANE_MUST else c.chat) + 1 != g.head or g.tail > g.head:
        return out_flush(k, slot, lane)
    if lane == LANE_CHAT and c.must < room.logs[LANE_MUST].head:
        return out_flush(k, slot, lane)
    f = log_frame(g, g.head, c.enc)
    if f == NULL:
        return OUT_MORE
    n = send(c.fd, frame_data(f), f.len, MSG_DONTWAIT | MSG_NOSIGNAL)
    if n < 0:
        return out_failed(k, slot, c)
    out_count(k, c, n)
    if lane == LANE_MUST:
        c.must = g.head
        k.count.frames_must += 1
    else:
        c.chat = g.head
        c.flags &= ~FLAG_SKIP
        k.count.frames_chat += 1
    if <uint32_t>n == f.len:
        return OUT_CLEAR
    io = conn_io(&k.table, c)
    if io == NULL:
        core_kill(k, slot, &k.count.closed_memory)
        return OUT_DEAD
    io.frame = f
    io.frame_at = <uint32_t>n
    frame_ref(f)
    k.count.short_writes += 1
    out_block(k, slot, c)
    return OUT_BLOCKED


cdef int out_flush(Core* k, uint32_t slot, int lane) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Io* io
    cdef Plan p
    cdef msghdr m
    cdef ssize_t n
    cdef size_t left
    if c.kind == KIND_POLL:
        poll_answer(k, slot)
    if c.kind == KIND_DEAD:
        return OUT_DEAD
    io = &k.table.ios[c.io] if c.io != NONE else NULL
    plan_make(k, c, io, lane, &p)
    if p.iovs == 0:
        if io != NULL:
            conn_io_tidy(&k.table, c)
        return OUT_CLEAR if p.whole else OUT_MORE
    if p.iovs == 1:
        n = send(c.fd, p.iov[0].iov_base, p.iov[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL)
    else:
        memset(&m, 0, sizeof(m))
        m.msg_iov = p.iov
        m.msg_iovlen = p.iovs
        n = sendmsg(c.fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL)
    if n < 0:
        return out_failed(k, slot, c)
    out_count(k, c, n)
    left = <size_t>n
    if io != NULL:
        left = io_took(k, io, left)
    if plan_took(k, slot, c, &p, left) < 0:
        core_kill(k, slot, &k.count.closed_memory)
        return OUT_DEAD
    if <uint64_t>n < p.bytes:
        k.count.short_writes += 1
        out_block(k, slot, c)
        return OUT_BLOCKED
    if io != NULL:
        conn_io_tidy(&k.table, c)
    return OUT_CLEAR if p.whole else OUT_MORE


cdef int out_unblocked(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Room* room
    cdef Io* io
    if not c.flags & FLAG_BLOCKED:
        return OUT_CLEAR
    io = &k.table.ios[c.io]
    if c.kind == KIND_WS or c.kind == KIND_SSE:
        room = core_room(k, c)
        if c.must + 1 < room.logs[LANE_MUST].tail:
            return OUT_BEHIND
        if not c.flags & (FLAG_HIDDEN | FLAG_MUST) and room.logs[LANE_CHAT].head - io.blocked_head >= k.opt.chat_missed:
            c.flags |= FLAG_SKIP
    conn_unblock(&k.table, c)
    return out_flush(k, slot, LANE_CHAT)


cdef bint out_waits(Core* k, Conn* c) noexcept nogil:
    # Something is half written, or replies are kept: whatever comes has to go behind it.
    cdef Io* io
    if c.io == NONE:
        return False
    io = &k.table.ios[c.io]
    return io.frame != NULL or io.pre_at != io.pre_len or io.out_at != io.out_len


cdef inline bint out_full(Core* k, Conn* c, size_t n) noexcept nogil:
    # So many bytes more would pass the bound. It holds for what waits: what is alone is let in whole.
    cdef size_t waits = k.table.ios[c.io].out_len - k.table.ios[c.io].out_at if c.io != NONE else 0
    return waits > 0 and waits + n > k.opt.reply_bytes


cdef int out_keep(Core* k, uint32_t slot, Conn* c, const uint8_t* p, size_t n) noexcept nogil:
    cdef Io* io = conn_io(&k.table, c)
    cdef size_t waits
    if io == NULL:
        core_kill(k, slot, &k.count.closed_memory)
        return OUT_DEAD
    waits = io.out_len - io.out_at
    if out_full(k, c, n):
        core_kill(k, slot, &k.count.closed_replies)
        return OUT_DEAD
    if io.out_at > 0:
        io.out_len = <uint32_t>waits
        memmove(io.out, io.out + io.out_at, waits)
        io.out_at = 0
    if buf_add(&io.out, &io.out_len, &io.out_cap, p, n) < 0:
        core_kill(k, slot, &k.count.closed_memory)
        return OUT_DEAD
    return OUT_CLEAR


cdef int out_reply(Core* k, uint32_t slot, const uint8_t* p, size_t n) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef ssize_t took = 0
    k.count.replies += 1
    if c.flags & FLAG_BLOCKED:
        return OUT_DEAD if out_keep(k, slot, c, p, n) == OUT_DEAD else OUT_BLOCKED
    if out_waits(k, c):
        return OUT_DEAD if out_keep(k, slot, c, p, n) == OUT_DEAD else out_flush(k, slot, LANE_MUST)
    took = send(c.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL)
    if took < 0:
        if out_failed(k, slot, c) == OUT_DEAD:
            return OUT_DEAD
        took = 0
    else:
        out_count(k, c, took)
        if <size_t>took == n:
            return OUT_CLEAR
        k.count.short_writes += 1
    if out_keep(k, slot, c, p + took, n - took) == OUT_DEAD:
        return OUT_DEAD
    out_block(k, slot, c)
    return OUT_DEAD if c.kind == KIND_DEAD else OUT_BLOCKED


cdef int out_tell(Core* k, uint32_t slot, const uint8_t* p, size_t n) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    if out_full(k, c, n):
        if not c.flags & FLAG_BLOCKED and out_flush(k, slot, LANE_MUST) == OUT_DEAD:
            return OUT_DEAD
        if out_full(k, c, n):
            return OUT_BLOCKED
    return out_reply(k, slot, p, n)


cdef int out_message(Core* k, uint32_t slot, const uint8_t* body, size_t n) noexcept nogil:
    # What is said in one turn goes out in one write: a hundred acks of a hundred bytes make one segment, not a hundred.
    cdef Conn* c = &k.table.conns[slot]
    cdef Io* io
    cdef uint8_t head[16]
    cdef int h = 0
    if c.kind == KIND_WS:
        h = ws_head(head, 1 if c.enc == ENC_JSON or c.enc == ENC_DEFLATE else 2, False, n)
    if not c.flags & FLAG_BLOCKED and c.io != NONE:
        io = &k.table.ios[c.io]
        if io.out_len - io.out_at + h + n > k.opt.reply_bytes // 2 and out_flush(k, slot, LANE_MUST) == OUT_DEAD:
            return OUT_DEAD
    k.count.replies += 1
    if out_full(k, c, h + n):       # both parts or none
        core_kill(k, slot, &k.count.closed_replies)
        return OUT_DEAD
    if h and out_keep(k, slot, c, head, h) == OUT_DEAD:
        return OUT_DEAD
    io = conn_io(&k.table, c)
    if io == NULL or buf_add(&io.out, &io.out_len, &io.out_cap, body, n) < 0:
        core_kill(k, slot, &k.count.closed_memory)
        return OUT_DEAD
    if c.flags & FLAG_BLOCKED:
        return OUT_BLOCKED
    core_ready(k, slot)
    return OUT_CLEAR


cdef int out_gap(Core* k, uint32_t slot, uint64_t last) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef uint8_t json[96]
    cdef uint8_t pack[96]
    cdef uint8_t out[PRE_MAX]
    cdef uint64_t first = c.chat + 1
    k.count.gaps += 1
    k.count.skipped += last - c.chat
    c.chat = last
    return out_reply(k, slot, out, out_small(c.enc, out, json, gap_write(json, 99, first, last),
                                             pack, gap_write_msgpack(pack, 99, first, last), "gap"))


# ---- for tests ----

def small(int enc, bytes json, bytes pack, bytes event):
    """A small message as a viewer of that encoding gets it, without an id line."""
    cdef uint8_t out[PRE_MAX]
    return out[:out_small(enc, out, json, len(json), pack, len(pack), event)]
