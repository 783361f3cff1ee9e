# Sweeps: a broadcast is a walk over a room's members with a position, done in slices between other events. Must before
# chat; rooms of a lane take turns; one sweep for each room and lane, which brings every socket it visits up to the
# head, and goes round again if the head has moved meanwhile. A socket that is blocked is passed over: EPOLLOUT brings
# it up.
from libc.stdint cimport uint32_t, uint64_t

from edge._fast.core cimport Core
from edge._fast.room cimport Room

cdef enum:
    TURN = 32                   # sockets that a room may visit before the next one of its lane

cdef void fanout_begin(Core* k, Room* room, int lane) noexcept nogil       # after an append
cdef bint fanout_pending(Core* k) noexcept nogil
cdef void fanout_slice(Core* k, uint64_t until_ns) noexcept nogil
cdef void fanout_forget(Core* k, Room* room) noexcept nogil                # takes a room out of the queues
