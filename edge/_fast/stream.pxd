# What comes in on a joined socket: WebSocket frames become messages for the program above, pings are answered here.
from libc.stdint cimport uint8_t, uint32_t

from edge._fast.core cimport Core

cdef void stream_read(Core* k, uint32_t slot, bint ended) noexcept nogil       # ended: the peer has shut its side
cdef void stream_ping(Core* k, uint32_t slot) noexcept nogil
cdef void stream_heartbeat(Core* k, uint32_t slot) noexcept nogil
