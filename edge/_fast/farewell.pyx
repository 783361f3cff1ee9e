# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdint cimport uint8_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from edge._fast.conn cimport (FLAG_BLOCKED, FLAG_CLOSE_SENT, FLAG_KEEP, FLAG_RESET, FLAG_SHUT, KIND_CLOSING, KIND_DEAD,
                              KIND_POLL, KIND_SSE, KIND_WS, Conn, Io, conn_unblock)
from edge._fast.const cimport ENC_SSE, LANE_MUST
from edge._fast.core cimport core_close, core_kill, core_random, core_ready, core_room
from edge._fast.http cimport http_refusal
from edge._fast.out cimport OUT_CLEAR, OUT_DEAD, OUT_MORE, out_flush, out_reply, out_small, out_tell
from edge._fast.poll cimport poll_empty
from edge._fast.sse cimport Vector, sse_id
from edge._fast.sys cimport EAGAIN, MSG_DONTWAIT, MSG_NOSIGNAL, NONE, SHUT_WR, errno, memcpy, recv, send, shutdown
from edge._fast.ws cimport ws_close


cdef uint64_t* refused(Core* k, int status) noexcept nogil:
    if status == 400:
        return &k.count.refused_400
    if status == 401:
        return &k.count.refused_401
    if status == 403:
        return &k.count.refused_403
    if status == 404:
        return &k.count.refused_404
    if status == 405:
        return &k.count.refused_405
    if status == 408:
        return &k.count.refused_408
    if status == 414:
        return &k.count.refused_414
    if status == 426:
        return &k.count.refused_426
    if status == 429:
        return &k.count.refused_429
    if status == 431:
        return &k.count.refused_431
    if status == 503:
        return &k.count.refused_503
    return &k.count.refused_other


cdef void farewell_refuse(Core* k, uint32_t slot, int status, const char* error, const char* message,
                          uint32_t retry_after) noexcept nogil:
    cdef uint8_t text[1024]
    cdef size_t n = http_refusal(text, sizeof(text), status, error, message, retry_after, k.origin)
    refused(k, status)[0] += 1
    if out_reply(k, slot, text, n) != OUT_DEAD:
        core_close(k, slot)


cdef void farewell_close(Core* k, uint32_t slot, int code, const char* reason, uint64_t* cause) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef uint8_t frame[128]
    if c.kind == KIND_DEAD or c.kind == KIND_CLOSING:
        return
    cause[0] += 1
    if c.kind == KIND_WS and not c.flags & FLAG_CLOSE_SENT:
        c.flags |= FLAG_CLOSE_SENT
        core_close(k, slot)         # first: what its lanes still have must not follow the close frame
        out_reply(k, slot, frame, ws_close(frame, code, reason))
        return
    if c.kind == KIND_POLL:
        c.flags &= ~FLAG_KEEP
        poll_empty(k, slot)
    if c.kind != KIND_DEAD:
        core_close(k, slot)


cdef size_t farewell_hint(Core* k, Conn* c, uint8_t* out) noexcept nogil:
    # When to come back, and the end, into 256 bytes; nothing for whoever has no stream.
    cdef uint8_t json[64]
    cdef uint8_t pack[64]
    cdef size_t n, i = 0
    cdef Vector v
    cdef uint32_t in_ms = 1000 + core_random(k, 4000)
    if c.kind != KIND_WS and c.kind != KIND_SSE:
        return 0
    n = <size_t>snprintf(<char*>json, sizeof(json), b"{\"t\":\"reconnect\",\"in_ms\":%u}", in_ms)
    memcpy(pack, b"\x82\xa1t\xa9reconnect\xa5in_ms\xcd", 20)
    pack[20] = <uint8_t>(in_ms >> 8)
    pack[21] = <uint8_t>in_ms
    if c.kind == KIND_SSE:
        v.incarnation = core_room(k, c).incarnation
        v.must = c.must
        v.chat = c.chat
        i = sse_id(out, &v)
    n = i + out_small(c.enc, out + i, json, n, pack, 22, "reconnect")
    return n + ws_close(out + n, 1013, b"too slow") if c.kind == KIND_WS else n


cdef void farewell_slow(Core* k, uint32_t slot, uint64_t* cause) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Io* io = &k.table.ios[c.io] if c.io != NONE else NULL
    cdef uint8_t out[256]
    cdef size_t n
    # In the middle of a frame nothing else can be said: the peer would take it for the rest of the frame.
    if io == NULL or (io.frame == NULL and io.pre_at == io.pre_len and io.out_at == io.out_len):
        n = farewell_hint(k, c, out)
        if n and send(c.fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL) == <ssize_t>n:
            cause[0] += 1
            conn_unblock(&k.table, c)   # else whoever sheds the longest-blocked would come to it again
            core_close(k, slot)         # a reset now could overtake it
            return
    c.flags |= FLAG_RESET
    core_kill(k, slot, cause)


cdef void farewell_behind(Core* k, uint32_t slot) noexcept nogil:
    # It has begun to read again: behind the frame that it is in, it can be told.
    cdef Conn* c = &k.table.conns[slot]
    cdef uint8_t out[256]
    c.flags |= FLAG_CLOSE_SENT
    if out_reply(k, slot, out, farewell_hint(k, c, out)) == OUT_DEAD:
        return
    conn_unblock(&k.table, c)
    k.count.closed_behind += 1
    core_close(k, slot)


cdef void farewell_warn(Core* k, uint32_t slot, uint32_t in_ms) noexcept nogil:
    cdef uint8_t out[192]
    cdef uint8_t json[64]
    cdef uint8_t pack[32]
    cdef int i
    cdef size_t n = <size_t>snprintf(<char*>json, sizeof(json),
                                     b"{\"t\":\"state\",\"auth\":\"ends\",\"in_ms\":%u}", in_ms)
    memcpy(pack, b"\x83\xa1t\xa5state\xa4auth\xa4ends\xa5in_ms\xce", 26)
    for i in range(4):
        pack[26 + i] = <uint8_t>(in_ms >> (24 - 8 * i))
    n = out_small(k.table.conns[slot].enc, out, json, n, pack, 30, "state")
    if out_tell(k, slot, out, n) == OUT_MORE:
        core_ready(k, slot)


cdef void farewell_token(Core* k, uint32_t slot) noexcept nogil:
    cdef uint8_t out[192]
    cdef const char* json = b"{\"t\":\"error\",\"error\":\"unauthorized\",\"message\":\"the token has ended\"}"
    if k.table.conns[slot].kind == KIND_SSE:
        if out_reply(k, slot, out, out_small(ENC_SSE, out, <const uint8_t*>json, strlen(json), NULL, 0,
                                             "error")) == OUT_DEAD:
            return
    farewell_close(k, slot, 1008, b"the token has ended", &k.count.closed_server)


cdef void farewell_step(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef ssize_t n
    cdef int _i
    if not c.flags & FLAG_BLOCKED and not c.flags & FLAG_SHUT:
        n = out_flush(k, slot, LANE_MUST)
        if n == OUT_DEAD:
            return
        if n == OUT_CLEAR:
            c.flags |= FLAG_SHUT
            shutdown(c.fd, SHUT_WR)
    for _i in range(16):
        n = recv(c.fd, k.scratch, 65536, MSG_DONTWAIT)
        if n > 0:
            continue
        # A peer that reset, or ended its side after we ended ours: over. One that still lets us write may read it.
        if (n < 0 and errno != EAGAIN) or (n == 0 and c.flags & FLAG_SHUT):
            core_kill(k, slot, &k.count.ended)
        return
    core_ready(k, slot)
