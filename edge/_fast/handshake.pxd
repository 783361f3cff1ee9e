# The WebSocket handshake (RFC 6455 section 4, RFC 7692): the accept key, what a client offers, the 101 response.
# It owns nothing that changes; buffers are the caller's. It never does I/O and never allocates.
from libc.stdint cimport uint8_t

cdef enum:
    WS_UPGRADE_MAX = 304        # the most that ws_upgrade writes

# Sec-WebSocket-Accept for a Sec-WebSocket-Key (which the caller has found to be 24 characters).
cdef void ws_accept_key(const uint8_t* key24, uint8_t* out28) noexcept nogil

# The value of Sec-WebSocket-Extensions: 0 nothing acceptable in it, 1 permessage-deflate, 2 permessage-deflate with
# server_max_window_bits=15 echoed, negative if the value is malformed anywhere. Several such headers: join by ", ".
cdef int ws_offer(const uint8_t* p, size_t n) noexcept nogil

# The value of Sec-WebSocket-Protocol: the encoding (ENC_JSON, ENC_MSGPACK, ENC_ZSTD) of the first protocol in it that
# is ours, or -1.
cdef int ws_subprotocol(const uint8_t* p, size_t n) noexcept nogil

# The whole 101 response; returns its length, or 0 if cap is less than WS_UPGRADE_MAX. encoding is what
# ws_subprotocol gave (-1 names none), offer what ws_offer gave.
cdef size_t ws_upgrade(uint8_t* out, size_t cap, const uint8_t* key24, int encoding, int offer) noexcept nogil
