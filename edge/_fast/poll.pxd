# The answer to a long poll: what the cursors have not seen, as one JSON document, and the connection a front door
# again.
from libc.stdint cimport uint32_t

from edge._fast.core cimport Core

cdef int poll_answer(Core* k, uint32_t slot) noexcept nogil    # 1 answered, 0 there is nothing to say, -1 it was killed
cdef int poll_empty(Core* k, uint32_t slot) noexcept nogil     # 204: the wait is over
