# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdint cimport int64_t, uint16_t, uint64_t

from edge._fast.conn cimport (FLAG_BLOCKED, FLAG_DRY, FLAG_HELD, FLAG_PINGED, FLAG_RESET, FLAG_SERVED, KIND_CLOSING,
                              KIND_DEAD, KIND_HEAD, KIND_PARKED, KIND_POLL, KIND_SSE, KIND_WS, Conn, conn_find,
                              table_clock, table_second, timer_due, timer_set)
from edge._fast.const cimport LANE_CHAT
from edge._fast.core cimport core_kill, core_ready, core_ready_take
from edge._fast.door cimport ACCEPTS, Listener, door_accept, door_read
from edge._fast.farewell cimport (farewell_behind, farewell_refuse, farewell_slow, farewell_step, farewell_token,
                                  farewell_warn)
from edge._fast.out cimport OUT_BEHIND, OUT_CLEAR, OUT_MORE, out_flush, out_unblocked
from edge._fast.poll cimport poll_empty
from edge._fast.registry cimport EXPIRY_DUE, EXPIRY_IDLE, EXPIRY_MS, Ident, expiry_due, expiry_set, expiry_stop
from edge._fast.stream cimport stream_heartbeat, stream_ping, stream_read
from edge._fast.sys cimport (EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP, NONE,
                             SHUT_RD, epoll_ctl, epoll_event, epoll_wait, listen, now_ns, read, shutdown, wall_ms)


cdef enum:
    TOKEN_FAR_MS = 0x7FFFFFFF0  # a year and more: no stream lives so long, and none waits for it


cdef void turn_writable(Core* k, uint32_t slot) noexcept nogil:
    cdef int r = out_unblocked(k, slot)
    if r == OUT_BEHIND:
        farewell_behind(k, slot)
    elif r == OUT_MORE or r == OUT_CLEAR:
        core_ready(k, slot)             # what it has said meanwhile has not been read


cdef void turn_event(Core* k, uint32_t slot, uint32_t events) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef bint ended = (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0
    if events & EPOLLOUT and c.flags & FLAG_BLOCKED:
        turn_writable(k, slot)
    if c.kind == KIND_HEAD:
        if ended or events & EPOLLIN:
            door_read(k, slot, ended)
    elif c.kind == KIND_WS or c.kind == KIND_SSE:
        if ended or events & EPOLLIN:
            stream_read(k, slot, ended)
    elif c.kind == KIND_CLOSING:
        farewell_step(k, slot)
    elif c.kind != KIND_DEAD and ended:
        core_kill(k, slot, &k.count.closed_gone)


cdef void turn_ready(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    if c.kind == KIND_CLOSING:
        farewell_step(k, slot)
        return
    if not c.flags & FLAG_BLOCKED and c.kind != KIND_PARKED and c.kind != KIND_DEAD:
        if out_flush(k, slot, LANE_CHAT) == OUT_MORE:
            core_ready(k, slot)
    if c.kind == KIND_HEAD:
        door_read(k, slot, False)
    elif (c.kind == KIND_WS or c.kind == KIND_SSE) and not c.flags & FLAG_DRY:
        stream_read(k, slot, True)      # an end that came meanwhile makes no edge of its own


cdef void due_stream(Core* k, uint32_t slot, Conn* c) noexcept nogil:
    cdef uint64_t idle_ms
    cdef uint64_t every_ms = k.opt.ping_ms if c.kind == KIND_WS else k.opt.heartbeat_ms
    if c.flags & FLAG_BLOCKED:
        idle_ms = table_clock(&k.table, k.now)
        idle_ms = (idle_ms - min(idle_ms, k.table.ios[c.io].blocked_ns)) // 1000000
        if idle_ms + 1 >= k.opt.blocked_ms:
            farewell_slow(k, slot, &k.count.closed_slow)
        else:
            timer_set(&k.table, slot, k.now, k.opt.blocked_ms - idle_ms)
        return
    if c.flags & FLAG_HELD:             # it may have answered: nobody has read it
        timer_set(&k.table, slot, k.now, every_ms)
        return
    if c.flags & FLAG_PINGED:
        c.flags |= FLAG_RESET
        core_kill(k, slot, &k.count.closed_dead)
        return
    idle_ms = <uint64_t>(<uint16_t>(table_second(&k.table, k.now) - c.seen)) * 1000
    if idle_ms + every_ms // 4 < every_ms:
        timer_set(&k.table, slot, k.now, every_ms - idle_ms - every_ms // 8)
        return
    timer_set(&k.table, slot, k.now, k.opt.dead_ms if c.kind == KIND_WS else every_ms)
    if c.kind == KIND_WS:
        stream_ping(k, slot)
    else:
        stream_heartbeat(k, slot)


cdef void turn_due(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    if c.kind == KIND_WS or c.kind == KIND_SSE:
        due_stream(k, slot, c)
    elif c.kind == KIND_POLL:
        poll_empty(k, slot)
    elif c.kind == KIND_PARKED:
        farewell_refuse(k, slot, 503, NULL, NULL, 2)
    elif c.kind == KIND_CLOSING:
        c.flags |= FLAG_RESET
        core_kill(k, slot, &k.count.ended)
    elif c.kind == KIND_HEAD:
        if c.flags & FLAG_SERVED:
            core_kill(k, slot, &k.count.closed_timeout)
        else:
            farewell_refuse(k, slot, 408, NULL, NULL, 0)


cdef inline int64_t token_left(Ident* i) noexcept nogil:
    # Of the token, in milliseconds, by the clock that its end is written in; less than 0 behind it.
    return <int64_t>i.expires * 1000 - <int64_t>wall_ms()


cdef inline uint64_t token_grace(Core* k, uint32_t slot) noexcept nogil:
    # Always the same for a slot, and neighbours far apart: a crowd that came with one token does not leave as one.
    cdef uint64_t spread = k.token_most_ms - k.token_least_ms
    return k.token_least_ms + ((<uint64_t>(<uint32_t>(slot * <uint32_t>2654435769)) * spread) >> 32)


cdef void turn_token(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Ident* i
    cdef int64_t left
    if k.token_most_ms == 0 or c.ident == NONE or (c.kind != KIND_WS and c.kind != KIND_SSE):
        return
    i = &k.registry.idents[c.ident]
    left = token_left(i) - <int64_t>k.token_warn_ms
    if i.expires == 0 or left > <int64_t>TOKEN_FAR_MS:
        expiry_stop(&k.registry, c.ident)
    else:
        expiry_set(&k.registry, c.ident, k.now, <uint64_t>max(left, <int64_t>0))


cdef void token_due(Core* k, uint32_t ident) noexcept nogil:
    cdef Ident* i = &k.registry.idents[ident]
    cdef Conn* c = &k.table.conns[i.slot]
    cdef int64_t left = token_left(i)
    if c.kind != KIND_WS and c.kind != KIND_SSE:
        return
    if left > (0 if i.warned else <int64_t>k.token_warn_ms) + EXPIRY_MS:
        i.warned = 0            # the clock was set back
        turn_token(k, i.slot)
    elif i.warned:
        farewell_token(k, i.slot)
    else:
        # Nobody is cut off unwarned: who is told late, since the process stood still, has the grace from then on.
        i.warned = 1
        left = max(left, <int64_t>0)
        expiry_set(&k.registry, ident, k.now, <uint64_t>left + token_grace(k, i.slot))
        farewell_warn(k, i.slot, <uint32_t>left)


cdef int turn_watch(Core* k, int fd, uint32_t special) noexcept nogil:
    cdef epoll_event e
    e.events = EPOLLIN
    e.data.u64 = special
    return epoll_ctl(k.epfd, EPOLL_CTL_ADD, fd, &e)


cdef void turn_pause(Core* k, Listener* one) noexcept nogil:
    # Near the descriptor limit. Where others share the port, what waits in our queue becomes theirs (tcp_migrate_req).
    k.count.accept_paused += 1
    one.paused = 10
    epoll_ctl(k.epfd, EPOLL_CTL_DEL, one.fd, NULL)
    if k.opt.group:
        shutdown(one.fd, SHUT_RD)


cdef void turn_resume(Core* k, Door* d) noexcept nogil:
    cdef uint32_t i
    cdef Listener* one
    for i in range(d.listener_n):
        one = &d.listeners[i]
        if one.paused > 1:
            one.paused -= 1
        if one.paused != 1 or k.table.slots.free <= k.table.cap // 64:
            continue
        one.paused = 0
        if k.opt.group:
            listen(one.fd, 65535)
        turn_watch(k, one.fd, <uint32_t>SPECIAL + i)


cdef void turn_special(Core* k, Door* d, uint32_t which) noexcept nogil:
    cdef uint64_t expirations
    cdef uint32_t i = which - <uint32_t>SPECIAL
    if which == <uint32_t>SPECIAL_TIMER:
        read(d.timer_fd, &expirations, 8)
        turn_resume(k, d)
    elif i < d.listener_n and not d.listeners[i].paused:
        door_accept(k, d, &d.listeners[i])
        if k.table.slots.free == 0 or d.listeners[i].paused:
            turn_pause(k, &d.listeners[i])


cdef void turn(Core* k, Door* d, uint64_t until, int looks) noexcept nogil:
    cdef epoll_event found[EVENTS]
    cdef uint32_t slot, waiting, ident
    cdef bint special
    cdef int i, n, r, asked, left = looks * <int>EVENTS
    # Asked again while there is something: in a storm of joins, a turn of the loop for each would cost as much as the
    # join.
    d.accepts = 0
    while left > 0 and d.accepts < ACCEPTS and k.now < until:
        asked = min(left, <int>EVENTS)
        n = epoll_wait(k.epfd, found, asked, 0)
        special = False
        for i in range(n):
            if <uint32_t>found[i].data.u64 >= <uint32_t>SPECIAL:
                turn_special(k, d, <uint32_t>found[i].data.u64)
                special = True
                continue
            slot = conn_find(&k.table, found[i].data.u64)
            if slot != NONE:
                turn_event(k, slot, found[i].events)
        k.now = now_ns()
        if n < asked and not special:
            k.more = 0          # that was all
            break
        k.more = 1
        left -= n
    waiting = k.ready_n
    while waiting > 0:
        waiting -= 1
        slot = core_ready_take(k)
        if slot == NONE:
            break
        turn_ready(k, slot)
        if waiting & 7 == 0 and now_ns() > until:
            break
    i = 0
    while True:
        slot = timer_due(&k.table, k.now)
        if slot == NONE:
            break
        turn_due(k, slot)
        i += 1
        if i & 15 == 0 and now_ns() > until:
            break
    i = 0
    while True:
        r = expiry_due(&k.registry, k.now, &ident)
        if r == EXPIRY_IDLE:
            break
        if r == EXPIRY_DUE:
            token_due(k, ident)
        i += 1
        if i & 15 == 0 and now_ns() > until:
            break
