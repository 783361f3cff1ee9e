# Token buckets in memory that all workers of a box may share: how much of something a user, an address or a room has
# left. It owns no memory: the words lie in a buffer that somebody else made, with the seed that all its users know.
#
# A bucket is one word: when it will be full again, and a tag of its key's hash. What it lacks now follows from that, so
# a bucket that is full is as good as none, and nothing has to be cleared: 0 is one that was full long ago. A key's hash
# chooses a set of 8 words, which is a line of the cache, and the tag says which of them is the key's. Two keys share a
# bucket where set and tag are the same: in a set that is full, once in 8,000.
#
# What is full is replaced first. Where nothing is, that goes which lacks least: what is forgiven is the least that can
# be, and among equals it is the one that was taken from longest ago. So who has taken much stays: to push out one who
# lacks k, others must lack more in all other places of that set, and nobody outside knows which keys share it.
#
# Workers change a word by compare-and-swap and wait for nobody. What goes wrong between two of them goes wrong on the
# safe side: one may be refused who had one left, but there is never one more than the limit.
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    WAYS = 8
    TAG_BITS = 16

ctypedef struct Table:
    uint64_t* words             # of the buffer: sets * WAYS
    uint64_t sets
    uint64_t seed
    int64_t every               # for one, in ticks
    int64_t span                # for all: a bucket that is empty lacks this much
    int64_t reach               # a word that is further ahead of now than this is one of the past
    uint64_t evicted            # not full yet, but another took its place

cdef uint64_t buckets_hash(const Table* b, object key) except? 0
# In ticks until there is one; 0 where there is.
cdef int64_t buckets_wait(const Table* b, uint64_t h, uint64_t now) noexcept nogil
# The same, and takes it.
cdef int64_t buckets_take(Table* b, uint64_t h, uint64_t now) noexcept nogil
# One back.
cdef void buckets_give(Table* b, uint64_t h, uint64_t now) noexcept nogil
