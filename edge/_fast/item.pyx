# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# A plain comment as it travels to its room's owner (edge/wire.py, Item): written in one go, with what is the same for
# all comments of its author packed beforehand. It owns nothing, and must never write other bytes than wire.item does.
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint64_t

from edge._fast.sys cimport memcpy

cdef enum:
    HEADS = 64                  # bytes that are neither text nor packed already: 48 at most
    AROUND = 28                 # characters of {"id":"","u":,"x":"","ts":}, as JSON


cdef inline uint8_t* put(uint8_t* p, const void* from_, size_t n) noexcept nogil:
    memcpy(p, from_, n)
    return p + n


cdef inline uint8_t* put_text(uint8_t* p, const char* text, size_t n) noexcept nogil:
    if n < 32:
        p[0] = <uint8_t>(0xA0 | n)
        p += 1
    elif n < 256:
        p[0], p[1] = 0xD9, <uint8_t>n
        p += 2
    else:
        p[0], p[1], p[2] = 0xDA, <uint8_t>(n >> 8), <uint8_t>n
        p += 3
    return put(p, text, n)


cdef inline uint8_t* put_number(uint8_t* p, uint64_t number) noexcept nogil:
    cdef int bytes, i
    if number < 128:
        p[0] = <uint8_t>number
        return p + 1
    if number < 1 << 8:
        p[0], bytes = 0xCC, 1
    elif number < 1 << 16:
        p[0], bytes = 0xCD, 2
    elif number < <uint64_t>1 << 32:
        p[0], bytes = 0xCE, 4
    else:
        p[0], bytes = 0xCF, 8
    for i in range(bytes):
        p[1 + i] = <uint8_t>(number >> (8 * (bytes - 1 - i)))
    return p + 1 + bytes


cdef inline int digits(uint64_t number) noexcept nogil:
    cdef int n = 1
    while number >= 10:
        number //= 10
        n += 1
    return n


cdef class Shown:
    """What all comments of one author show besides their words: `user` and, where there is one, `tier`, packed; and how
    many characters the two take as JSON."""

    cdef bytes user
    cdef bytes tier
    cdef size_t json

    def __init__(self, bytes user not None, bytes tier not None, size_t json):
        self.user, self.tier, self.json = user, tier, json

    def item(self, str room not None, str made not None, str text not None, uint64_t ts) -> bytes:
        """The item of a comment that replies to nobody, mentions nobody and is not paid for. `text` is clean."""
        cdef Py_ssize_t room_n, made_n, text_n, i
        cdef const char* room_p = PyUnicode_AsUTF8AndSize(room, &room_n)
        cdef const char* made_p = PyUnicode_AsUTF8AndSize(made, &made_n)
        cdef const char* text_p = PyUnicode_AsUTF8AndSize(text, &text_n)
        cdef Py_ssize_t user_n = PyBytes_GET_SIZE(self.user), tier_n = PyBytes_GET_SIZE(self.tier)
        cdef size_t size = HEADS + room_n + 2 * made_n + text_n + user_n + tier_n
        cdef size_t json = AROUND + made_n + text_n + digits(ts) + self.json
        cdef bytes made_item
        cdef uint8_t* start
        cdef uint8_t* p
        if text_n > 0xFFFF or room_n > 0xFFFF or made_n > 0xFFFF:
            raise ValueError("too long for a comment")
        for i in range(text_n):
            json += text_p[i] == c'"' or text_p[i] == c'\\'
        made_item = PyBytes_FromStringAndSize(NULL, size)
        start = p = <uint8_t*>PyBytes_AS_STRING(made_item)
        p[0] = 0x95
        p = put_text(p + 1, room_p, room_n)
        p = put_text(p, made_p, made_n)
        p = put_number(p, json)
        p[0] = 0x84 + (tier_n > 0)
        p = put(p + 1, b"\xa2id", 3)
        p = put_text(p, made_p, made_n)
        p = put(p, b"\xa1u", 2)
        p = put(p, PyBytes_AS_STRING(self.user), user_n)
        p = put(p, b"\xa1x", 2)
        p = put_text(p, text_p, text_n)
        p = put(p, b"\xa2ts", 3)
        p = put_number(p, ts)
        if tier_n:
            p = put(p, b"\xa4tier", 5)
            p = put(p, PyBytes_AS_STRING(self.tier), tier_n)
        p[0] = 0xC2             # not paid for
        return made_item[:p + 1 - start]
