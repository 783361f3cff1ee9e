# Who is here: a user's sockets on this worker, so that a user can be told something or cut off.
# It owns names and claims. An anonymous socket has no entry and costs nothing here.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

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

cdef enum:
    REGISTRY_MAX = 1 << 22      # address space only; memory comes with use

cdef int registry_init(Registry* r, uint64_t seed) noexcept nogil
cdef void registry_free(Registry* r) noexcept nogil
cdef uint32_t registry_add(Registry* r, uint32_t slot, const uint8_t* name, size_t n, const uint8_t* claims, size_t m,
                           uint32_t expires) noexcept nogil      # an ident, or NONE
cdef int registry_renew(Registry* r, uint32_t ident, const uint8_t* claims, size_t m, uint32_t expires) noexcept nogil
cdef void registry_remove(Registry* r, uint32_t ident) noexcept nogil
cdef User* registry_find(Registry* r, const uint8_t* name, size_t n) noexcept nogil
