# Who is here: a user's sockets on this worker, so that a user can be told something or cut off; and when to look at a
# socket's token again. It owns names and claims, and the wheel of the tokens' times. An anonymous socket has no entry
# and costs nothing here.
#
# The wheel is not the sockets' own: that has one time for each, which stands for what its owner waits for (a pong, a
# reader), and a token's end may come before it or behind it. A time of a round or more away is passed once a round.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from edge._fast.names cimport Names
from edge._fast.sys cimport Slots

ctypedef struct Ident:          # of one socket
    uint8_t* claims             # what the program above wants to know of it again, as it gave it
    uint32_t claims_len
    uint32_t user
    uint32_t slot
    uint32_t next               # the user's other sockets
    uint32_t prev
    uint32_t expires            # unix second at which its token ends; 0 never
    uint32_t due                # in the wheel: when to look at it, in steps from the start
    uint32_t wheel_next         # neighbours in its bucket
    uint32_t wheel_prev
    uint16_t bucket             # EXPIRY_NONE outside the wheel
    uint8_t warned              # the viewer knows that the token ends

ctypedef struct User:
    uint8_t* name
    uint32_t len
    uint32_t first
    uint32_t count

ctypedef struct Registry:
    Ident* idents
    User* users
    Names names
    Slots ident_slots
    Slots user_slots
    uint32_t* wheel             # ident + 1, in memory that is touched as it turns
    uint64_t wheel_at           # the step that time has come to
    uint64_t start_ns
    uint32_t armed              # how many are in the wheel

cdef enum:
    REGISTRY_MAX = 1 << 22      # address space only; memory comes with use
    EXPIRY_BUCKETS = 32768      # a round is 55 minutes
    EXPIRY_MS = 100
    EXPIRY_NONE = 0xFFFF

cdef enum:                      # what expiry_due has done
    EXPIRY_IDLE = 0             # nothing is due
    EXPIRY_DUE = 1              # one is, and was taken out
    EXPIRY_MOVED = 2            # one was a round or more away: there may be more behind it

cdef int registry_init(Registry* r, uint64_t seed, uint64_t now) noexcept nogil
cdef void registry_free(Registry* r) noexcept nogil
cdef uint32_t registry_add(Registry* r, uint32_t slot, const uint8_t* name, size_t n, const uint8_t* claims, size_t m,
                           uint32_t expires) noexcept nogil      # an ident, or NONE
cdef int registry_renew(Registry* r, uint32_t ident, const uint8_t* claims, size_t m, uint32_t expires) noexcept nogil
cdef void registry_remove(Registry* r, uint32_t ident) noexcept nogil
cdef User* registry_find(Registry* r, const uint8_t* name, size_t n) noexcept nogil

cdef void expiry_set(Registry* r, uint32_t ident, uint64_t now, uint64_t in_ms) noexcept nogil  # never early
cdef void expiry_stop(Registry* r, uint32_t ident) noexcept nogil
# One step, so that whoever walks can count and stop: a crowd whose tokens end together must not hold up a turn.
cdef int expiry_due(Registry* r, uint64_t now, uint32_t* ident) noexcept nogil

cdef inline uint64_t expiry_step(Registry* r, uint64_t now) noexcept nogil:
    return (now - r.start_ns) // <uint64_t>(EXPIRY_MS * 1000000)

cdef inline bint expiry_waits(Registry* r, uint64_t now) noexcept nogil:        # something may be due
    cdef uint64_t at = expiry_step(r, now)
    return r.armed > 0 and (r.wheel_at < at or r.wheel[r.wheel_at % <uint64_t>EXPIRY_BUCKETS] != 0)
