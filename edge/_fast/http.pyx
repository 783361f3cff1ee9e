# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Reads a request head for the front door and says whose it is: a stream's (WebSocket, SSE, long poll) or the HTTP
# application's. It owns a table of byte classes and nothing else. It must never allocate, never touch a byte at or
# behind p + n, and never let a head through on which another parser could disagree about where the message ends.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t, int32_t
from libc.string cimport memchr, memcmp, memset, strlen
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from edge._fast.const cimport STREAM_NONE, STREAM_POLL, STREAM_SSE, STREAM_WS

cdef enum:
    TAB = 0x09
    LF = 0x0a
    CR = 0x0d
    SP = 0x20
    COMMA = 0x2c
    SLASH = 0x2f
    ZERO = 0x30
    COLON = 0x3a

cdef enum:                      # what a byte may stand in
    IN_TOKEN = 1                # RFC 9110, 5.6.2: methods and field names
    IN_VALUE = 2                # VCHAR, obs-text, SP, HTAB
    IN_TARGET = 4               # visible ASCII
    IN_ROOM = 8
    IN_HOST = 16                # RFC 3986, 3.2.2 and 3.2.3: a host and its port
    IN_BASE64 = 32

cdef uint8_t CLASS[256]         # written once, below, when the module is imported


cdef void class_fill():
    cdef int c
    for c in range(256):
        CLASS[c] = 0
        if c == TAB or (c >= SP and c != 0x7f):
            CLASS[c] |= IN_VALUE
        if 0x21 <= c <= 0x7e:
            CLASS[c] |= IN_TARGET
    for c in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789":
        CLASS[c] |= IN_TOKEN | IN_ROOM | IN_HOST | IN_BASE64
    for c in b"!#$%&'*+-.^_`|~":
        CLASS[c] |= IN_TOKEN
    for c in b"-._~%!$&'()*+,;=:[]":
        CLASS[c] |= IN_HOST
    for c in b"_-":
        CLASS[c] |= IN_ROOM
    for c in b"+/":
        CLASS[c] |= IN_BASE64


class_fill()

cdef struct Scan:               # what the fields said, until the head is whole
    uint32_t method_len
    uint32_t target             # offset of the request target
    uint32_t target_len
    uint32_t fields
    uint8_t minor
    uint8_t hosts
    uint8_t sized               # a Content-Length was there
    uint8_t chunked             # a Transfer-Encoding was there
    uint8_t body                # ... and one of them announces a body
    uint8_t expects
    uint8_t says_close
    uint8_t says_keep
    uint8_t says_upgrade
    uint8_t upgrade_websocket
    uint8_t versions            # Sec-WebSocket-Version: how many (stops at 2), and whether the last said 13
    uint8_t version_13
    uint8_t keys                # Sec-WebSocket-Key: how many (stops at 2)
    uint8_t credentials         # Authorization: likewise
    Span bearer
    Span last_event


cdef inline bint same(const uint8_t* p, const char* lower, size_t n) noexcept nogil:
    # Case-insensitive for literals of a-z, 0-9 and '-': of the bytes that a token or a value may have, only 'A'..'Z'
    # become letters by | 0x20, and none becomes a digit or '-' but these themselves.
    cdef size_t i
    for i in range(n):
        if (p[i] | 0x20) != <uint8_t>lower[i]:
            return False
    return True


cdef inline bint is_all(const uint8_t* p, size_t n, uint8_t bits) noexcept nogil:
    cdef size_t i
    for i in range(n):
        if not CLASS[p[i]] & bits:
            return False
    return True


cdef inline void span_first(Span* span, const uint8_t* p, size_t n) noexcept nogil:
    if span.ptr == NULL:
        span.ptr = p
        span.len = <uint32_t>n


cdef bint list_has(const uint8_t* p, size_t n, const char* lower) noexcept nogil:
    # Is the token an element of this comma-separated list? Empty elements are allowed (RFC 9110, 5.6.1.2).
    cdef size_t want = strlen(lower)
    cdef size_t i = 0
    cdef size_t start, stop
    while i < n:
        start = i
        while i < n and p[i] != COMMA:
            i += 1
        stop = i
        i += 1
        while start < stop and (p[start] == SP or p[start] == TAB):
            start += 1
        while stop > start and (p[stop - 1] == SP or p[stop - 1] == TAB):
            stop -= 1
        if stop - start == want and same(p + start, lower, want):
            return True
    return False


# ---- the request line and the fields: each returns > 0, the offset behind what it read; 0, more; < 0, -status

cdef int line_read(const uint8_t* p, size_t end, Scan* scan) noexcept nogil:
    cdef const char* version = b"HTTP/1.?\r\n"
    cdef size_t i = 0
    cdef size_t k
    while i < end and CLASS[p[i]] & IN_TOKEN:
        i += 1
    if i == end:
        return 0
    if i == 0 or p[i] != SP:
        return -400
    scan.method_len = <uint32_t>i
    i += 1
    scan.target = <uint32_t>i
    while i < end and CLASS[p[i]] & IN_TARGET:
        i += 1
    if i == end:
        return 0
    scan.target_len = <uint32_t>i - scan.target
    if scan.target_len == 0 or p[i] != SP:
        return -400
    i += 1
    for k in range(10):
        if i + k == end:
            return 0
        if k == 7:
            if p[i + k] != ZERO and p[i + k] != ZERO + 1:
                return -400
            scan.minor = p[i + k] - ZERO
        elif p[i + k] != <uint8_t>version[k]:
            return -400
    return <int>(i + 10)


cdef int fields_read(const uint8_t* p, size_t i, size_t end, Scan* scan, HttpHead* head) noexcept nogil:
    cdef size_t name, colon, start, stop
    cdef int status
    while i < end:
        if p[i] == CR:
            if i + 1 == end:
                return 0
            return <int>(i + 2) if p[i + 1] == LF else -400
        if scan.fields == HTTP_HEAD_FIELDS:
            return -431
        scan.fields += 1
        name = i
        while i < end and CLASS[p[i]] & IN_TOKEN:
            i += 1
        if i == end:
            return 0
        if i == name or p[i] != COLON:      # a line that begins with a space (obs-fold) ends here too
            return -400
        colon = i
        i += 1
        while i < end and CLASS[p[i]] & IN_VALUE:
            i += 1
        if i == end:
            return 0
        if p[i] != CR:
            return -400
        if i + 1 == end:
            return 0
        if p[i + 1] != LF:
            return -400
        start = colon + 1
        stop = i
        while start < stop and (p[start] == SP or p[start] == TAB):
            start += 1
        while stop > start and (p[stop - 1] == SP or p[stop - 1] == TAB):
            stop -= 1
        status = field_frame(p + name, colon - name, p + start, stop - start, scan)
        if status < 0:
            return status
        if status == 0:
            field_stream(p + name, colon - name, p + start, stop - start, scan, head)
        i += 2
    return 0


cdef int field_frame(const uint8_t* name, size_t k, const uint8_t* v, size_t n, Scan* scan) noexcept nogil:
    # The fields that say whom a message is for and where it ends. They are judged on every request, handed over or
    # not: two parsers that disagree here are a smuggled request. 1: it was one of them; 0: not; < 0: refused.
    cdef size_t i
    if k == 4 and same(name, b"host", k):
        if scan.hosts or not is_all(v, n, IN_HOST):
            return -400
        scan.hosts = 1
        return 1
    if k == 14 and same(name, b"content-length", k):
        if scan.sized or scan.chunked or n == 0:
            return -400
        for i in range(n):
            if v[i] < ZERO or v[i] > ZERO + 9:
                return -400
            if v[i] != ZERO:
                scan.body = 1
        scan.sized = 1
        return 1
    if k == 17 and same(name, b"transfer-encoding", k):
        # RFC 9112, 6.1: faulty in HTTP/1.0, and of no known end unless chunked is the last; nobody sends others first.
        if scan.sized or scan.chunked or scan.minor == 0 or n != 7 or not same(v, b"chunked", 7):
            return -400
        scan.chunked = 1
        scan.body = 1
        return 1
    return 0


cdef void field_stream(const uint8_t* name, size_t k, const uint8_t* v, size_t n, Scan* scan,
                       HttpHead* head) noexcept nogil:
    if k == 6:
        if same(name, b"origin", k):
            span_first(&head.origin, v, n)
        elif same(name, b"expect", k):
            scan.expects = 1
    elif k == 7:
        if same(name, b"upgrade", k):
            scan.upgrade_websocket |= list_has(v, n, b"websocket")
    elif k == 10:
        if same(name, b"connection", k):
            scan.says_upgrade |= list_has(v, n, b"upgrade")
            scan.says_close |= list_has(v, n, b"close")
            scan.says_keep |= list_has(v, n, b"keep-alive")
    elif k == 13:
        if same(name, b"last-event-id", k):
            if n > 0:
                span_first(&scan.last_event, v, n)
        elif same(name, b"authorization", k):
            scan.credentials += scan.credentials < 2
            bearer_take(v, n, scan)
    elif k == 17:
        if same(name, b"sec-websocket-key", k):
            scan.keys += scan.keys < 2
            head.ws_key.ptr = v
            head.ws_key.len = <uint32_t>n
    elif k == 21:
        if same(name, b"sec-websocket-version", k):
            scan.versions += scan.versions < 2
            scan.version_13 = n == 2 and v[0] == ZERO + 1 and v[1] == ZERO + 3
    elif k == 22:
        if same(name, b"sec-websocket-protocol", k):
            span_first(&head.ws_protocol, v, n)
    elif k == 24:
        if same(name, b"sec-websocket-extensions", k):
            span_first(&head.ws_ext, v, n)


cdef void bearer_take(const uint8_t* v, size_t n, Scan* scan) noexcept nogil:
    # Another scheme (a proxy's Basic) is not ours. A Bearer with nothing behind it is an empty token, not an absent
    # one: who tried to prove something must not pass as anonymous.
    cdef size_t i = 6
    if n < 6 or not same(v, b"bearer", 6) or (n > 6 and v[6] != SP):
        return
    while i < n and v[i] == SP:
        i += 1
    span_first(&scan.bearer, v + i, n - i)


# ---- what a whole head asks for: each returns >= 0, or -status

cdef int route_read(const uint8_t* path, size_t n, Span* room) noexcept nogil:
    # Only the exact shape is a stream's; the room in it must be good as it stands, for nothing here is percent-decoded.
    cdef size_t i = 10
    cdef int stream
    if n < 10 or memcmp(path, b"/v1/rooms/", 10) != 0:
        return STREAM_NONE
    while i < n and path[i] != SLASH:
        i += 1
    if n - i == 3 and memcmp(path + i, b"/ws", 3) == 0:
        stream = STREAM_WS
    elif n - i == 4 and memcmp(path + i, b"/sse", 4) == 0:
        stream = STREAM_SSE
    elif n - i == 5 and memcmp(path + i, b"/poll", 5) == 0:
        stream = STREAM_POLL
    else:
        return STREAM_NONE
    room.ptr = path + 10
    room.len = <uint32_t>(i - 10)
    if room.len == 0 or room.len > HTTP_ROOM_BYTES or not is_all(room.ptr, room.len, IN_ROOM):
        return -404
    return stream


cdef int last_read(const uint8_t* v, size_t n, int32_t* last) noexcept nogil:
    cdef size_t i
    cdef int32_t value = 0
    for i in range(n):
        if v[i] < ZERO or v[i] > ZERO + 9:
            return -400
        if value < HTTP_LAST_MAX:           # at most 9,999,999 after this: no overflow, however many digits
            value = value * 10 + (v[i] - ZERO)
    last[0] = value if value < HTTP_LAST_MAX else HTTP_LAST_MAX
    return 0 if n > 0 else -400


cdef int lanes_read(const uint8_t* v, size_t n) noexcept nogil:
    # 1: must only; 0: both. URLSearchParams writes a comma as %2C.
    if n == 4 and memcmp(v, b"must", 4) == 0:
        return 1
    if n == 9 and (memcmp(v, b"must,chat", 9) == 0 or memcmp(v, b"chat,must", 9) == 0):
        return 0
    if n == 11 and (v[6] == b"C" or v[6] == b"c") and memcmp(v + 4, b"%2", 2) == 0:
        if memcmp(v, b"must", 4) == 0 and memcmp(v + 7, b"chat", 4) == 0:
            return 0
        if memcmp(v, b"chat", 4) == 0 and memcmp(v + 7, b"must", 4) == 0:
            return 0
    return -400


cdef int query_read(const uint8_t* q, size_t n, HttpHead* head) noexcept nogil:
    # The first of a key counts; the rest, and keys that we do not know, are ignored.
    cdef const uint8_t* end = q + n
    cdef const uint8_t* stop
    cdef const uint8_t* v
    cdef size_t k
    cdef int lanes = -1
    while q < end:
        stop = <const uint8_t*>memchr(q, b'&', end - q)
        if stop == NULL:
            stop = end
        v = <const uint8_t*>memchr(q, b'=', stop - q)
        if v == NULL:
            k = stop - q
            v = stop
        else:
            k = v - q
            v += 1
        if k == 5 and memcmp(q, b"token", 5) == 0:
            span_first(&head.token, v, stop - v)
        elif k == 5 and memcmp(q, b"since", 5) == 0:
            span_first(&head.since, v, stop - v)
        elif k == 4 and memcmp(q, b"user", 4) == 0:
            span_first(&head.user, v, stop - v)
        elif k == 4 and memcmp(q, b"last", 4) == 0 and head.last < 0:
            if last_read(v, stop - v, &head.last) < 0:
                return -400
        elif k == 5 and memcmp(q, b"lanes", 5) == 0 and lanes < 0:
            lanes = lanes_read(v, stop - v)
            if lanes < 0:
                return -400
            head.lanes_must = <uint8_t>lanes
        q = stop + 1
    return 0


cdef int upgrade_check(const Scan* scan, const HttpHead* head) noexcept nogil:
    # RFC 6455, 4.2.1. 16 bytes in base64 are 22 characters and two '='; the four idle bits of the last are not judged.
    if scan.minor != 1 or not scan.says_upgrade or not scan.upgrade_websocket:
        return -426
    if scan.versions != 1 or not scan.version_13:
        return -426
    if scan.keys != 1 or head.ws_key.len != 24 or not is_all(head.ws_key.ptr, 22, IN_BASE64):
        return -400
    return 0 if head.ws_key.ptr[22] == b'=' and head.ws_key.ptr[23] == b'=' else -400


cdef int stream_check(const uint8_t* p, const Scan* scan, HttpHead* head) noexcept nogil:
    # Fills in what belongs to a stream and returns which; STREAM_NONE for what is the HTTP application's.
    cdef const uint8_t* target = p + scan.target
    cdef const uint8_t* mark
    cdef size_t path_len
    cdef int stream
    if scan.expects:                        # somebody wants an interim answer first
        return STREAM_NONE
    mark = <const uint8_t*>memchr(target, b'?', scan.target_len)
    path_len = scan.target_len if mark == NULL else mark - target
    stream = route_read(target, path_len, &head.room)
    if stream <= STREAM_NONE:
        return stream
    if scan.method_len == 7 and memcmp(p, b"OPTIONS", 7) == 0:
        return STREAM_NONE                  # the application answers CORS preflights
    if scan.method_len != 3 or memcmp(p, b"GET", 3) != 0:
        return -405
    if scan.body or scan.credentials > 1:   # whoever checked them before may have read the other one
        return -400
    if mark != NULL and query_read(mark + 1, scan.target_len - path_len - 1, head) < 0:
        return -400
    if scan.bearer.ptr != NULL:
        head.token = scan.bearer
    if stream == STREAM_SSE and scan.last_event.ptr != NULL:
        head.since = scan.last_event
    if stream == STREAM_WS:
        return upgrade_check(scan, head) or stream
    return stream


cdef int http_parse(const uint8_t* p, size_t n, HttpHead* head) noexcept nogil:
    cdef Scan scan
    cdef Span origin
    cdef size_t end = n if n < HTTP_HEAD_BYTES else HTTP_HEAD_BYTES
    cdef int length, stream
    if n == 0:
        return 0
    memset(&scan, 0, sizeof(Scan))
    memset(head, 0, sizeof(HttpHead))
    head.last = -1
    length = line_read(p, end, &scan)
    if length == 0 and n >= HTTP_HEAD_BYTES:
        return -414
    if length <= 0:
        return length
    length = fields_read(p, length, end, &scan, head)
    if length == 0 and n >= HTTP_HEAD_BYTES:
        return -431
    if length <= 0:
        return length
    if scan.minor == 1 and not scan.hosts:
        return -400
    stream = stream_check(p, &scan, head)
    if stream < 0:
        return stream
    if stream == STREAM_NONE:
        origin = head.origin
        memset(head, 0, sizeof(HttpHead))
        head.last = -1
        head.origin = origin
    elif stream != STREAM_WS:
        memset(&head.ws_key, 0, sizeof(Span))
        memset(&head.ws_ext, 0, sizeof(Span))
        memset(&head.ws_protocol, 0, sizeof(Span))
    head.length = <uint32_t>length
    head.stream = <uint8_t>stream
    head.minor = scan.minor
    head.keep_alive = not scan.says_close and (scan.minor == 1 or scan.says_keep)
    return length


# ---- refusals

cdef struct Out:
    uint8_t* ptr
    size_t cap
    size_t len                  # counts on past cap, so that one look at the end tells


cdef void put(Out* out, const char* text) noexcept nogil:
    while text[0]:
        if out.len < out.cap:
            out.ptr[out.len] = <uint8_t>text[0]
        out.len += 1
        text += 1


cdef void put_text(Out* out, const char* text) noexcept nogil:
    # Inside a JSON string. What would need an escape does not belong there by contract, and must not break it either.
    cdef char one[2]
    one[1] = 0
    while text[0]:
        one[0] = text[0]
        if text[0] < 0x20 or text[0] > 0x7e or text[0] == b'"' or text[0] == b'\\':
            one[0] = b'?'
        put(out, one)
        text += 1


cdef void put_number(Out* out, uint64_t value) noexcept nogil:
    cdef char digits[21]
    cdef int i = 20
    digits[20] = 0
    while True:
        i -= 1
        digits[i] = <char>(ZERO + value % 10)
        value //= 10
        if value == 0:
            break
    put(out, digits + i)


cdef void put_body(Out* out, const char* error, const char* message, uint32_t retry_after) noexcept nogil:
    put(out, b'{"error":"')
    put_text(out, error)
    put(out, b'","message":"')
    put_text(out, message)
    put(out, b'"')
    if retry_after > 0:
        put(out, b',"retry_after":')
        put_number(out, retry_after)
    put(out, b"}\n")


cdef struct Refusal:
    const char* line            # status and reason phrase
    const char* error
    const char* message


cdef Refusal refusal_of(int status) noexcept nogil:
    if status == 400:
        return Refusal(b"400 Bad Request", b"bad_request", b"the request is malformed")
    if status == 401:
        return Refusal(b"401 Unauthorized", b"unauthorized", b"a valid token is needed")
    if status == 403:
        return Refusal(b"403 Forbidden", b"forbidden", b"the token does not allow this")
    if status == 404:
        return Refusal(b"404 Not Found", b"not_found", b"there is no such room or path")
    if status == 405:
        return Refusal(b"405 Method Not Allowed", b"method_not_allowed", b"a stream is opened with GET")
    if status == 408:
        return Refusal(b"408 Request Timeout", b"timeout", b"the request head took too long")
    if status == 414:
        return Refusal(b"414 URI Too Long", b"uri_too_long", b"the request line is over 8192 bytes")
    if status == 426:
        return Refusal(b"426 Upgrade Required", b"upgrade_required", b"WebSocket version 13 is needed here")
    if status == 429:
        return Refusal(b"429 Too Many Requests", b"too_many", b"too many requests, try again later")
    if status == 431:
        return Refusal(b"431 Request Header Fields Too Large", b"headers_too_large",
                       b"the head is over 8192 bytes or 64 fields")
    if status == 503:
        return Refusal(b"503 Service Unavailable", b"overloaded", b"the server is full, try again later")
    return Refusal(b"500 Internal Server Error", b"internal", b"something went wrong")


cdef size_t http_refusal(uint8_t* out, size_t cap, int status, const char* error, const char* message,
                         uint32_t retry_after, const char* origin) noexcept nogil:
    cdef Refusal refusal = refusal_of(status)
    cdef Out to = Out(out, cap, 0)
    cdef Out body = Out(NULL, 0, 0)         # writes nothing, counts
    if error == NULL:
        error = refusal.error
    if message == NULL:
        message = refusal.message
    put_body(&body, error, message, retry_after)
    put(&to, b"HTTP/1.1 ")
    put(&to, refusal.line)
    put(&to, b"\r\nContent-Type: application/json\r\nContent-Length: ")
    put_number(&to, body.len)
    put(&to, b"\r\nConnection: Upgrade, close" if status == 426 else b"\r\nConnection: close")
    if origin[0] != 0:
        put(&to, b"\r\nAccess-Control-Allow-Origin: ")
        put(&to, origin)
    put(&to, b"\r\nCache-Control: no-store\r\n")
    if status == 401:                       # RFC 9110, 15.5.2: must name a scheme
        put(&to, b"WWW-Authenticate: Bearer\r\n")
    elif status == 405:
        put(&to, b"Allow: GET\r\n")
    elif status == 426:
        put(&to, b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n")
    if retry_after > 0:
        put(&to, b"Retry-After: ")
        put_number(&to, retry_after)
        put(&to, b"\r\n")
    put(&to, b"\r\n")
    put_body(&to, error, message, retry_after)
    return to.len if to.len <= cap else 0


# ---- for tests

cdef object span_bytes(const Span* span):
    return None if span.ptr == NULL else span.ptr[:span.len]


def parse_head_at(uintptr_t address, size_t length):
    cdef HttpHead head
    cdef int got = http_parse(<const uint8_t*>address, length, &head)
    if got <= 0:
        return -got or None
    return {
        "length": got,
        "stream": ("none", "ws", "sse", "poll")[head.stream],
        "minor": head.minor,
        "keep_alive": bool(head.keep_alive),
        "lanes_must": bool(head.lanes_must),
        "last": head.last,
        "room": span_bytes(&head.room),
        "token": span_bytes(&head.token),
        "since": span_bytes(&head.since),
        "user": span_bytes(&head.user),
        "ws_key": span_bytes(&head.ws_key),
        "ws_ext": span_bytes(&head.ws_ext),
        "ws_protocol": span_bytes(&head.ws_protocol),
        "origin": span_bytes(&head.origin),
    }


def parse_head(bytes data not None):
    return parse_head_at(<uintptr_t><const char*>data, len(data))


def refusal_at(uintptr_t address, size_t cap, int status, bytes error=None, bytes message=None,
               uint32_t retry_after=0, bytes origin=b"*"):
    cdef const char* word = NULL
    cdef const char* words = NULL
    if error is not None:
        word = error
    if message is not None:
        words = message
    return http_refusal(<uint8_t*>address, cap, status, word, words, retry_after, origin)


def bench_parse(bytes data not None, int rounds):
    """Nanoseconds that one http_parse of `data` takes, over `rounds` of them."""
    cdef HttpHead head
    cdef timespec start, stop
    cdef const uint8_t* p = <const uint8_t*><const char*>data
    cdef size_t n = len(data)
    cdef int _i
    cdef uint64_t check = 0
    with nogil:
        clock_gettime(CLOCK_MONOTONIC, &start)
        for _i in range(rounds):
            check += <uint64_t>http_parse(p, n, &head)
        clock_gettime(CLOCK_MONOTONIC, &stop)
    if check == 1:                          # keeps the calls from being dropped
        return 0.0
    return ((stop.tv_sec - start.tv_sec) * 1e9 + (stop.tv_nsec - start.tv_nsec)) / rounds
