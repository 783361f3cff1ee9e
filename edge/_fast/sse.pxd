# What the engine itself says to a client, beside the frames of a log: positions, the opening of an event stream and the
# ids in it, hello and gap in each encoding. Batches never pass through here.
# It owns nothing: every buffer is the caller's, who makes it as large as the sizes below. It never does I/O, never
# allocates, and ends nothing with NUL.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:                      # the most that each writer below writes
    U64_MAX = 20
    VECTOR_MAX = 65
    SSE_ID_MAX = 70
    SSE_OPEN_MAX = 185
    GAP_MAX = 71                # as JSON; as MessagePack GAP_MSGPACK_MAX
    GAP_MSGPACK_MAX = 59
    HELLO_MAX = 151             # as JSON; as MessagePack HELLO_MSGPACK_MAX
    HELLO_MSGPACK_MAX = 119
    ZSTD_RAW_EXTRA = 10         # beside the body

# Where a client is: the numbering, and the last position of each lane that it has; 0 is nothing yet.
ctypedef struct Vector:
    uint64_t incarnation
    uint64_t must
    uint64_t chat

# 0, or -1 for anything but exactly `i3.m12.c345`: decimal, at most 2**64 - 1, no leading zeros. v is written only if
# all of it is good. p may be NULL when n is 0.
cdef int vector_parse(const uint8_t* p, size_t n, Vector* v) noexcept nogil
cdef size_t vector_write(uint8_t* out, const Vector* v) noexcept nogil
cdef size_t u64_write(uint8_t* out, uint64_t x) noexcept nogil

# `id: i3.m12.c345\n`
cdef size_t sse_id(uint8_t* out, const Vector* v) noexcept nogil

# The response's head, and `retry: N\n\n`. origin is Access-Control-Allow-Origin, empty for none; SSE_OPEN_MAX is for
# one of a character, and 0 is returned if cap is too small.
cdef size_t sse_open(uint8_t* out, size_t cap, uint32_t retry_ms, const char* origin) noexcept nogil

# {"t":"gap","from":"c300","to":"c340"}: both ends inclusive; the letter is the lane's, "m" or "c".
cdef size_t gap_write(uint8_t* out, uint8_t lane_letter, uint64_t first, uint64_t last) noexcept nogil
cdef size_t gap_write_msgpack(uint8_t* out, uint8_t lane_letter, uint64_t first, uint64_t last) noexcept nogil

# {"t":"hello","since":"i3.m11.c340","viewers":7,"resumed":false,"state":"live"}
cdef size_t hello_write(uint8_t* out, const Vector* since, uint64_t viewers, bint resumed) noexcept nogil
cdef size_t hello_write_msgpack(uint8_t* out, const Vector* since, uint64_t viewers, bint resumed) noexcept nogil

# A zstd frame that holds body as it is (one raw block): for messages so small that compressing them is not worth it.
# Returns n plus at most ZSTD_RAW_EXTRA, or 0 if n is 65,536 or more. out must not overlap body.
cdef size_t zstd_raw(uint8_t* out, const uint8_t* body, size_t n) noexcept nogil
