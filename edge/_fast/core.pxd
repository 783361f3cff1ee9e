# The whole engine of one process as one struct: the table, the rooms, the bounds, the counters, and who has more to do.
# It belongs to the thread of its loop. What happens to a socket is marked at once and done at the end of the tick:
# nothing is freed while something may still be looking at it.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from edge._fast.conn cimport Conn, Table
from edge._fast.peers cimport Peers
from edge._fast.registry cimport Registry
from edge._fast.room cimport Room, Rooms

ctypedef struct Options:
    uint64_t head_ms
    uint64_t ping_ms
    uint64_t dead_ms
    uint64_t blocked_ms
    uint64_t heartbeat_ms
    uint64_t poll_ms
    uint64_t keepalive_ms
    uint64_t close_ms
    uint64_t message_bytes
    uint64_t inflated_bytes
    uint64_t reply_bytes
    uint64_t budget_bytes
    uint64_t resume_bytes
    uint64_t slice_ns
    uint64_t tick_ns
    uint32_t chat_missed
    uint32_t replay
    uint32_t retry_ms
    uint32_t poll_again_ms
    uint32_t per_ip
    uint32_t must_ring
    uint32_t chat_ring
    uint8_t anonymous           # a stream without a token or a user is admitted here, without asking
    uint8_t proxy
    uint8_t hello               # a stream begins with its position; off for an echo server
    uint8_t group               # other listeners share the port: what waits at ours can go to them

cdef enum:
    ORIGIN_MAX = 256

ctypedef struct Counters:       # read by name: see Engine.counters
    uint64_t accepted
    uint64_t joined_ws
    uint64_t joined_sse
    uint64_t joined_poll
    uint64_t handed_over
    uint64_t adopted
    uint64_t refused_400
    uint64_t refused_401
    uint64_t refused_403
    uint64_t refused_404
    uint64_t refused_405
    uint64_t refused_408
    uint64_t refused_414
    uint64_t refused_426
    uint64_t refused_429
    uint64_t refused_431
    uint64_t refused_503
    uint64_t refused_other
    uint64_t refused_proxy
    uint64_t accept_paused
    uint64_t writes             # system calls that took something
    uint64_t bytes
    uint64_t short_writes
    uint64_t blocked
    uint64_t frames_must        # batches given to a socket
    uint64_t frames_chat
    uint64_t replies
    uint64_t skipped            # batches that a socket was told of by a gap instead
    uint64_t gaps
    uint64_t messages
    uint64_t message_bytes
    uint64_t pings
    uint64_t pongs
    uint64_t heartbeats
    uint64_t polls_empty
    uint64_t closed_client
    uint64_t closed_gone
    uint64_t closed_protocol
    uint64_t closed_server
    uint64_t closed_slow
    uint64_t closed_behind
    uint64_t closed_dead
    uint64_t closed_replies
    uint64_t closed_memory
    uint64_t closed_timeout
    uint64_t ended              # goodbyes that were seen through
    uint64_t appended_must
    uint64_t appended_chat
    uint64_t holes
    uint64_t shed_rooms
    uint64_t shed_batches
    uint64_t sweeps
    uint64_t slices
    uint64_t visits

ctypedef struct Event:          # something that the program above has to hear of, in the order in which it came
    uint64_t id
    uint8_t* own                # a payload with a block of its own, or NULL: then it is in the arena
    uint32_t own_cap
    uint32_t at
    uint32_t len
    uint32_t token_len          # EVENT_OPEN: room, token and user stand one behind the other
    uint32_t user_len
    int32_t code
    uint8_t kind
    uint8_t op
    uint8_t deflated

cdef enum:
    EVENT_OPEN = 1
    EVENT_MESSAGE = 2
    EVENT_CLOSE = 3             # the peer said goodbye
    EVENT_FAIL = 4              # the peer broke the protocol
    EVENT_HANDOFF = 5

cdef enum:                      # in the code of EVENT_OPEN: given, though it may be empty
    EVENT_TOKEN = 1
    EVENT_USER = 2

ctypedef struct Events:
    Event* list
    uint8_t* arena
    uint32_t n
    uint32_t cap
    uint32_t arena_n
    uint32_t arena_cap

ctypedef struct Core:
    Table table
    Rooms rooms
    Registry registry
    Peers peers
    Events events
    Options opt
    Counters count
    uint64_t now                # of this tick; refreshed where it matters
    uint64_t random
    # Slots that have more to do than one event allowed: a queue, ready[slot] its next slot + 1, NONE at its end, and 0
    # for whoever is not in it. A socket that goes leaves its place behind, which is passed over, or taken by the slot's
    # next one: nobody is searched for, and no slot stands there twice.
    uint32_t* ready
    uint32_t ready_first
    uint32_t ready_last
    uint32_t ready_n
    uint32_t* dead              # slots to be reaped
    uint32_t dead_n
    uint32_t queue_first[2]     # rooms with a sweep to run, for each lane
    uint32_t queue_last[2]
    uint32_t viewers[6]         # for each encoding
    uint8_t* scratch            # what a read goes into
    uint8_t* pongs              # the answers to the pings of one read
    uint32_t pongs_n
    char origin[ORIGIN_MAX]     # Access-Control-Allow-Origin
    uint64_t token_warn_ms      # before a token ends its viewer is told
    uint64_t token_least_ms     # and so long after it the stream ends, somewhere between the two
    uint64_t token_most_ms      # 0: streams outlive their tokens
    int epfd
    uint8_t more                # the last look has left events for the next turn

cdef enum:
    SCRATCH = 65536

cdef int core_init(Core* k, uint32_t cap, uint32_t rooms, uint64_t seed) noexcept nogil
cdef void core_free(Core* k) noexcept nogil
cdef void core_kill(Core* k, uint32_t slot, uint64_t* cause) noexcept nogil  # no more of it; reaped when the tick ends
cdef void core_let_go(Core* k, uint32_t slot) noexcept nogil                    # the same, but its descriptor lives on
cdef uint32_t core_reap(Core* k) noexcept nogil                                # how many
cdef void core_ready(Core* k, uint32_t slot) noexcept nogil                     # look at it again soon
cdef uint32_t core_ready_take(Core* k) noexcept nogil
cdef void core_close(Core* k, uint32_t slot) noexcept nogil  # our last word is queued: shut down after it, and linger
cdef int core_join(Core* k, Room* room, Conn* c, uint32_t slot) noexcept nogil
cdef void core_leave(Core* k, Conn* c, uint32_t slot) noexcept nogil
cdef uint32_t core_random(Core* k, uint32_t below) noexcept nogil

cdef inline Room* core_room(Core* k, Conn* c) noexcept nogil:
    return k.rooms.rooms[c.room]

cdef Event* event_add(Core* k, int kind, uint64_t id) noexcept nogil           # NULL when there is no memory
cdef int event_bytes(Core* k, Event* e, const uint8_t* p, size_t n) noexcept nogil
cdef bint event_waits(Core* k, uint64_t id) noexcept nogil      # one of this connection has not been handed on
cdef void events_clear(Core* k) noexcept nogil
