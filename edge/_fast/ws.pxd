# WebSocket frames (RFC 6455) as bytes, read and written; with the handshake's functions, all that a socket needs.
# It owns nothing: states, buffers and pieces are the caller's. It never does I/O, never allocates and never keeps
# a pointer: all that outlives a call is in WsState.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from edge._fast.handshake cimport WS_UPGRADE_MAX, ws_accept_key, ws_offer, ws_subprotocol, ws_upgrade

cdef enum:
    WS_MORE = 0                 # all bytes taken, nothing to tell
    WS_PIECE = 1                # a piece was taken; call again with the rest

cdef enum:
    WS_CONTINUATION = 0
    WS_TEXT = 1
    WS_BINARY = 2
    WS_CLOSE = 8
    WS_PING = 9
    WS_PONG = 10

cdef enum:                      # the most that each writer below writes
    WS_HEAD_MAX = 10
    WS_CLOSE_MAX = 127

# What is half-read between two reads of one socket. All zero between messages (ws_parse clears it then), so that a
# socket with nothing half-read needs none.
ctypedef struct WsState:
    uint64_t left               # payload bytes of the current frame still to come
    uint64_t size               # payload bytes that the frames of the message begun so far have announced
    uint32_t utf8               # the checker's state, at the end of what was seen of an undeflated text
    uint8_t head[14]            # a frame head that is not whole yet
    uint8_t head_len
    uint8_t mask[4]
    uint8_t mask_at             # which byte of the mask is next, 0..3
    uint8_t frame_op            # the opcode on the wire, 0 for a continuation
    uint8_t msg_op              # 1 text, 2 binary, 0 no message in progress
    uint8_t msg_deflated
    uint8_t msg_told            # a piece of the message was given already
    uint8_t fin
    uint8_t in_frame            # the head is whole, its payload is not
    uint8_t frame_told          # a piece of the (control) frame was given already

# Payload, unmasked in place. ptr points into the buffer given to ws_parse and lives as long as that does.
# len is 0 only when last is set.
ctypedef struct WsPiece:
    uint8_t* ptr
    size_t len
    uint8_t op                  # WS_TEXT, WS_BINARY (a continuation carries its message's), WS_CLOSE, WS_PING, WS_PONG
    uint8_t first               # begins its message or control frame
    uint8_t last                # ends it
    uint8_t deflated            # the message came with RSV1: raw deflate, whose text is not yet checked as UTF-8

# Takes bytes up to the end of one piece, or all of them. Returns WS_MORE, WS_PIECE, or the close code negated:
# -1002, -1007, -1009. After a failure, and after a close frame, the state and the rest of the bytes mean nothing.
# limit bounds a message's payload over all its fragments (as sent: deflated, if it is) and is enforced as soon as a
# frame's length is known. p may be NULL when n is 0.
cdef int ws_parse(WsState* s, uint8_t* p, size_t n, size_t* used, uint64_t limit, bint deflate,
                  WsPiece* piece) noexcept nogil

cdef inline bint ws_idle(const WsState* s) noexcept nogil:
    """Nothing is half-read: the state is all zero and need not be kept."""
    return not (s.in_frame | s.head_len | s.msg_op)

# The head of a server's frame: whole (FIN), unmasked. Returns 2, 4 or 10.
cdef inline int ws_head(uint8_t* out, uint8_t op, bint rsv1, uint64_t length) noexcept nogil:
    cdef int shift
    out[0] = <uint8_t> (0x80 | (0x40 if rsv1 else 0) | op)
    if length < 126:
        out[1] = <uint8_t> length
        return 2
    if length < 65536:
        out[1] = 126
        out[2] = <uint8_t> (length >> 8)
        out[3] = <uint8_t> length
        return 4
    out[1] = 127
    for shift in range(8):
        out[2 + shift] = <uint8_t> (length >> (56 - 8 * shift))
    return 10

# A whole close frame, at most WS_CLOSE_MAX bytes. Code 0 or 1005 leaves the payload empty. reason is UTF-8 ending in
# NUL, or NULL; what does not fit is cut off between two characters.
cdef size_t ws_close(uint8_t* out, int code, const char* reason) noexcept nogil

# The code in a received close payload, 1005 if it is empty; -1002 if it is no code that may be sent, -1007 if the
# reason is not UTF-8.
cdef int ws_close_code(const uint8_t* p, size_t n) noexcept nogil
