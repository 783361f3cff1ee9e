# Sweeps: a broadcast is a walk over a room's members with a position, done in slices between other events. Must before
# chat; rooms of a lane take turns; one sweep for each room and lane, which brings every socket it visits up to the
# head, and goes round again if the head has moved meanwhile. A socket that is blocked is passed over: EPOLLOUT brings
# it up.
# And what is said to everybody whatever they watch: a walk over the table, in slices of the caller's.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from edge._fast.core cimport Core
from edge._fast.room cimport Room

cdef enum:
    TURN = 32                   # sockets that a room may visit before the next one of its lane
    STRIDE = 16                 # slots that a slice of a walk may pass for each one that it may tell

cdef void fanout_begin(Core* k, Room* room, int lane) noexcept nogil       # after an append
cdef bint fanout_pending(Core* k) noexcept nogil
cdef void fanout_slice(Core* k, uint64_t until_ns) noexcept nogil
cdef void fanout_forget(Core* k, Room* room) noexcept nogil                # takes a room out of the queues
# Tells `most` streams at most from slot `after` on; where to go on, or -1. frames[enc] is what goes out as it stands,
# sizes[enc] its bytes; nobody is told who has a NULL there.
cdef int64_t fanout_tell(Core* k, uint32_t after, uint32_t most, const uint8_t** frames, size_t* sizes) noexcept nogil
