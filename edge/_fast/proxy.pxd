# The PROXY protocol header, versions 1 and 2, that a balancer puts before the first byte of a connection to say whose
# it is. It owns nothing and copies out the little it finds; no I/O, no allocation, no Python objects. Whether the peer
# may say such a thing at all is the caller's business: this parser trusts nobody and knows nobody.
from libc.stdint cimport uint8_t, uint16_t

cdef enum:
    PROXY_V1_BYTES = 107        # the longest version 1 line with its CRLF
    PROXY_V2_BYTES = 536        # bound on what a version 2 header may announce behind its first 16 bytes
    PROXY_BYTES = 552           # so a peek of this many always decides

ctypedef struct ProxyInfo:      # filled only by a proxy_parse that returned > 0
    uint8_t family              # 0: unknown or LOCAL, keep the socket's own address; 4; 6
    uint8_t src[16]             # network order; IPv4 in the first 4 bytes, the rest zero
    uint16_t src_port           # host order

# > 0: bytes of the header, to be consumed before anything else is read. 0: more is needed. < 0: not a PROXY header.
# A prefix of a buffer gives either 0 or what the whole buffer gives.
cdef int proxy_parse(const uint8_t* p, size_t n, ProxyInfo* info) noexcept nogil
