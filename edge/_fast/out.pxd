# The way out of one socket: what it is in the middle of, then its direct replies, then whatever its cursors have not
# seen. Nothing is queued for a socket but direct replies: what it still has to get is read from the logs when it can be
# written.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from edge._fast.core cimport Core
from edge._fast.room cimport Room

cdef enum:
    OUT_DEAD = -1               # it has been killed
    OUT_CLEAR = 0               # all caught up
    OUT_BLOCKED = 1             # the kernel takes no more now
    OUT_MORE = 2                # it would take more: come back
    OUT_BEHIND = 3              # it can be written, but what it needs of the must lane is gone: say goodbye

# lane says how far: LANE_MUST the must lane alone, LANE_CHAT all that the socket is to have.
cdef int out_flush(Core* k, uint32_t slot, int lane) noexcept nogil
# The same for the common case, a healthy WebSocket that lacks just the newest batch of the lane: one send, no plan.
cdef int out_newest(Core* k, uint32_t slot, Room* room, int lane) noexcept nogil
cdef int out_unblocked(Core* k, uint32_t slot) noexcept nogil      # EPOLLOUT came
# Bytes that go before the next batch, as they are: written now when nothing is before them, else kept, within the
# bound.
cdef int out_reply(Core* k, uint32_t slot, const uint8_t* p, size_t n) noexcept nogil
# The same for what nobody has asked for: where the bound would be passed it is dropped, and the socket stays.
cdef int out_tell(Core* k, uint32_t slot, const uint8_t* p, size_t n) noexcept nogil
# As out_reply for a message in the socket's own encoding, framed here, and written with others of this turn.
cdef int out_message(Core* k, uint32_t slot, const uint8_t* body, size_t n) noexcept nogil
# A small message that there are two forms of, framed into out (192 bytes at least); for SSE without its id line.
cdef size_t out_small(int enc, uint8_t* out, const uint8_t* json, size_t n, const uint8_t* pack, size_t m,
                      const char* event) noexcept nogil
# A WebSocket is told that its chat goes on behind `last`.
cdef int out_gap(Core* k, uint32_t slot, uint64_t last) noexcept nogil
