# Rooms as this worker sees them: two logs, the set of slots that watch, and how far the sweep over them has come. A
# room's viewers are a bitmap over slots, in chunks that exist where somebody sits: a sweep goes through it in the order
# of allocation, its position is just a slot, and joining or leaving in the middle of it is setting or clearing a bit.
# Rooms that may have something new to report stand in a list, so that asking costs nothing for all the others.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from edge._fast.log cimport Log
from edge._fast.names cimport Names
from edge._fast.sys cimport Slots

cdef enum:
    ROOM_NAME = 64
    CHUNK_WORDS = 16            # a chunk covers 1,024 slots in 128 bytes
    JOB_NS = 5000000            # a chat sweep that took longer is reported though it took as long as the last one

ctypedef struct Sweep:
    uint64_t target             # the head when this round began: the round is enough if it is still the head at its end
    uint64_t began_ns
    uint64_t took_ns            # the last whole round
    uint32_t at                 # the next slot to look at
    uint32_t next               # the next room in the lane's queue
    uint8_t queued

ctypedef struct Job:            # what a room costs here, and what of it has been reported
    uint64_t longest_ns         # the longest whole round over the chat since the room was last looked at
    uint64_t told_ms
    uint32_t told_viewers
    uint32_t next               # neighbours in the list
    uint32_t prev
    uint8_t listed

ctypedef struct Room:
    uint64_t incarnation
    Log logs[2]
    Sweep sweeps[2]
    Job job
    uint64_t** chunks
    uint32_t chunk_count
    uint32_t index
    uint32_t viewers
    uint32_t newer              # neighbours in order of use, for shedding
    uint32_t older
    uint8_t name_len
    uint8_t name[ROOM_NAME]

ctypedef struct Rooms:
    Room** rooms                # by index; NULL where free
    Names names
    Slots slots                 # indices
    uint32_t cap
    uint32_t newest
    uint32_t oldest
    uint32_t job_first
    uint32_t job_last
    uint32_t job_n
    uint64_t held               # bytes of rings and frames
    uint64_t encoded[5]

cdef int rooms_init(Rooms* r, uint32_t cap, uint64_t seed) noexcept nogil
cdef void rooms_free(Rooms* r) noexcept nogil
cdef Room* room_find(Rooms* r, const uint8_t* name, size_t n) noexcept nogil
cdef Room* room_open(Rooms* r, const uint8_t* name, size_t n, uint64_t incarnation, uint64_t must, uint64_t chat,
                     uint32_t must_limit, uint32_t chat_limit) noexcept nogil
cdef void room_drop(Rooms* r, Room* room) noexcept nogil          # only without viewers and without a queued sweep
cdef void room_use(Rooms* r, Room* room) noexcept nogil
cdef int members_add(Room* room, uint32_t slot) noexcept nogil
cdef void members_remove(Room* room, uint32_t slot) noexcept nogil
cdef uint32_t members_next(Room* room, uint32_t slot) noexcept nogil   # the first member at or above slot; NONE
# Its viewers have changed or a sweep over its chat begins: it is to be looked at. While it is swept it stays listed.
cdef void room_job(Rooms* r, Room* room) noexcept nogil
# The next room that has something to report, which counts as reported then; NULL when `looks` of them, one less for
# each, have been looked at. Passing no more than job_n of before the first call, nobody is looked at twice.
cdef Room* rooms_job(Rooms* r, uint64_t now, uint32_t* looks) noexcept nogil
# Brings rings and frames down to the budget, the coldest rooms first: frames, then chat, then must. 0 when it did. It
# may walk over every room: whoever calls it asks for clearly less than the bound that was passed, so that the next call
# is far.
cdef int rooms_shed(Rooms* r, uint64_t budget, uint64_t* frames, uint64_t* batches) noexcept nogil
