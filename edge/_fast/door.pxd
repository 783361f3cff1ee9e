# The front door: accepts, peeks at the request's head, answers stream requests, and leaves everything else unread for
# whoever takes the descriptor next. A head that is not whole costs nothing but its place in the table and a deadline.
from libc.stdint cimport uint8_t, uint32_t

from edge._fast.conn cimport Join
from edge._fast.core cimport Core
from edge._fast.room cimport Room

cdef enum:
    ACCEPTS = 32                # in a tick

ctypedef struct Listener:
    int fd
    uint8_t paused              # the table is nearly full

ctypedef struct Trusted:        # who may speak the PROXY protocol
    uint8_t addr[16]
    uint8_t bits

cdef enum:
    LISTENERS = 8
    TRUSTED = 64

ctypedef struct Door:
    Listener listeners[LISTENERS]
    Trusted trusted[TRUSTED]
    uint32_t listener_n
    uint32_t trusted_n
    uint32_t accepts            # in this turn
    int timer_fd

cdef int door_accept(Core* k, Door* d, Listener* l) noexcept nogil             # how many
cdef void door_read(Core* k, uint32_t slot, bint ended) noexcept nogil
# A request that somebody else has read; peer is the address that the connection counted by when it was handed over, or
# NULL.
cdef int door_adopt(Core* k, int fd, const uint8_t* head, size_t n, const uint8_t* peer) noexcept nogil
# The viewer's address as it counts by (peers_key), into 16 bytes, whether addresses are counted or not. False when it
# is not known: the balancer that is trusted has not said it, or the other end is not on the internet.
cdef bint door_address(Core* k, uint32_t slot, uint8_t* out) noexcept nogil
cdef void door_join(Core* k, uint32_t slot, Join* j, Room* room) noexcept nogil
