# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Reads the PROXY protocol header of a balancer, text (version 1) or binary (version 2), told apart by the first bytes.
# It owns nothing. It must never allocate, never touch a byte at or behind p + n, and never guess: an address counts
# only when every byte of its header is in order, for limits per address rest on it.
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uintptr_t
from libc.string cimport memchr, memcmp, memcpy, memset

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET
        AF_INET6

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef enum:
    LF = 0x0a
    CR = 0x0d
    SP = 0x20
    ZERO = 0x30


cdef inline bint starts(const uint8_t* p, size_t n, const char* text, size_t k) noexcept nogil:
    # Do the bytes that are there agree with the text's first k?
    return memcmp(p, text, n if n < k else k) == 0


# ---- version 1: "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n"

cdef size_t word_len(const uint8_t* p, size_t n) noexcept nogil:
    # Up to the one space that must follow; 0: empty, or no space.
    cdef const uint8_t* stop = <const uint8_t*>memchr(p, SP, n)
    return 0 if stop == NULL else stop - p


cdef bint address_read(const uint8_t* p, size_t n, int family, uint8_t* address) noexcept nogil:
    # libc's parser takes exactly the forms that are wanted: no leading zeros, no short IPv4, no scope ids. It must not
    # see a NUL inside the word, which the caller's check for visible ASCII has seen to.
    cdef char text[46]
    if n == 0 or n >= sizeof(text):
        return False
    memcpy(text, p, n)
    text[n] = 0
    return inet_pton(family, text, address) == 1


cdef bint port_read(const uint8_t* p, size_t n, uint16_t* port) noexcept nogil:
    cdef uint32_t value = 0
    cdef size_t i
    if n == 0 or n > 5 or (n > 1 and p[0] == ZERO):
        return False
    for i in range(n):
        if p[i] < ZERO or p[i] > ZERO + 9:
            return False
        value = value * 10 + (p[i] - ZERO)
    port[0] = <uint16_t>value
    return value <= 0xffff


cdef bint words_read(const uint8_t* p, size_t n, int family, ProxyInfo* info) noexcept nogil:
    # "source destination source-port destination-port", one space between, nothing behind. The destination is checked
    # like the source: a header that is half in order is out of order.
    cdef uint8_t unused[16]
    cdef uint16_t port
    cdef size_t k = word_len(p, n)
    if not address_read(p, k, family, info.src):
        return False
    p += k + 1
    n -= k + 1
    k = word_len(p, n)
    if not address_read(p, k, family, unused):
        return False
    p += k + 1
    n -= k + 1
    k = word_len(p, n)
    if not port_read(p, k, &info.src_port):
        return False
    p += k + 1
    n -= k + 1
    return port_read(p, n, &port)


cdef int text_parse(const uint8_t* p, size_t n, ProxyInfo* info) noexcept nogil:
    cdef size_t end = n if n < PROXY_V1_BYTES else PROXY_V1_BYTES
    cdef size_t i = 6
    while i < end and SP <= p[i] <= 0x7e:
        i += 1
    if i < end and p[i] != CR:
        return -1
    if i + 1 < end and p[i + 1] != LF:
        return -1
    if i + 1 >= end:                        # no whole line yet
        return 0 if n < PROXY_V1_BYTES else -1
    if i >= 11 and memcmp(p + 6, b"TCP4 ", 5) == 0:
        info.family = 4
        return <int>(i + 2) if words_read(p + 11, i - 11, AF_INET, info) else -1
    if i >= 11 and memcmp(p + 6, b"TCP6 ", 5) == 0:
        info.family = 6
        return <int>(i + 2) if words_read(p + 11, i - 11, AF_INET6, info) else -1
    if i >= 13 and memcmp(p + 6, b"UNKNOWN", 7) == 0 and (i == 13 or p[13] == SP):
        return <int>(i + 2)                 # whatever else the line says is to be ignored
    return -1


# ---- version 2: signature, version and command, family and protocol, length; addresses; TLVs

cdef bint tlvs_good(const uint8_t* p, size_t n) noexcept nogil:
    cdef size_t k
    while n > 0:
        if n < 3:
            return False
        k = 3 + (<size_t>p[1] << 8 | p[2])
        if k > n:
            return False
        p += k
        n -= k
    return True


cdef int binary_parse(const uint8_t* p, size_t n, ProxyInfo* info) noexcept nogil:
    cdef size_t body, address_len
    if n > 12 and p[12] != 0x20 and p[12] != 0x21:      # version 2, LOCAL or PROXY
        return -1
    if n > 13 and p[12] == 0x21 and ((p[13] >> 4) > 3 or (p[13] & 15) > 2):
        return -1                           # values that the protocol has not given out
    if n < 16:
        return 0
    body = <size_t>p[14] << 8 | p[15]
    if body > PROXY_V2_BYTES:
        return -1
    if p[12] == 0x21 and p[13] == 0x11:     # TCP over IPv4
        info.family = 4
        address_len = 4
    elif p[12] == 0x21 and p[13] == 0x21:   # TCP over IPv6
        info.family = 6
        address_len = 16
    else:                                   # LOCAL (a health check), datagrams, Unix sockets: skipped as a whole
        return <int>(16 + body) if n >= 16 + body else 0
    if body < 2 * address_len + 4:
        return -1
    if n < 16 + body:
        return 0
    if not tlvs_good(p + 16 + 2 * address_len + 4, body - 2 * address_len - 4):
        return -1
    memcpy(info.src, p + 16, address_len)
    p += 16 + 2 * address_len
    info.src_port = <uint16_t>(<uint32_t>p[0] << 8 | p[1])
    return <int>(16 + body)


cdef int proxy_parse(const uint8_t* p, size_t n, ProxyInfo* info) noexcept nogil:
    if n == 0:
        return 0
    memset(info, 0, sizeof(ProxyInfo))
    if p[0] == b"P":
        if not starts(p, n, b"PROXY ", 6):
            return -1
        return 0 if n < 6 else text_parse(p, n, info)
    if not starts(p, n, b"\r\n\r\n\0\r\nQUIT\n", 12):
        return -1
    return 0 if n < 12 else binary_parse(p, n, info)


# ---- for tests

def parse_proxy_at(uintptr_t address, size_t length):
    cdef ProxyInfo info
    cdef int got = proxy_parse(<const uint8_t*>address, length, &info)
    if got < 0:
        return False
    if got == 0:
        return None
    return got, info.family, (<const char*>info.src)[:16], info.src_port


def parse_proxy(bytes data not None):
    return parse_proxy_at(<uintptr_t><const char*>data, len(data))
