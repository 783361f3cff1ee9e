# The head of an HTTP/1.x request, as the front door sees it (RFC 9112), and the answer to one that is refused.
# It owns nothing: a head is read where it lies, and every Span points into the caller's buffer and is dead as soon as
# that buffer is consumed, moved or reused. No I/O, no allocation, no Python objects.
from libc.stdint cimport uint8_t, uint32_t, int32_t

cdef enum:
    HTTP_HEAD_BYTES = 8192      # a head with its empty line; a request line that fills it alone is 414, else 431
    HTTP_HEAD_FIELDS = 64       # the 65th is 431
    HTTP_ROOM_BYTES = 64
    HTTP_LAST_MAX = 1000000

ctypedef struct Span:           # ptr NULL: absent; ptr set and len 0: there, and empty
    const uint8_t* ptr
    uint32_t len

ctypedef struct HttpHead:       # filled only by an http_parse that returned > 0
    uint32_t length             # bytes of the head with its empty line
    uint8_t stream              # Stream of const.pxd; STREAM_NONE: hand over to the HTTP application
    uint8_t minor               # HTTP/1.minor
    uint8_t keep_alive          # what the version and the Connection fields ask for
    uint8_t lanes_must          # ?lanes=must
    int32_t last                # ?last=N, clamped to 0..HTTP_LAST_MAX; -1: absent
    # Query values are raw: nobody has percent-decoded them. All but `origin` are left empty with STREAM_NONE.
    Span room
    Span token                  # Authorization: Bearer, else ?token=
    Span since                  # ?since=; on SSE a Last-Event-ID that is not empty wins: an EventSource keeps its URL
    Span user                   # ?user=
    Span ws_key                 # set with STREAM_WS, and of 24 bytes then
    Span ws_ext                 # the first Sec-WebSocket-Extensions; further ones are offers that we do not take
    Span ws_protocol            # the first Sec-WebSocket-Protocol, likewise
    Span origin                 # the first Origin

# > 0: the head is whole and good, and has so many bytes. 0: more is needed. < 0: refused, -status (400, 404, 405, 414,
# 426, 431). It reads left to right, and a prefix of a buffer gives either 0 or what the whole buffer gives: bad bytes
# are refused when they are seen, what needs the whole head (Host, routing, the upgrade) when it is whole.
cdef int http_parse(const uint8_t* p, size_t n, HttpHead* head) noexcept nogil

# Writes a whole response that closes the connection; returns its bytes, or 0 if cap is too small (1,024 are enough for
# a message of 200). origin is Access-Control-Allow-Origin, empty for none. error and message are NUL-terminated or NULL
# for the status's own; whatever of them is not printable ASCII, or is a quote or a backslash, becomes '?'.
cdef size_t http_refusal(uint8_t* out, size_t cap, int status, const char* error, const char* message,
                         uint32_t retry_after, const char* origin) noexcept nogil
