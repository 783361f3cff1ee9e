# A turn of the reactor: one look at the epoll, the sockets that have more to do, the deadlines that have come; within a
# budget.
from libc.stdint cimport uint32_t, uint64_t

from edge._fast.core cimport Core
from edge._fast.door cimport Door

cdef enum:
    EVENTS = 64                 # in a look at the epoll; a turn has one, none, or several
    SPECIAL = 0xFFFFFF00        # slots from here on are listeners, and the last one is the timer
    SPECIAL_TIMER = 0xFFFFFFFE

cdef void turn(Core* k, Door* d, uint64_t until, int looks) noexcept nogil
# A stream's token has a new end: it is looked at in time. For whoever is no stream nothing is done.
cdef void turn_token(Core* k, uint32_t slot) noexcept nogil
cdef int turn_watch(Core* k, int fd, uint32_t special) noexcept nogil
