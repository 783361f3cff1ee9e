# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdint cimport uint64_t

from edge._fast.conn cimport (FLAG_KEEP, FLAG_MUST, FLAG_PROXY, KIND_PARKED, KIND_POLL,
                              KIND_SSE, KIND_WS, Conn, Io, conn_give, conn_id, conn_io, conn_open, timer_set)
from edge._fast.const cimport (ENC_DEFLATE, ENC_JSON, ENC_POLL, ENC_SSE, LANE_CHAT, LANE_MUST, STREAM_NONE, STREAM_POLL,
                               STREAM_SSE, STREAM_WS)
from edge._fast.core cimport (EVENT_HANDOFF, EVENT_OPEN, EVENT_TOKEN, EVENT_USER, Event, core_join, core_kill,
                              core_random, core_ready, event_add, event_bytes)
from edge._fast.farewell cimport farewell_refuse
from edge._fast.http cimport HttpHead, http_parse
from edge._fast.log cimport log_back
from edge._fast.out cimport OUT_DEAD, OUT_MORE, out_flush, out_reply, out_small
from edge._fast.peers cimport peers_enter, peers_key
from edge._fast.proxy cimport ProxyInfo, proxy_parse
from edge._fast.room cimport room_find
from edge._fast.sse cimport (HELLO_MAX, HELLO_MSGPACK_MAX, Vector, gap_write, gap_write_msgpack,
                             hello_write, hello_write_msgpack, sse_id, sse_open, vector_parse)
from edge._fast.sys cimport (AF_INET, AF_INET6, EAGAIN, ECONNABORTED, EINTR, EPOLL_CTL_ADD, EPOLLET, EPOLLIN, EPOLLOUT,
                             EPOLLRDHUP, MSG_DONTWAIT, MSG_PEEK, MSG_TRUNC, NONE, SOCK_CLOEXEC, SOCK_NONBLOCK, accept4,
                             close, epoll_ctl, epoll_event, errno, getpeername, mem_alloc, memcmp, memcpy, memset,
                             recv, sockaddr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t)
from edge._fast.ws cimport ws_offer, ws_subprotocol, ws_upgrade

cdef enum:
    PEEK = 8192                 # the largest head
    MUST_REPLAY = 10            # entries of the must lane that a fresh viewer gets, unless it asks for fewer comments


cdef bint addr_mapped(const sockaddr_storage* a, uint8_t* out) noexcept nogil:
    memset(out, 0, 16)
    if a.ss_family == AF_INET6:
        memcpy(out, (<sockaddr_in6*>a).sin6_addr.s6_addr, 16)
        return True
    if a.ss_family != AF_INET:
        return False
    out[10] = out[11] = 255
    memcpy(out + 12, &(<sockaddr_in*>a).sin_addr.s_addr, 4)
    return True


cdef bint addr_trusted(const uint8_t* addr, Trusted* t, uint32_t n) noexcept nogil:
    cdef uint32_t i
    cdef uint8_t whole, rest
    for i in range(n):
        whole = t[i].bits // 8
        rest = t[i].bits % 8
        if memcmp(addr, t[i].addr, whole) != 0:
            continue
        if rest == 0 or (addr[whole] ^ t[i].addr[whole]) >> (8 - rest) == 0:
            return True
    return False


cdef bint door_enter(Core* k, uint32_t slot, const uint8_t* addr) noexcept nogil:
    # Counts the viewer's address; False when it has too many connections already.
    cdef Conn* c = &k.table.conns[slot]
    c.peer = peers_enter(&k.peers, addr)
    if k.opt.per_ip and c.peer != NONE and k.peers.peers[c.peer].count > k.opt.per_ip:
        farewell_refuse(k, slot, 429, NULL, "too many connections from this address", 5)
        return False
    return True


cdef bint door_address(Core* k, uint32_t slot, uint8_t* out) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef sockaddr_storage a
    cdef uint8_t addr[16]
    cdef socklen_t size = sizeof(a)
    if c.peer != NONE:
        memcpy(out, k.peers.peers[c.peer].addr, 16)
        return True
    # Nobody counts: the kernel knows, unless it would name a balancer instead of the viewer.
    if k.opt.proxy or getpeername(c.fd, <sockaddr*>&a, &size) < 0 or not addr_mapped(&a, addr):
        return False
    peers_key(addr, out)
    return True


cdef uint32_t door_take(Core* k, int fd) noexcept nogil:
    cdef epoll_event e
    cdef uint32_t slot = conn_open(&k.table, fd)
    if slot == NONE:
        return NONE
    e.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    e.data.u64 = conn_id(&k.table.conns[slot], slot)
    if epoll_ctl(k.epfd, EPOLL_CTL_ADD, fd, &e) < 0:
        conn_give(&k.table, slot)
        return NONE
    timer_set(&k.table, slot, k.now, k.opt.head_ms)
    return slot


cdef int door_accept(Core* k, Door* d, Listener* l) noexcept nogil:
    cdef sockaddr_storage a
    cdef uint8_t addr[16]
    cdef socklen_t size
    cdef uint32_t slot
    cdef int fd, n = 0
    while d.accepts < ACCEPTS and k.table.slots.free > 0:
        size = sizeof(a)
        fd = accept4(l.fd, <sockaddr*>&a, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == ECONNABORTED or errno == EINTR:
                continue
            if errno != EAGAIN:         # no descriptors or no memory: leave it to the others for a while
                l.paused = 2
            return n
        n += 1
        d.accepts += 1
        k.count.accepted += 1
        slot = door_take(k, fd)
        if slot == NONE:
            k.count.closed_memory += 1
            close(fd)
            continue
        if not k.opt.proxy and not k.opt.per_ip:
            continue
        if addr_mapped(&a, addr):
            if k.opt.proxy and addr_trusted(addr, d.trusted, d.trusted_n):
                k.table.conns[slot].flags |= FLAG_PROXY
            else:
                door_enter(k, slot, addr)
    return n


cdef int door_proxy(Core* k, uint32_t slot, ssize_t n) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef ProxyInfo info
    cdef uint8_t addr[16]
    cdef int r = proxy_parse(k.scratch, <size_t>n, &info)
    if r < 0:
        core_kill(k, slot, &k.count.refused_proxy)
        return -1
    if r == 0:
        return 0
    recv(c.fd, k.scratch, <size_t>r, MSG_DONTWAIT)
    c.flags &= ~FLAG_PROXY
    if info.family == 6:
        return 1 if door_enter(k, slot, info.src) else -1
    if info.family == 4:
        memset(addr, 0, 10)
        addr[10] = addr[11] = 255
        memcpy(addr + 12, info.src, 4)
        return 1 if door_enter(k, slot, addr) else -1
    return 1


cdef void door_read(Core* k, uint32_t slot, bint ended) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef HttpHead head
    cdef ssize_t n
    cdef int r = 0
    if c.io != NONE and k.table.ios[c.io].out_at != k.table.ios[c.io].out_len:
        return                          # its last answer is still on the way out
    while True:
        n = recv(c.fd, k.scratch, PEEK, MSG_PEEK | MSG_DONTWAIT)
        if n <= 0:
            if n == 0 or errno != EAGAIN:
                core_kill(k, slot, &k.count.closed_gone)
            return
        if not c.flags & FLAG_PROXY:
            r = http_parse(k.scratch, <size_t>n, &head)
            break
        r = door_proxy(k, slot, n)
        if r < 0:
            return
        if r == 0:
            break
    if r == 0:
        if ended:                       # the rest will never come
            core_kill(k, slot, &k.count.closed_gone)
        return
    if r < 0:
        farewell_refuse(k, slot, -r, NULL, NULL, 0)
        return
    if head.stream == STREAM_NONE:
        door_hand_over(k, slot)
        return
    recv(c.fd, NULL, <size_t>r, MSG_TRUNC | MSG_DONTWAIT)
    door_stream(k, slot, &head, n > r or ended)     # an end that is there already makes no edge of its own
    if ended and (c.kind == KIND_PARKED or c.kind == KIND_POLL):
        core_kill(k, slot, &k.count.closed_gone)    # as when its end comes a moment later


cdef void door_hand_over(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Event* e = event_add(k, EVENT_HANDOFF, conn_id(c, slot))
    if e == NULL:
        core_kill(k, slot, &k.count.closed_memory)
        return
    e.code = c.fd
    if c.peer != NONE:
        event_bytes(k, e, k.peers.peers[c.peer].addr, 16)


cdef int door_adopt(Core* k, int fd, const uint8_t* text, size_t n, const uint8_t* peer) noexcept nogil:
    cdef HttpHead head
    cdef uint32_t slot = door_take(k, fd)
    cdef int r
    if slot == NONE:
        return -1
    k.count.adopted += 1
    if peer != NULL and not door_enter(k, slot, peer):
        return 0
    r = http_parse(text, n, &head)
    if r <= 0 or head.stream == STREAM_NONE or <size_t>r != n:      # who sends frames before the answer is no WebSocket
        farewell_refuse(k, slot, -r if r < 0 else 400, NULL, NULL, 0)
    else:
        door_stream(k, slot, &head, True)
    return 0


cdef void door_stream(Core* k, uint32_t slot, HttpHead* head, bint more) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Room* room
    cdef Join j
    memset(&j, 0, sizeof(j))
    j.stream = head.stream
    j.last = head.last
    j.keep_alive = head.keep_alive
    j.lanes_must = head.lanes_must
    j.protocol = -1
    j.enc = ENC_SSE if head.stream == STREAM_SSE else ENC_POLL
    if head.since.len:
        if vector_parse(head.since.ptr, head.since.len, &j.since) < 0:
            farewell_refuse(k, slot, 400, NULL, "since is not a position", 0)
            return
        j.has_since = 1
    if head.stream == STREAM_WS and not door_upgrade(k, slot, head, &j):
        return
    if k.opt.anonymous and head.token.ptr == NULL and head.user.ptr == NULL:
        room = room_find(&k.rooms, head.room.ptr, head.room.len)
        if room != NULL:
            door_join(k, slot, &j, room)
            if more:
                core_ready(k, slot)
            return
    door_park(k, slot, c, head, &j)


cdef bint door_upgrade(Core* k, uint32_t slot, HttpHead* head, Join* j) noexcept nogil:
    cdef int r
    j.enc = ENC_JSON
    memcpy(j.key, head.ws_key.ptr, 24)
    if head.ws_protocol.len:
        r = ws_subprotocol(head.ws_protocol.ptr, head.ws_protocol.len)
        if r < 0:
            farewell_refuse(k, slot, 400, NULL, "no subprotocol that is known here", 0)
            return False
        j.protocol = <signed char>r
        j.enc = <uint8_t>r
    if head.ws_ext.len:
        r = ws_offer(head.ws_ext.ptr, head.ws_ext.len)
        if r < 0:
            farewell_refuse(k, slot, 400, NULL, "malformed Sec-WebSocket-Extensions", 0)
            return False
        if r > 0 and j.enc == ENC_JSON:         # MessagePack is small as it is, and has zstd for more
            j.offer = <uint8_t>r
            j.enc = ENC_DEFLATE
    return True


cdef void door_park(Core* k, uint32_t slot, Conn* c, HttpHead* head, Join* j) noexcept nogil:
    cdef Io* io = conn_io(&k.table, c)
    cdef Event* e
    if io != NULL:
        io.join = <Join*>mem_alloc(sizeof(Join))
    if io == NULL or io.join == NULL:
        core_kill(k, slot, &k.count.closed_memory)
        return
    io.join[0] = j[0]
    e = event_add(k, EVENT_OPEN, conn_id(c, slot))
    if (e == NULL or event_bytes(k, e, head.room.ptr, head.room.len) < 0
            or event_bytes(k, e, head.token.ptr, head.token.len) < 0
            or event_bytes(k, e, head.user.ptr, head.user.len) < 0):
        core_kill(k, slot, &k.count.closed_memory)
        return
    e.token_len = head.token.len
    e.user_len = head.user.len
    e.code = (EVENT_TOKEN if head.token.ptr != NULL else 0) | (EVENT_USER if head.user.ptr != NULL else 0)
    e.op = j.stream
    c.kind = KIND_PARKED
    timer_set(&k.table, slot, k.now, k.opt.head_ms * 2)


cdef bint door_cursors(Core* k, Conn* c, Join* j, Room* room, uint64_t* gap) noexcept nogil:
    # Sets the cursors; whether the client's own position was taken up. gap: up to where the chat is only announced.
    cdef uint64_t last = k.opt.replay if j.last < 0 else <uint64_t>j.last
    cdef uint64_t low
    gap[0] = 0
    if j.has_since and j.since.incarnation == room.incarnation:
        c.must = j.since.must
        c.chat = j.since.chat
        if not j.lanes_must and c.chat < room.logs[LANE_CHAT].head:
            low = max(c.chat, room.logs[LANE_CHAT].tail - 1)
            low = log_back(&room.logs[LANE_CHAT], low, ~<uint64_t>0, k.opt.resume_bytes, c.enc)
            if low > c.chat:
                gap[0] = low
        return True
    c.must = log_back(&room.logs[LANE_MUST], 0, min(<uint64_t>MUST_REPLAY, last), k.opt.resume_bytes, c.enc)
    if j.lanes_must:
        c.chat = room.logs[LANE_CHAT].head
    else:
        c.chat = log_back(&room.logs[LANE_CHAT], 0, last, k.opt.resume_bytes, c.enc)
    return False


cdef size_t door_hello(Core* k, Conn* c, Join* j, Room* room, uint8_t* out) noexcept nogil:
    cdef uint8_t json[HELLO_MAX]
    cdef uint8_t pack[HELLO_MSGPACK_MAX]
    cdef uint64_t gap
    cdef Vector v
    cdef size_t n = 0
    cdef bint resumed = door_cursors(k, c, j, room, &gap)
    v.incarnation = room.incarnation
    v.must = c.must
    v.chat = c.chat
    if not k.opt.hello:
        return 0
    if c.enc == ENC_SSE:
        n = sse_id(out, &v)
    n += out_small(c.enc, out + n, json, hello_write(json, &v, room.viewers, resumed),
                   pack, hello_write_msgpack(pack, &v, room.viewers, resumed), "hello")
    if gap:
        k.count.gaps += 1
        k.count.skipped += gap - c.chat
        v.chat = gap
        if c.enc == ENC_SSE:
            n += sse_id(out + n, &v)
        n += out_small(c.enc, out + n, json, gap_write(json, 99, c.chat + 1, gap),
                       pack, gap_write_msgpack(pack, 99, c.chat + 1, gap), "gap")
        c.chat = gap
    return n


cdef void door_join(Core* k, uint32_t slot, Join* j, Room* room) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef uint8_t out[1024]
    cdef uint64_t gap
    cdef size_t n = 0
    c.enc = j.enc
    if j.lanes_must:
        c.flags |= FLAG_MUST
    if core_join(k, room, c, slot) < 0:
        core_kill(k, slot, &k.count.closed_memory)
        return
    if j.stream == STREAM_POLL:
        k.count.joined_poll += 1
        c.kind = KIND_POLL
        if j.keep_alive:
            c.flags |= FLAG_KEEP
        else:
            c.flags &= ~FLAG_KEEP
        door_cursors(k, c, j, room, &gap)
        timer_set(&k.table, slot, k.now, k.opt.poll_ms)
    elif j.stream == STREAM_SSE:
        k.count.joined_sse += 1
        c.kind = KIND_SSE
        n = sse_open(out, sizeof(out), k.opt.retry_ms + core_random(k, k.opt.retry_ms), k.origin)
        n += door_hello(k, c, j, room, out + n)
        timer_set(&k.table, slot, k.now, k.opt.heartbeat_ms - core_random(k, <uint32_t>k.opt.heartbeat_ms // 4))
    else:
        k.count.joined_ws += 1
        c.kind = KIND_WS
        n = ws_upgrade(out, sizeof(out), j.key, j.protocol, j.offer)
        n += door_hello(k, c, j, room, out + n)
        timer_set(&k.table, slot, k.now, k.opt.ping_ms - core_random(k, <uint32_t>k.opt.ping_ms // 4))
    if n and out_reply(k, slot, out, n) == OUT_DEAD:
        return
    if out_flush(k, slot, LANE_CHAT) == OUT_MORE:
        core_ready(k, slot)
