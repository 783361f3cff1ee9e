# A log: one lane of one room, a bounded ring of batches, numbered by its writer without holes. It owns its batches'
# canonical bytes and one reference on each frame made of them. Sockets own only a number: their cursor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edge._fast.frame cimport Frame

cdef enum:
    LOG_FRAMES = 5              # encodings that have a frame of their own (a poll's answer borrows the JSON frame)
    LOG_WARM = 8                # the newest batches keep their frames
    LOG_MOST = 4096             # batches in a ring: tiny ones cost more in bookkeeping than in bytes

ctypedef struct Batch:
    uint8_t* canon              # MessagePack
    uint32_t len
    uint32_t count              # comments in it
    Frame* frames[LOG_FRAMES]

ctypedef struct Log:
    Batch* ring                 # ring[seq & (cap - 1)]
    uint64_t head               # the newest batch's number; that of the last one ever when the ring is empty
    uint64_t tail               # the oldest batch kept; head + 1 when empty
    uint64_t framed             # no batch below this one has a frame
    uint64_t* budget            # bytes of rings and frames of the whole worker
    uint64_t* encoded           # counters, one for each encoding
    uint32_t cap
    uint32_t bytes
    uint32_t limit
    uint8_t lane

cdef void log_init(Log* g, int lane, uint32_t limit, uint64_t head, uint64_t* budget, uint64_t* encoded) noexcept nogil
cdef void log_free(Log* g) noexcept nogil
# 0; 1 when seq was not the next number: the ring starts anew at seq, and readers behind it see a gap; 2 when seq is an
# old number: dropped; -1 when there is no memory (the ring is as before).
cdef int log_append(Log* g, uint64_t seq, uint32_t count, const uint8_t* canon, uint32_t n) noexcept nogil
# The frame of a batch between tail and head; borrowed: it holds until the log is next appended to, cooled or trimmed.
cdef Frame* log_frame(Log* g, uint64_t seq, int enc) noexcept nogil
# A batch, between tail and head, with less in it: sockets in the middle of the old frame go on with that. 0; -1 when it
# is not there, or there is no memory.
cdef int log_put(Log* g, uint64_t seq, uint32_t count, const uint8_t* canon, uint32_t n) noexcept nogil
cdef void log_cool(Log* g) noexcept nogil               # drops every frame
# Drops the oldest batches until at most limit bytes are held; how many. An empty ring gives its array back.
cdef uint32_t log_trim(Log* g, uint32_t limit) noexcept nogil
# The cursor from which `comments` comments follow (as many whole batches as that takes), or fewer where the log ends,
# more than `bytes` bytes in that encoding would follow, or it would lie below `low`.
cdef uint64_t log_back(Log* g, uint64_t low, uint64_t comments, uint64_t bytes, int enc) noexcept nogil
