# The connection table: one Conn of 64 bytes for each socket, keyed by slot, in memory that is touched only as slots are
# used. A Conn holds no pointer, only numbers and indices, so that the table can be read by another process. What few
# sockets need hangs off it by index: Io while something is half read or half written, Ident while the viewer has a
# name. The table owns the descriptors. An id is (generation << 32 | slot): a slot that was given away makes old ids
# worthless.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from edge._fast.frame cimport Frame
from edge._fast.sse cimport Vector
from edge._fast.sys cimport Slots
from edge._fast.ws cimport WsState

cdef enum:                      # kinds
    KIND_FREE = 0
    KIND_HEAD = 1               # no request yet
    KIND_PARKED = 2             # a stream's request that waits for the program above to admit or refuse it
    KIND_WS = 3
    KIND_SSE = 4
    KIND_POLL = 5               # a long poll that waits for something to say
    KIND_CLOSING = 6            # our last word is written or queued; what comes in is thrown away
    KIND_DEAD = 7               # to be reaped at the end of this tick

cdef enum:                      # flags
    FLAG_BLOCKED = 1            # the kernel's buffer is full: EPOLLOUT will tell
    FLAG_HIDDEN = 2             # a hidden tab: no chat
    FLAG_MUST = 4               # asked for ?lanes=must: no chat, ever
    FLAG_PINGED = 8             # a ping is out, and nothing has been heard since
    FLAG_READY = 16             # in the ready queue
    FLAG_KEEP = 32              # HTTP keep-alive: after a poll's answer the socket is a front door again
    FLAG_KEEP_FD = 64           # reaped without closing the descriptor: somebody else has it now
    FLAG_PROXY = 128            # a PROXY header comes first; while it is a KIND_HEAD
    FLAG_DRY = 128              # it has been read to its end, and epoll tells of more; while it is a stream
    FLAG_MEMBER = 256           # in its room's bitmap
    FLAG_CLOSE_SENT = 512       # a WebSocket close frame has gone out
    FLAG_RESET = 1024           # close with a reset: its unsent bytes are not worth the kernel's memory
    FLAG_SERVED = 2048          # has had an answer on this connection
    FLAG_READ_STOP = 4096       # broke the protocol or said goodbye: nothing more is read
    FLAG_SKIP = 8192            # missed too much while blocked: a gap up to the tail comes next
    FLAG_SHUT = 16384           # our side is shut down
    FLAG_HELD = 32768           # the program above has enough of it for now: not read

ctypedef struct Conn:           # 64 bytes
    int32_t fd
    uint32_t gen
    uint64_t sent               # bytes that the kernel took
    uint64_t must               # cursors: the last batch of each lane that was given to the kernel, wholly or begun
    uint64_t chat
    uint32_t room
    uint32_t io
    uint32_t ident
    uint32_t peer               # in the address table; NONE when addresses are not counted
    uint32_t next               # neighbours in the timer's bucket
    uint32_t prev
    uint16_t bucket
    uint16_t flags
    uint8_t kind
    uint8_t enc
    uint16_t seen               # second (of the table's clock) of the last byte either way

ctypedef struct Join:           # a stream's request, from its head until it is answered
    Vector since
    int32_t last
    uint32_t room
    uint8_t has_since
    uint8_t stream
    uint8_t keep_alive
    uint8_t lanes_must
    int8_t protocol             # subprotocol's encoding to name in the answer, -1 for none
    uint8_t offer               # of permessage-deflate
    uint8_t enc
    uint8_t key[24]

cdef enum:
    PRE_MAX = 192               # the largest small piece written before a frame: an SSE id line, or a whole gap event

ctypedef struct Io:
    Frame* frame                # the one frame it is in the middle of; one reference
    uint32_t frame_at
    uint16_t pre_len            # what is left of a small piece that goes before that frame
    uint16_t pre_at
    uint8_t pre[PRE_MAX]
    uint8_t* out                # direct replies that wait
    uint32_t out_at
    uint32_t out_len
    uint32_t out_cap
    uint8_t* rx                 # a message whose end has not come
    uint32_t rx_len
    uint32_t rx_cap
    uint8_t control[128]        # a control frame's payload whose end has not come
    uint8_t control_len
    WsState ws
    Join* join                  # while parked
    uint64_t blocked_ns         # since when nothing could be written, by the table's clock
    uint64_t blocked_head       # the chat lane's head then
    uint32_t next               # blocked sockets, the longest first
    uint32_t prev

cdef enum:
    WHEEL_BUCKETS = 40000       # the longest deadline that the settings allow, an hour, is within one round
    WHEEL_MS = 100
    STALL_MS = 1000
    BUCKET_NONE = 0xFFFF

ctypedef struct Table:
    Conn* conns
    Io* ios
    Slots slots
    Slots io_slots
    uint32_t cap
    uint32_t high               # no slot at or above this was ever used
    uint32_t live
    uint32_t blocked_first
    uint32_t blocked_last
    uint32_t* wheel             # slot + 1, in memory that is touched as it turns
    uint64_t wheel_at           # the bucket time has come to, counted from the start
    uint64_t start_ns
    uint64_t woken_ns

cdef int table_init(Table* t, uint32_t cap, uint64_t now) noexcept nogil
cdef void table_free(Table* t) noexcept nogil
cdef uint32_t conn_open(Table* t, int fd) noexcept nogil            # NONE when full
cdef void conn_give(Table* t, uint32_t slot) noexcept nogil         # the slot is free, its generation ended
cdef Io* conn_io(Table* t, Conn* c) noexcept nogil                  # made on demand; NULL when there is none to be had
cdef void conn_io_tidy(Table* t, Conn* c) noexcept nogil            # gives back whatever has been drained
cdef void conn_io_drop(Table* t, Conn* c) noexcept nogil
cdef void conn_block(Table* t, uint32_t slot, Conn* c, Io* io, uint64_t now) noexcept nogil
cdef void conn_unblock(Table* t, Conn* c) noexcept nogil
cdef int buf_add(uint8_t** p, uint32_t* n, uint32_t* cap, const uint8_t* more, size_t m) noexcept nogil

cdef void timer_set(Table* t, uint32_t slot, uint64_t now, uint64_t in_ms) noexcept nogil
cdef void timer_stop(Table* t, uint32_t slot) noexcept nogil
cdef uint32_t timer_due(Table* t, uint64_t now) noexcept nogil      # a slot whose time has come, taken out; or NONE

cdef inline uint64_t conn_id(Conn* c, uint32_t slot) noexcept nogil:
    return (<uint64_t>c.gen << 32) | slot

cdef inline uint32_t conn_find(Table* t, uint64_t id) noexcept nogil:
    cdef uint32_t slot = <uint32_t>id
    cdef Conn* c = &t.conns[slot]
    if slot >= t.high or c.gen != <uint32_t>(id >> 32) or c.kind == KIND_FREE or c.kind == KIND_DEAD:
        return 0xFFFFFFFF
    return slot

cdef inline uint64_t table_clock(Table* t, uint64_t now) noexcept nogil:
    return now - t.start_ns

# Once a turn. While the process stands still nobody is silent or slow: at most a second of that counts for deadlines.
cdef inline void table_wake(Table* t, uint64_t now) noexcept nogil:
    if now - t.woken_ns > <uint64_t>STALL_MS * 1000000:
        t.start_ns += now - t.woken_ns - <uint64_t>STALL_MS * 1000000
    t.woken_ns = now

cdef inline bint timer_waits(Table* t, uint64_t now) noexcept nogil:    # something is due
    cdef uint64_t at = table_clock(t, now) // <uint64_t>(WHEEL_MS * 1000000)
    return t.wheel_at < at or t.wheel[t.wheel_at % <uint64_t>WHEEL_BUCKETS] != 0

cdef inline uint16_t table_second(Table* t, uint64_t now) noexcept nogil:
    return <uint16_t>((now - t.start_ns) // <uint64_t>1000000000)
