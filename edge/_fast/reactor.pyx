# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The reactor as Python sees it: one engine a process, turned by the program's own loop, and the one place that calls
# up. What the program above must hear of is told once a turn, in lists. It never calls up from within a turn.
import zlib

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from edge._fast.conn cimport (FLAG_BLOCKED, FLAG_HELD, FLAG_HIDDEN, FLAG_MUST, FLAG_SKIP, KIND_FREE, KIND_HEAD,
                              KIND_PARKED, KIND_SSE, KIND_WS, Conn, Join, conn_find, conn_id, table_wake, timer_waits)
from edge._fast.const cimport (ENC_COUNT, ENC_DEFLATE, ENC_JSON, ENC_MSGPACK, ENC_POLL, ENC_SSE, ENC_ZSTD, LANE_CHAT,
                               LANE_MUST)
from edge._fast.core cimport (EVENT_CLOSE, EVENT_HANDOFF, EVENT_MESSAGE, EVENT_OPEN, EVENT_TOKEN, EVENT_USER,
                              ORIGIN_MAX, Core, Event, core_free, core_init, core_kill, core_leave, core_let_go,
                              core_ready, core_reap, core_room, events_clear)
from edge._fast.door cimport LISTENERS, TRUSTED, Door, door_address, door_adopt, door_join
from edge._fast.fanout cimport fanout_begin, fanout_forget, fanout_pending, fanout_slice, fanout_tell
from edge._fast.farewell cimport farewell_close, farewell_refuse, farewell_slow
from edge._fast.frame import encode_ack, encode_message
from edge._fast.log cimport Batch, Log, log_append, log_back, log_put
from edge._fast.out cimport OUT_DEAD, out_gap, out_message, out_reply
from edge._fast.registry cimport Ident, User, expiry_waits, registry_add, registry_find, registry_renew
from edge._fast.room cimport (Room, members_next, room_drop, room_find, room_job, room_open, room_use, rooms_job,
                              rooms_shed)
from edge._fast.sys cimport EPOLL_CTL_DEL, NONE, close, epoll_ctl, mem_free, memcpy, memset, now_ns, timer_open
from edge._fast.turn cimport SPECIAL, SPECIAL_TIMER, turn, turn_token, turn_watch
from edge._fast.utf8 cimport utf8_done, utf8_feed
from edge._fast.ws cimport ws_head

cdef enum:
    ELSEWHERE_NS = 60000            # the loop itself takes 10 us between two turns; more, and somebody else has run
    HURRY = 16                      # what an HTTP request takes in turns, on a new connection, and some more
    LOOKS = 32                      # rooms that are looked at for each that may be reported: 2 ms in all, cold


OPTIONS = frozenset((
    "head_ms", "ping_ms", "dead_ms", "blocked_ms", "heartbeat_ms", "poll_ms", "keepalive_ms", "close_ms",
    "message_bytes", "inflated_bytes", "reply_bytes", "budget_bytes", "resume_bytes", "slice_us", "tick_us",
    "chat_missed", "replay", "retry_ms", "poll_again_ms", "per_ip", "must_ring", "chat_ring", "anonymous", "proxy",
    "hello", "group",
))


JSON, MSGPACK, ZSTD, DEFLATE, SSE, POLL = ENC_JSON, ENC_MSGPACK, ENC_ZSTD, ENC_DEFLATE, ENC_SSE, ENC_POLL
BINARY = frozenset((ENC_MSGPACK, ENC_ZSTD))


cdef class Engine:
    """One process's sockets. It belongs to one thread: that of the loop which watches fileno()."""

    cdef Core k
    cdef Door door
    cdef bint open
    cdef uint32_t hurry             # turns for which slices are short, because others on the loop have work too
    cdef uint64_t ended             # the last turn
    cdef object upcalls
    cdef dict gone                  # rooms that were closed with other figures reported than none: those figures

    def __cinit__(self, upcalls, uint32_t capacity, uint32_t rooms, uint64_t seed, dict options, trusted=(),
                  bytes origin=b"*"):
        self.door.timer_fd = -1
        if capacity < 1 or rooms < 1:
            raise ValueError("an engine needs room for a socket and a room")
        if core_init(&self.k, capacity, rooms, seed) < 0:
            core_free(&self.k)
            raise MemoryError("no memory for the connection table")
        self.open = True
        self.upcalls = upcalls
        self.gone = {}
        self.configure(options)
        if len(origin) >= ORIGIN_MAX:
            raise ValueError(f"an origin has at most {ORIGIN_MAX - 1} characters")
        memcpy(self.k.origin, <const char*>origin, len(origin))
        for addr, bits in trusted:
            if self.door.trusted_n == TRUSTED or len(addr) != 16 or not 0 <= bits <= 128:
                raise ValueError(f"at most {TRUSTED} trusted networks, each of 16 bytes")
            memcpy(self.door.trusted[self.door.trusted_n].addr, <const uint8_t*>addr, 16)
            self.door.trusted[self.door.trusted_n].bits = bits
            self.door.trusted_n += 1
        self.door.timer_fd = timer_open(100)
        if turn_watch(&self.k, self.door.timer_fd, SPECIAL_TIMER) < 0:
            raise OSError("no timer")

    def configure(self, dict options):
        unknown = options.keys() ^ OPTIONS
        if unknown:
            raise ValueError(f"options unknown or missing: {', '.join(sorted(unknown))}")
        opt = dict(options)
        opt["slice_ns"] = opt.pop("slice_us") * 1000
        opt["tick_ns"] = opt.pop("tick_us") * 1000
        self.k.opt = opt

    def tokens_end(self, uint64_t warn_ms, uint64_t least_ms, uint64_t most_ms) -> None:
        """Streams that join from now on end with their tokens: told so warn_ms before, closed from least_ms to most_ms
        after, each at a time of its own. Without it, or with most_ms 0, streams outlive their tokens."""
        if not least_ms <= most_ms <= 1 << 31 or warn_ms > 1 << 31:
            raise ValueError("a token's times are at most 24 days, and the least is no more than the most")
        self.k.token_warn_ms = warn_ms
        self.k.token_least_ms = least_ms
        self.k.token_most_ms = most_ms

    def fileno(self) -> int:
        return self.k.epfd

    def listen(self, int fd) -> None:
        """Accept on a listening, non-blocking socket, which stays the caller's."""
        cdef Door* d = &self.door
        if d.listener_n == LISTENERS:
            raise ValueError("too many listeners")
        d.listeners[d.listener_n].fd = fd
        d.listeners[d.listener_n].paused = 0
        if turn_watch(&self.k, fd, SPECIAL + d.listener_n) < 0:
            raise OSError("that descriptor cannot be watched")
        d.listener_n += 1

    def unlisten(self) -> None:
        """Stop accepting; what waits in the queue stays there."""
        cdef uint32_t i
        for i in range(self.door.listener_n):
            epoll_ctl(self.k.epfd, EPOLL_CTL_DEL, self.door.listeners[i].fd, NULL)
        self.door.listener_n = 0

    def close(self) -> None:
        if self.open:
            self.open = False
            self.unlisten()
            self.gone = None
            core_free(&self.k)
            close(self.door.timer_fd)

    def __dealloc__(self):
        self.close()

    # -- the turn

    def tick(self, int looks=1) -> bool:
        """A turn: events, then the program above, then a slice of the sweeps. True: there is more to do. Each look is
        for 64 events; without one what has come in waits for the next turn, unless the last look has left some.

        While nobody else on the loop has work it is as many of these as fit into its time: the loop's own part in a
        broadcast, which is the most of what is not the kernel's, is halved so."""
        cdef uint64_t began, now
        if not self.open:
            return False
        self.k.now = began = now = now_ns()
        table_wake(&self.k.table, began)
        if self.hurry:
            self.hurry -= 1
        if self.k.more:
            looks = max(looks, 1)
        if began - self.ended > ELSEWHERE_NS:
            self.hurry = HURRY
        while True:
            with nogil:
                turn(&self.k, &self.door, now + self.k.opt.tick_ns // 2, looks)
            if self.k.events.n:
                self.hurry = HURRY
                self.deliver()
                if not self.open:
                    return False
                if self.k.ready_n:      # what could be answered at once is written now
                    with nogil:
                        turn(&self.k, &self.door, self.k.now + self.k.opt.tick_ns // 2, 0)
            with nogil:
                self.sweep(began + self.k.opt.tick_ns)
                core_reap(&self.k)
                self.k.now = now = self.ended = now_ns()
            if self.hurry or not fanout_pending(&self.k) or now - began > self.k.opt.tick_ns * 3 // 4:
                break
        if self.k.rooms.held > self.k.opt.budget_bytes:
            self.shed()         # also what viewers who join had encoded for them
        if fanout_pending(&self.k) or expiry_waits(&self.k.registry, began):
            return True
        return self.k.ready_n > 0 or self.k.events.n > 0 or self.k.more or timer_waits(&self.k.table, began)

    cdef void sweep(self, uint64_t until) noexcept nogil:
        cdef uint64_t slice_ns = self.k.opt.slice_ns
        if not fanout_pending(&self.k):
            return
        if self.hurry:
            slice_ns //= 4
        self.k.now = now_ns()
        fanout_slice(&self.k, min(self.k.now + slice_ns, max(until, self.k.now + 100000)))

    cdef deliver(self):
        cdef Core* k = &self.k
        cdef Event* e
        cdef uint32_t i, slot
        cdef uint8_t* p
        cdef const char* reason
        opens, messages, handoffs, goodbyes, broken = [], [], [], [], set()
        for i in range(k.events.n):
            e = &k.events.list[i]
            slot = conn_find(&k.table, e.id)
            if slot == NONE:
                continue
            p = e.own if e.own != NULL else k.events.arena + e.at
            if e.kind == EVENT_OPEN:
                n = e.len - e.token_len - e.user_len
                opens.append((
                    e.id, p[:n],
                    p[n:n + e.token_len] if e.code & EVENT_TOKEN else None,
                    p[n + e.token_len:e.len] if e.code & EVENT_USER else None,
                ))
            elif e.kind == EVENT_MESSAGE and e.id in broken:
                pass            # what comes behind a message that does not inflate is nothing any more
            elif e.kind == EVENT_MESSAGE:
                payload = PyBytes_FromStringAndSize(<char*>p, e.len)
                code = 0
                if e.deflated:
                    code, payload = self.inflate(payload, e.op == 1)
                if code:
                    goodbyes.append((e.id, False, code))
                    broken.add(e.id)
                else:
                    messages.append((e.id, e.op, k.table.conns[slot].enc, payload))
            elif e.kind == EVENT_HANDOFF:
                if k.table.conns[slot].kind == KIND_HEAD:       # its deadline may have come in the same turn
                    handoffs.append((e.code, p[:e.len]))
                    core_let_go(k, slot)
            else:
                goodbyes.append((e.id, e.kind == EVENT_CLOSE, e.code))
        events_clear(k)
        core_reap(k)
        try:
            if handoffs:
                self.upcalls.handoffs(handoffs)
            if opens:
                self.upcalls.opens(opens)
            if messages:
                self.upcalls.messages(messages)
        finally:
            for id, client, code in goodbyes:
                slot = conn_find(&k.table, id)
                if slot != NONE:
                    reason = NULL
                    if code == 1009 and not client:
                        reason = b"the message is too large"
                    farewell_close(k, slot, code, reason,
                                   &k.count.closed_client if client else &k.count.closed_protocol)

    cdef inflate(self, bytes payload, bint text):
        # A fresh context for each message: nothing is kept for a socket between two of them.
        cdef uint32_t state = 0
        cdef uint64_t limit = self.k.opt.inflated_bytes
        cdef const uint8_t* p
        inflater = zlib.decompressobj(-15)
        try:
            data = inflater.decompress(payload + b"\x00\x00\xff\xff", limit + 1)
        except zlib.error:
            return 1007, b""
        if <uint64_t>PyBytes_GET_SIZE(data) > limit:
            return 1009, b""
        p = <const uint8_t*>PyBytes_AS_STRING(data)
        if text and not (utf8_feed(&state, p, PyBytes_GET_SIZE(data)) and utf8_done(state)):
            return 1007, b""
        return 0, data

    # -- rooms

    cdef Room* room(self, bytes name) except NULL:
        cdef Room* room = room_find(&self.k.rooms, name, len(name))
        if room == NULL:
            raise KeyError(name)
        return room

    def room_open(self, bytes name, uint64_t incarnation, uint64_t must, uint64_t chat) -> None:
        """A room is ready for viewers. must and chat are the numbers before the first batches to be appended."""
        cdef Room* room = room_open(&self.k.rooms, name, len(name), incarnation, must, chat, self.k.opt.must_ring,
                                    self.k.opt.chat_ring)
        if room == NULL:
            raise ValueError("the room is open, or the name is bad, or there are too many rooms")
        told = self.gone.pop(name, None)
        if told is not None:
            room.job.told_viewers, room.job.told_ms = told
            room_job(&self.k.rooms, room)

    def room_close(self, bytes name) -> bool:
        """Forget a room that nobody watches; False when somebody does."""
        cdef Room* room = self.room(name)
        if room.viewers:
            return False
        fanout_forget(&self.k, room)
        if room.job.told_viewers or room.job.told_ms:
            self.gone[name] = room.job.told_viewers, room.job.told_ms
        room_drop(&self.k.rooms, room)
        return True

    def room_info(self, bytes name) -> dict | None:
        cdef Room* room = room_find(&self.k.rooms, name, len(name))
        if room == NULL:
            return None
        return {
            "incarnation": room.incarnation, "viewers": room.viewers,
            "must": room.logs[LANE_MUST].head, "chat": room.logs[LANE_CHAT].head,
            "must_tail": room.logs[LANE_MUST].tail, "chat_tail": room.logs[LANE_CHAT].tail,
            "must_took_ns": room.sweeps[LANE_MUST].took_ns, "chat_took_ns": room.sweeps[LANE_CHAT].took_ns,
            "sweeping": bool(room.sweeps[LANE_MUST].queued or room.sweeps[LANE_CHAT].queued),
        }

    def rooms_unwatched(self) -> list:
        """The rooms that are open and have no viewer, the coldest first."""
        cdef uint32_t at = self.k.rooms.oldest
        cdef Room* room
        names = []
        while at != NONE:
            room = self.k.rooms.rooms[at]
            at = room.newer
            if room.viewers == 0:
                names.append(room.name[:room.name_len])
        return names

    def jobs(self, uint32_t most=512) -> list:
        """What the rooms cost here, as (name, viewers, sweep_ms), for those where that has changed since they were last
        in the list, or a chat sweep took more than 5 ms; at most so many, the others come first in the next call.

        sweep_ms is the longest round over the chat since the room was last looked at, in whole milliseconds; or that of
        the round under way, if it is longer already. A room that has closed is in the list once more, with zeros."""
        cdef uint32_t looks = <uint32_t>min(<uint64_t>self.k.rooms.job_n, <uint64_t>most * LOOKS)
        cdef uint64_t now = now_ns()
        cdef Room* room
        rows = []
        while self.gone and <uint32_t>len(rows) < most:
            rows.append((self.gone.popitem()[0], 0, 0))
        while <uint32_t>len(rows) < most:
            room = rooms_job(&self.k.rooms, now, &looks)
            if room == NULL:
                break
            rows.append((room.name[:room.name_len], room.viewers, room.job.told_ms))
        return rows

    def append(self, bytes name, int lane, uint64_t seq, uint32_t count, bytes canon) -> int:
        """The next batch of a lane: 0; 1 after a hole (viewers see a gap); 2 when it is an old one. Tick soon."""
        cdef Room* room = self.room(name)
        cdef int r
        if lane != LANE_MUST and lane != LANE_CHAT or not canon:
            raise ValueError("no such lane, or an empty batch")
        r = log_append(&room.logs[lane], seq, count, canon, <uint32_t>len(canon))
        if r < 0:
            raise MemoryError("no memory for a batch")
        if r == 2:
            return r
        if lane == LANE_MUST:
            self.k.count.appended_must += 1
        else:
            self.k.count.appended_chat += 1
        self.k.count.holes += r
        room_use(&self.k.rooms, room)
        self.k.now = now_ns()
        fanout_begin(&self.k, room, lane)
        if self.k.rooms.held > self.k.opt.budget_bytes:
            self.shed()
        return r

    def batches(self, bytes name, int lane) -> list:
        """What is kept of a lane, oldest first, as it came: numbers and bytes."""
        cdef Log* g = &self.room(name).logs[lane & 1]
        cdef uint64_t seq = g.tail
        cdef Batch* b
        found = []
        while seq <= g.head:
            b = &g.ring[seq & (g.cap - 1)]
            found.append((seq, b.canon[:b.len]))
            seq += 1
        return found

    def replace(self, bytes name, int lane, uint64_t seq, uint32_t count, bytes canon) -> bool:
        """Something in a batch is to be shown no more. False when the batch is not kept, or the new one is longer."""
        return log_put(&self.room(name).logs[lane & 1], seq, count, canon, <uint32_t>len(canon)) == 0

    cdef void shed(self) noexcept:
        # Past the budget: the coldest rooms' frames, then their rings; what still holds frames then are blocked
        # sockets. An eighth less than the budget: what comes next must not begin it all anew.
        cdef Core* k = &self.k
        cdef uint64_t target = k.opt.budget_bytes - k.opt.budget_bytes // 8
        if rooms_shed(&k.rooms, target, &k.count.shed_rooms, &k.count.shed_batches) == 0:
            return
        while k.rooms.held > target and k.table.blocked_first != NONE:
            farewell_slow(k, k.table.blocked_first, &k.count.closed_memory)
            core_reap(k)

    # -- sockets

    cdef uint32_t find(self, uint64_t id) noexcept:
        return conn_find(&self.k.table, id)

    def admit(self, uint64_t id, bytes room, bytes user=b"", bytes claims=b"", uint32_t expires=0) -> bool:
        """Let a parked request into its room. False: it has gone meanwhile."""
        cdef uint32_t slot = self.find(id)
        cdef Room* r = self.room(room)
        cdef Conn* c
        cdef Join j
        if slot == NONE or self.k.table.conns[slot].kind != KIND_PARKED:
            return False
        c = &self.k.table.conns[slot]
        self.k.now = now_ns()
        if user:
            c.ident = registry_add(&self.k.registry, slot, user, len(user), claims, len(claims), expires)
            if c.ident == NONE:
                farewell_refuse(&self.k, slot, 503, NULL, NULL, 2)
                return False
        j = self.k.table.ios[c.io].join[0]
        mem_free(self.k.table.ios[c.io].join, sizeof(Join))
        self.k.table.ios[c.io].join = NULL
        door_join(&self.k, slot, &j, r)
        turn_token(&self.k, slot)
        core_ready(&self.k, slot)
        return True

    def refuse(self, uint64_t id, int status, bytes error, bytes message, uint32_t retry_after=0) -> None:
        cdef uint32_t slot = self.find(id)
        if slot != NONE and self.k.table.conns[slot].kind == KIND_PARKED:
            self.k.now = now_ns()
            farewell_refuse(&self.k, slot, status, error, message, retry_after)

    def adopt(self, int fd, bytes head, bytes peer=b"") -> None:
        """Take over a connection whose request head somebody else has read. The descriptor is ours from now on. peer is
        what handoffs said of it: a detour by another's hands is no way around a limit."""
        cdef const uint8_t* addr = NULL
        if len(peer) == 16:
            addr = peer
        self.k.now = now_ns()
        if door_adopt(&self.k, fd, head, len(head), addr) < 0:
            close(fd)
        elif self.k.events.n:
            self.deliver()

    def reply(self, uint64_t id, dict message) -> bool:
        """A message to one viewer, in its encoding, before the next batch. False: it is not there."""
        cdef uint32_t slot = self.stream(id)
        return slot != NONE and self.say(slot, encode_message(self.k.table.conns[slot].enc, message))

    def ack(self, uint64_t id, str ref, str made, str status) -> bool:
        """The same, for what became of a comment."""
        cdef uint32_t slot = self.stream(id)
        return slot != NONE and self.say(slot, encode_ack(self.k.table.conns[slot].enc, ref, made, status))

    cdef bint say(self, uint32_t slot, bytes body):
        self.k.now = now_ns()
        return out_message(&self.k, slot, body, len(body)) != OUT_DEAD

    cdef uint32_t stream(self, uint64_t id) noexcept:
        cdef uint32_t slot = self.find(id)
        if slot != NONE and self.k.table.conns[slot].kind != KIND_WS and self.k.table.conns[slot].kind != KIND_SSE:
            return NONE
        return slot

    def tell(self, uint32_t after, uint32_t most, dict message) -> int:
        """A message to the next `most` streams from a slot on (0 is the first), whatever they watch. The slot to go on
        from, or -1 at the end; it may have told fewer, or nobody, where many slots are free or have no stream.

        Streams that join behind that slot meanwhile are not told. For whom too many replies wait it is dropped."""
        cdef const uint8_t* frames[ENC_COUNT]
        cdef size_t sizes[ENC_COUNT]
        cdef uint8_t head[16]
        cdef bytes frame
        cdef int64_t at
        cdef int enc, h
        if most == 0:
            raise ValueError("nobody would be told, for ever")
        memset(frames, 0, sizeof(frames))
        kept = []
        for enc in (ENC_JSON, ENC_MSGPACK, ENC_ZSTD, ENC_DEFLATE, ENC_SSE):
            if self.k.viewers[enc] == 0:
                continue
            frame = encode_message(enc, message)
            if enc != ENC_SSE:
                h = ws_head(head, 1 if enc == ENC_JSON or enc == ENC_DEFLATE else 2, False, len(frame))
                frame = head[:h] + frame
            kept.append(frame)          # the pointers are into these
            frames[enc] = <const uint8_t*>PyBytes_AS_STRING(frame)
            sizes[enc] = PyBytes_GET_SIZE(frame)
        self.k.now = now_ns()
        with nogil:
            at = fanout_tell(&self.k, after, most, frames, sizes)
        return at

    def hold(self, uint64_t id, bint on) -> None:
        """Stop reading from a socket, or go on: its peer is slowed down by TCP, and nothing of it is lost."""
        cdef uint32_t slot = self.find(id)
        if slot == NONE:
            return
        if on:
            self.k.table.conns[slot].flags |= FLAG_HELD
        elif self.k.table.conns[slot].flags & FLAG_HELD:
            self.k.table.conns[slot].flags &= ~FLAG_HELD
            core_ready(&self.k, slot)

    def send(self, uint64_t id, int op, bytes payload) -> bool:
        """A WebSocket message as it is."""
        cdef uint8_t head[16]
        cdef uint32_t slot = self.find(id)
        if slot == NONE or self.k.table.conns[slot].kind != KIND_WS:
            return False
        self.k.now = now_ns()
        cdef bytes frame = head[:ws_head(head, op, False, len(payload))] + payload
        return out_reply(&self.k, slot, frame, len(frame)) != OUT_DEAD

    def end(self, uint64_t id, int code, bytes reason) -> bool:
        """Close a stream with a code (an event stream just ends)."""
        cdef uint32_t slot = self.find(id)
        if slot == NONE:
            return False
        self.k.now = now_ns()
        farewell_close(&self.k, slot, code, reason, &self.k.count.closed_server)
        return True

    def end_all(self, int code, bytes reason) -> None:
        """Close every stream; what has not asked for anything yet is let go."""
        cdef uint32_t slot
        self.k.now = now_ns()
        for slot in range(self.k.table.high):
            if self.k.table.conns[slot].kind == KIND_HEAD:
                core_kill(&self.k, slot, &self.k.count.closed_server)
            elif self.k.table.conns[slot].kind != KIND_FREE:
                farewell_close(&self.k, slot, code, reason, &self.k.count.closed_server)

    def room_end(self, bytes name, int code, bytes reason) -> None:
        """Close every stream of a room, and the room."""
        cdef Room* room = self.room(name)
        cdef uint32_t slot = members_next(room, 0)
        self.k.now = now_ns()
        while slot != NONE:
            farewell_close(&self.k, slot, code, reason, &self.k.count.closed_server)
            core_leave(&self.k, &self.k.table.conns[slot], slot)
            slot = members_next(room, slot + 1)
        self.room_close(name)

    def renew(self, uint64_t id, bytes claims, uint32_t expires) -> bool:
        """Other claims for the user of this stream, and another end. False: it is anonymous, or on its way out or
        gone, or there is no memory."""
        cdef uint32_t slot = self.find(id)
        cdef Conn* c
        if slot == NONE:
            return False
        c = &self.k.table.conns[slot]
        if c.ident == NONE or (c.kind != KIND_WS and c.kind != KIND_SSE):
            return False
        if registry_renew(&self.k.registry, c.ident, claims, len(claims), expires) < 0:
            return False
        self.k.now = now_ns()
        turn_token(&self.k, slot)
        return True

    def visible(self, uint64_t id, bint on) -> bool:
        """A hidden tab gets no chat; when it comes back it gets the recent comments, or a gap and those."""
        cdef uint32_t slot = self.find(id)
        cdef Conn* c
        cdef Log* g
        cdef uint64_t low
        if slot == NONE or self.k.table.conns[slot].kind != KIND_WS:
            return False
        c = &self.k.table.conns[slot]
        if c.flags & FLAG_MUST:         # has no chat to begin with, and no gaps in it
            return True
        if not on:
            c.flags |= FLAG_HIDDEN
        elif c.flags & FLAG_HIDDEN:
            c.flags &= ~(FLAG_HIDDEN | FLAG_SKIP)
            self.k.now = now_ns()
            g = &core_room(&self.k, c).logs[LANE_CHAT]
            low = log_back(g, max(c.chat, g.tail - 1), self.k.opt.replay, self.k.opt.resume_bytes, c.enc)
            if c.chat < g.head and low > c.chat:
                out_gap(&self.k, slot, low)
            core_ready(&self.k, slot)
        return True

    def describe(self, uint64_t id) -> dict | None:
        cdef uint32_t slot = self.find(id)
        cdef Conn* c
        if slot == NONE:
            return None
        c = &self.k.table.conns[slot]
        return {
            "kind": c.kind, "enc": c.enc, "sent": c.sent, "must": c.must, "chat": c.chat,
            "blocked": bool(c.flags & FLAG_BLOCKED), "hidden": bool(c.flags & FLAG_HIDDEN),
            "room": core_room(&self.k, c).name[:core_room(&self.k, c).name_len] if c.room != NONE else None,
        }

    def room_of(self, uint64_t id) -> bytes | None:
        cdef uint32_t slot = self.find(id)
        if slot == NONE or self.k.table.conns[slot].room == NONE:
            return None
        cdef Room* room = core_room(&self.k, &self.k.table.conns[slot])
        return room.name[:room.name_len]

    def address(self, uint64_t id) -> bytes | None:
        """Where the viewer is, behind any balancer: 16 bytes, IPv4 as ::ffff:a.b.c.d, IPv6 only its /64."""
        cdef uint8_t addr[16]
        cdef uint32_t slot = self.find(id)
        return addr[:16] if slot != NONE and door_address(&self.k, slot, addr) else None

    def claims(self, uint64_t id) -> bytes | None:
        """What admit was given for this socket; None for an anonymous one."""
        cdef uint32_t slot = self.find(id)
        cdef Ident* i
        if slot == NONE or self.k.table.conns[slot].ident == NONE:
            return None
        i = &self.k.registry.idents[self.k.table.conns[slot].ident]
        return i.claims[:i.claims_len]

    def sockets_of(self, bytes user) -> list:
        """The ids of a user's sockets on this worker."""
        cdef User* u = registry_find(&self.k.registry, user, len(user))
        cdef uint32_t at
        ids = []
        if u != NULL:
            at = u.first
            while at != NONE:
                slot = self.k.registry.idents[at].slot
                ids.append(conn_id(&self.k.table.conns[<uint32_t>slot], slot))
                at = self.k.registry.idents[at].next
        return ids

    def descriptors(self, bytes name) -> list:
        """The viewers' descriptors of a room in the order in which a sweep visits them."""
        cdef Room* room = self.room(name)
        cdef uint32_t slot = members_next(room, 0)
        fds = []
        while slot != NONE:
            fds.append(self.k.table.conns[slot].fd)
            slot = members_next(room, slot + 1)
        return fds

    def counters(self) -> dict:
        """All that was counted, and what is there now. Reading stops nothing."""
        cdef dict all = self.k.count
        for i, name in enumerate(("json", "msgpack", "zstd", "deflate", "sse")):
            all[f"encoded_{name}"] = self.k.rooms.encoded[i]
        for i, name in enumerate(("json", "msgpack", "zstd", "deflate", "sse", "poll")):
            all[f"viewers_{name}"] = self.k.viewers[i]
        all["connections"] = self.k.table.live
        all["capacity"] = self.k.table.cap
        all["cold"] = self.k.table.io_slots.cap - self.k.table.io_slots.free
        all["rooms"] = self.k.rooms.names.count
        all["users"] = self.k.registry.names.count
        all["held_bytes"] = self.k.rooms.held
        return all
