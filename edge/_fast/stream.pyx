# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdint cimport uint64_t

from edge._fast.conn cimport (FLAG_BLOCKED, FLAG_DRY, FLAG_HELD, FLAG_PINGED, FLAG_READ_STOP, KIND_WS, Conn, Io,
                              buf_add, conn_id, conn_io, conn_io_tidy, table_second)
from edge._fast.const cimport ENC_DEFLATE
from edge._fast.core cimport (EVENT_CLOSE, EVENT_FAIL, EVENT_MESSAGE, SCRATCH, Event, core_kill, core_ready, event_add,
                              event_bytes, event_waits)
from edge._fast.out cimport OUT_DEAD, out_reply
from edge._fast.sys cimport EAGAIN, EINTR, MSG_DONTWAIT, NONE, errno, memcpy, memset, recv
from edge._fast.ws cimport (WS_CLOSE, WS_MORE, WS_PING, WS_PONG, WsPiece, WsState, ws_close_code, ws_head, ws_idle,
                            ws_parse)


cdef enum:
    READ_LEAST = 4096           # of one socket in a turn: what a flood of the smallest messages may hold
    EVENTS_MOST = 256           # messages in a turn, but for those of the read that passes it


cdef void stream_read(Core* k, uint32_t slot, bint ended) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef ssize_t n
    cdef ssize_t most
    cdef bint again = True
    c.flags &= ~FLAG_DRY
    while again:
        if c.flags & (FLAG_READ_STOP | FLAG_BLOCKED | FLAG_HELD):
            # Who does not take our answers is not listened to either: TCP tells it so, and replies cannot pile up. It
            # is looked at again as soon as it can be written to.
            return
        if k.events.n >= EVENTS_MOST:
            core_ready(k, slot)         # the program above has enough for this turn
            return
        most = READ_LEAST               # or the rest of the message that it is in the middle of
        if c.io != NONE:
            most = <ssize_t>min(<uint64_t>SCRATCH, max(<uint64_t>READ_LEAST, k.table.ios[c.io].ws.left))
        n = recv(c.fd, k.scratch, most, MSG_DONTWAIT)
        if n <= 0:
            if n == 0 or (errno != EAGAIN and errno != EINTR):
                if event_waits(k, conn_id(c, slot)):
                    core_ready(k, slot)         # it is kept until what it said has been handed on
                else:
                    core_kill(k, slot, &k.count.closed_gone)
            elif errno == EAGAIN:
                c.flags |= FLAG_DRY
            return
        c.seen = table_second(&k.table, k.now)
        c.flags &= ~FLAG_PINGED
        if c.kind == KIND_WS and stream_bytes(k, slot, c, k.scratch, <size_t>n) < 0:
            return
        # A short read has emptied the socket, and the next byte makes a new edge. An end that is already there does
        # not.
        again = ended and n < most
        if n == most:
            core_ready(k, slot)
        elif not ended:
            c.flags |= FLAG_DRY


cdef int stream_bytes(Core* k, uint32_t slot, Conn* c, uint8_t* p, size_t n) noexcept nogil:
    cdef WsState fresh
    cdef WsState* s = &fresh
    cdef WsPiece piece
    cdef Io* io
    cdef size_t used
    cdef int r
    memset(&fresh, 0, sizeof(fresh))
    if c.io != NONE:
        s = &k.table.ios[c.io].ws
    k.pongs_n = 0
    while n > 0:
        r = ws_parse(s, p, n, &used, k.opt.message_bytes, c.enc == ENC_DEFLATE, &piece)
        if r < 0:
            return stream_stop(k, slot, c, EVENT_FAIL, -r)
        if r == WS_MORE:
            break
        p += used
        n -= used
        if s == &fresh and c.io != NONE:        # a reply that had to wait made an Io meanwhile
            k.table.ios[c.io].ws = fresh
            s = &k.table.ios[c.io].ws
        if piece.op >= WS_CLOSE:
            r = stream_control(k, slot, c, &piece)
        else:
            r = stream_data(k, slot, c, &piece)
        if r < 0:
            return -1
    if stream_pong(k, slot) < 0:
        return -1
    if s == &fresh and c.io != NONE:
        k.table.ios[c.io].ws = fresh
        s = &k.table.ios[c.io].ws
    if s == &fresh and not ws_idle(&fresh):
        io = conn_io(&k.table, c)
        if io == NULL:
            core_kill(k, slot, &k.count.closed_memory)
            return -1
        io.ws = fresh
    elif c.io != NONE:
        conn_io_tidy(&k.table, c)
    return 0


cdef int stream_pong(Core* k, uint32_t slot) noexcept nogil:
    # All pings of one read are answered in one write: a flood of them costs the flooder more than us.
    cdef uint32_t n = k.pongs_n
    k.pongs_n = 0
    return -1 if n and out_reply(k, slot, k.pongs, n) == OUT_DEAD else 0


cdef int stream_stop(Core* k, uint32_t slot, Conn* c, int kind, int code) noexcept nogil:
    # The goodbye waits until the messages before it have been handed on: their answers go out first.
    cdef Event* e
    if stream_pong(k, slot) < 0:
        return -1
    e = event_add(k, kind, conn_id(c, slot))
    c.flags |= FLAG_READ_STOP
    if e == NULL:
        core_kill(k, slot, &k.count.closed_memory)
    else:
        e.code = code
    return -1


cdef int stream_data(Core* k, uint32_t slot, Conn* c, WsPiece* piece) noexcept nogil:
    cdef Io* io = NULL
    cdef Event* e
    if not piece.last or not piece.first:
        io = conn_io(&k.table, c)
        if io == NULL or buf_add(&io.rx, &io.rx_len, &io.rx_cap, piece.ptr, piece.len) < 0:
            core_kill(k, slot, &k.count.closed_memory)
            return -1
        if not piece.last:
            return 0
    k.count.messages += 1
    e = event_add(k, EVENT_MESSAGE, conn_id(c, slot))
    if e == NULL or (io == NULL and event_bytes(k, e, piece.ptr, piece.len) < 0):
        core_kill(k, slot, &k.count.closed_memory)
        return -1
    e.op = piece.op
    e.deflated = piece.deflated
    if io != NULL:              # the block goes with the event
        e.own = io.rx
        e.own_cap = io.rx_cap
        e.len = io.rx_len
        io.rx = NULL
        io.rx_len = io.rx_cap = 0
    k.count.message_bytes += e.len
    return 0


cdef int stream_control(Core* k, uint32_t slot, Conn* c, WsPiece* piece) noexcept nogil:
    cdef Io* io
    cdef const uint8_t* p = piece.ptr
    cdef size_t n = piece.len
    cdef int h, code
    if not piece.first or not piece.last:
        io = conn_io(&k.table, c)
        if io == NULL:
            core_kill(k, slot, &k.count.closed_memory)
            return -1
        memcpy(io.control + io.control_len, piece.ptr, n)
        io.control_len += <uint8_t>n
        if not piece.last:
            return 0
        p = io.control
        n = io.control_len
        io.control_len = 0
    if piece.op == WS_PONG:
        k.count.pongs += 1
        return 0
    if piece.op == WS_PING:
        h = ws_head(k.pongs + k.pongs_n, WS_PONG, False, n)     # shorter than the ping by its mask: it fits
        memcpy(k.pongs + k.pongs_n + h, p, n)
        k.pongs_n += <uint32_t>(h + n)
        return 0
    code = ws_close_code(p, n)
    if code < 0:
        return stream_stop(k, slot, c, EVENT_FAIL, -code)
    return stream_stop(k, slot, c, EVENT_CLOSE, code)


cdef void stream_ping(Core* k, uint32_t slot) noexcept nogil:
    cdef uint8_t frame[2]
    frame[0] = 0x80 | WS_PING
    frame[1] = 0
    k.count.pings += 1
    k.table.conns[slot].flags |= FLAG_PINGED
    out_reply(k, slot, frame, 2)


cdef void stream_heartbeat(Core* k, uint32_t slot) noexcept nogil:
    k.count.heartbeats += 1
    out_reply(k, slot, <const uint8_t*>b":\n\n", 3)
