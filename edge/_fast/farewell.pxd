# The ways in which we end a connection: a refusal at the door, a WebSocket close, the end of a stream.
from libc.stdint cimport uint32_t, uint64_t

from edge._fast.core cimport Core

cdef void farewell_refuse(Core* k, uint32_t slot, int status, const char* error, const char* message,
                          uint32_t retry_after) noexcept nogil
# A close frame, or the end of the event stream or poll, and then the linger. cause is counted once.
cdef void farewell_close(Core* k, uint32_t slot, int code, const char* reason, uint64_t* cause) noexcept nogil
# 1013 with a hint to come back, where it can be written at once; else a reset, so that the kernel keeps nothing of it.
cdef void farewell_slow(Core* k, uint32_t slot, uint64_t* cause) noexcept nogil
# The same for a blocked socket that can be written again and lacks what the must lane has no more of: it is seen
# through.
cdef void farewell_behind(Core* k, uint32_t slot) noexcept nogil
# A stream is told that its token ends so soon. For whom too many replies wait it is dropped.
cdef void farewell_warn(Core* k, uint32_t slot, uint32_t in_ms) noexcept nogil
# The token of a stream has ended for good: 1008, or an event that says so and the end.
cdef void farewell_token(Core* k, uint32_t slot) noexcept nogil
# A socket that is closing: what waits goes out, our side is shut, what comes in is thrown away.
cdef void farewell_step(Core* k, uint32_t slot) noexcept nogil
