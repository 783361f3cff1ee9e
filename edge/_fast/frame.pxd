# A frame: one batch in one encoding, immutable, reference-counted, ready to be sent as it stands. A log holds one
# reference for each frame it keeps, a socket in the middle of a frame holds one. Nobody writes into a frame.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

ctypedef struct Frame:
    uint64_t* budget            # where its bytes are counted; outlives every frame
    uint32_t refs
    uint32_t len                # what is to be sent
    uint32_t body               # where the message begins, behind the WebSocket head
    uint32_t size               # of the block, this struct included

cdef inline uint8_t* frame_data(Frame* f) noexcept nogil:
    return <uint8_t*>f + sizeof(Frame)

cdef Frame* frame_new(int enc, const uint8_t* body, size_t n, uint64_t* budget) noexcept nogil
cdef Frame* frame_encode(int enc, const uint8_t* canon, size_t n, int lane, uint64_t seq,
                         uint64_t* budget) noexcept nogil
cdef void frame_ref(Frame* f) noexcept nogil
cdef void frame_unref(Frame* f) noexcept nogil
