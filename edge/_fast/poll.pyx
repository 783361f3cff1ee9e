# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from libc.stdint cimport uint8_t, uint64_t

from edge._fast.conn cimport (FLAG_HIDDEN, FLAG_KEEP, FLAG_MUST, FLAG_SERVED, KIND_HEAD, Conn, Io, buf_add, conn_io,
                              timer_set)
from edge._fast.const cimport ENC_JSON, LANE_CHAT, LANE_MUST
from edge._fast.core cimport core_close, core_kill, core_leave, core_ready, core_room
from edge._fast.frame cimport Frame, frame_data
from edge._fast.log cimport Log, log_back, log_frame
from edge._fast.registry cimport registry_remove
from edge._fast.room cimport Room
from edge._fast.sse cimport Vector, gap_write, u64_write, vector_write
from edge._fast.sys cimport NONE, mem_free

cdef enum:
    POLL_BYTES = 65536          # an answer ends with the message that passes this; the rest comes with the next poll

ctypedef struct Text:
    uint8_t* p
    uint32_t n
    uint32_t cap
    int failed


cdef void text_add(Text* t, const void* p, size_t n) noexcept nogil:
    if buf_add(&t.p, &t.n, &t.cap, <const uint8_t*>p, n) < 0:
        t.failed = 1


cdef void text_lit(Text* t, const char* s) noexcept nogil:
    cdef size_t n = 0
    while s[n] != 0:
        n += 1
    text_add(t, s, n)


cdef void text_u64(Text* t, uint64_t x) noexcept nogil:
    cdef uint8_t digits[24]
    text_add(t, digits, u64_write(digits, x))


cdef void text_vector(Text* t, Vector* v) noexcept nogil:
    cdef uint8_t out[80]
    text_add(t, out, vector_write(out, v))


cdef void poll_lane(Core* k, Text* t, Log* g, uint64_t* cursor) noexcept nogil:
    cdef uint8_t gap[96]
    cdef Frame* f
    cdef uint64_t to
    if cursor[0] >= g.head:
        return
    to = max(cursor[0], g.tail - 1)
    if g.lane == LANE_CHAT:             # every poll is a resume, and has a resume's bound
        to = log_back(g, to, ~<uint64_t>0, k.opt.resume_bytes, ENC_JSON)
    if to > cursor[0]:
        if t.n:
            text_lit(t, ",")
        text_add(t, gap, gap_write(gap, 109 if g.lane == LANE_MUST else 99, cursor[0] + 1, to))
        k.count.skipped += to - cursor[0]
        k.count.gaps += 1
        cursor[0] = to
    while cursor[0] < g.head and t.n < POLL_BYTES:
        f = log_frame(g, cursor[0] + 1, ENC_JSON)
        if f == NULL:
            return
        if t.n:
            text_lit(t, ",")
        text_add(t, frame_data(f) + f.body, f.len - f.body)
        cursor[0] += 1
        if g.lane == LANE_MUST:
            k.count.frames_must += 1
        else:
            k.count.frames_chat += 1


cdef int poll_finish(Core* k, uint32_t slot, Text* t) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Io* io = conn_io(&k.table, c)
    if t.failed or io == NULL or buf_add(&io.out, &io.out_len, &io.out_cap, t.p, t.n) < 0:
        mem_free(t.p, t.cap)
        core_kill(k, slot, &k.count.closed_memory)
        return -1
    mem_free(t.p, t.cap)
    core_leave(k, c, slot)
    if c.ident != NONE:         # the next request on this connection may be anybody's
        registry_remove(&k.registry, c.ident)
        c.ident = NONE
    c.kind = KIND_HEAD
    c.flags |= FLAG_SERVED
    c.flags &= ~(FLAG_HIDDEN | FLAG_MUST)
    if c.flags & FLAG_KEEP:
        timer_set(&k.table, slot, k.now, k.opt.keepalive_ms)
        core_ready(k, slot)
    else:
        core_close(k, slot)
    return 1


cdef void poll_head(Core* k, Conn* c, Text* t, const char* status) noexcept nogil:
    text_lit(t, "HTTP/1.1 ")
    text_lit(t, status)
    text_lit(t, "\r\nCache-Control: no-store\r\n")
    if k.origin[0] != 0:
        text_lit(t, "Access-Control-Allow-Origin: ")
        text_lit(t, k.origin)
        text_lit(t, "\r\n")
    text_lit(t, "Connection: ")
    text_lit(t, "keep-alive\r\n" if c.flags & FLAG_KEEP else "close\r\n")


cdef int poll_answer(Core* k, uint32_t slot) noexcept nogil:
    cdef Conn* c = &k.table.conns[slot]
    cdef Room* room = core_room(k, c)
    cdef Text body, t
    cdef Vector v
    cdef uint8_t since[80]
    cdef uint8_t again[24]
    cdef size_t n, a
    body.p = t.p = NULL
    body.n = body.cap = t.n = t.cap = 0
    body.failed = t.failed = 0
    v.incarnation = room.incarnation
    v.must = c.must
    v.chat = c.chat
    poll_lane(k, &body, &room.logs[LANE_MUST], &v.must)
    if not c.flags & FLAG_MUST:
        poll_lane(k, &body, &room.logs[LANE_CHAT], &v.chat)
    if body.n == 0 and not body.failed:
        return 0
    c.must = v.must
    c.chat = v.chat
    n = vector_write(since, &v)
    a = u64_write(again, k.opt.poll_again_ms)
    poll_head(k, c, &t, "200 OK")
    text_lit(&t, "Content-Type: application/json\r\nContent-Length: ")
    text_u64(&t, 10 + n + 12 + a + 6 + body.n + 2)
    text_lit(&t, "\r\n\r\n{\"since\":\"")
    text_add(&t, since, n)
    text_lit(&t, "\",\"poll_ms\":")
    text_add(&t, again, a)
    text_lit(&t, ",\"m\":[")
    text_add(&t, body.p, body.n)
    text_lit(&t, "]}")
    t.failed |= body.failed
    mem_free(body.p, body.cap)
    return poll_finish(k, slot, &t)


cdef int poll_empty(Core* k, uint32_t slot) noexcept nogil:
    # A 204 has no body, so the position goes into a header: a client that has seen nothing yet keeps its place.
    cdef Conn* c = &k.table.conns[slot]
    cdef Text t
    cdef Vector v
    t.p = NULL
    t.n = t.cap = 0
    t.failed = 0
    v.incarnation = core_room(k, c).incarnation
    v.must = c.must
    v.chat = c.chat
    poll_head(k, c, &t, "204 No Content")
    text_lit(&t, "Access-Control-Expose-Headers: Edge-Since\r\nEdge-Since: ")
    text_vector(&t, &v)
    text_lit(&t, "\r\n\r\n")
    k.count.polls_empty += 1
    return poll_finish(k, slot, &t)
