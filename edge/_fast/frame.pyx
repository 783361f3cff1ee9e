# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# The one place where a batch becomes bytes. The canonical form is MessagePack, because it is the smallest and the
# quickest to turn into the others; each encoding is made once a batch, however many sockets read it, so the libraries
# may run under the GIL.
import zlib

import msgspec
import zstandard

from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH
from libc.string cimport strlen

from edge._fast.const cimport ENC_DEFLATE, ENC_JSON, ENC_MSGPACK, ENC_SSE, ENC_ZSTD, LANE_MUST
from edge._fast.sys cimport mem_alloc, mem_free, memcpy
from edge._fast.ws cimport ws_head

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)

cdef enum:
    ACK_PART = 64               # characters of each of its three words
    ACK_MAX = 3 * (2 * ACK_PART + 20)

cdef object compressor = zstandard.ZstdCompressor(level=3)


cdef Frame* frame_new(int enc, const uint8_t* body, size_t n, uint64_t* budget) noexcept nogil:
    cdef uint8_t head[16]
    cdef size_t h = 0
    if enc == ENC_JSON or enc == ENC_DEFLATE:
        h = ws_head(head, 1, enc == ENC_DEFLATE, n)
    elif enc == ENC_MSGPACK or enc == ENC_ZSTD:
        h = ws_head(head, 2, False, n)
    cdef size_t size = sizeof(Frame) + h + n
    cdef Frame* f = <Frame*>mem_alloc(size)
    if f == NULL:
        return NULL
    f.refs = 1
    f.len = <uint32_t>(h + n)
    f.body = <uint32_t>h
    f.size = <uint32_t>size
    f.budget = budget
    budget[0] += size
    memcpy(frame_data(f), head, h)
    memcpy(frame_data(f) + h, body, n)
    return f


cdef Frame* frame_encode(int enc, const uint8_t* canon, size_t n, int lane, uint64_t seq,
                         uint64_t* budget) noexcept nogil:
    if enc == ENC_MSGPACK:
        return frame_new(enc, canon, n, budget)
    with gil:
        return frame_encode_py(enc, canon[:n], lane, seq, budget)


cdef Frame* frame_encode_py(int enc, bytes canon, int lane, uint64_t seq, uint64_t* budget) noexcept:
    cdef bytes body
    try:
        body = encode(enc, canon)
    except Exception:
        # What cannot be encoded must not stop a room, and must not vanish unseen: its viewers are told of a hole.
        try:
            name = f"{'m' if lane == LANE_MUST else 'c'}{seq}"
            body = encode(enc, msgspec.msgpack.encode({"t": "gap", "from": name, "to": name}))
        except Exception:
            return NULL
    return frame_new(enc, body, len(body), budget)


def encode(enc: int, canon: bytes) -> bytes:
    """The body that viewers of an encoding get for a canonical batch."""
    if enc == ENC_MSGPACK:
        return canon
    if enc == ENC_ZSTD:
        return compressor.compress(canon)
    message = msgspec.msgpack.decode(canon)
    text = msgspec.json.encode(message)
    if enc == ENC_SSE:
        return b"event: %b\ndata: %b\n\n" % (message["t"].encode(), text)
    if enc == ENC_DEFLATE:
        # No context is taken over (RFC 7692, 7.1.1.1): the same bytes are good for every socket. The flush's empty
        # block is cut.
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return body[: len(body) - 4]
    return text


def encode_message(enc: int, message: dict) -> bytes:
    """The body of a direct message to a viewer of an encoding. Deflating something so small is not worth it."""
    if enc == ENC_JSON or enc == ENC_DEFLATE:
        return msgspec.json.encode(message)
    return encode(enc, msgspec.msgpack.encode(message))


def encode_ack(enc: int, str ref not None, str made not None, str status not None) -> bytes:
    """The same for what an author is told of a comment: every comment has one, so for most of them it is written here
    rather than put together and encoded."""
    cdef uint8_t out[ACK_MAX]
    cdef uint8_t* p = out
    if enc == ENC_JSON or enc == ENC_DEFLATE:
        p = put_json(p, b'{"t":"ack","ref":"', ref)
        p = put_json(p, b'","id":"', made)
        p = put_json(p, b'","status":"', status)
        if p != NULL:
            memcpy(p, b'"}', 2)
            return out[:p + 2 - out]
    return encode_message(enc, {"t": "ack", "ref": ref, "id": made, "status": status})


cdef uint8_t* put_json(uint8_t* p, const char* before, str text) noexcept:
    # NULL for what is longer than any of them is, or is not plain.
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), i
    cdef const uint8_t* chars
    if p == NULL or n > ACK_PART or not PyUnicode_IS_ASCII(text):
        return NULL
    i = strlen(before)
    memcpy(p, before, i)
    p += i
    chars = <const uint8_t*>PyUnicode_DATA(text)
    for i in range(n):
        if chars[i] < 32 or chars[i] == 127:
            return NULL
        if chars[i] == c'"' or chars[i] == c'\\':
            p[0] = c'\\'
            p += 1
        p[0] = chars[i]
        p += 1
    return p


cdef void frame_ref(Frame* f) noexcept nogil:
    f.refs += 1


cdef void frame_unref(Frame* f) noexcept nogil:
    if f == NULL:
        return
    f.refs -= 1
    if f.refs == 0:
        f.budget[0] -= f.size
        mem_free(f, f.size)


# ---- for tests ----

def framed(int enc, bytes canon, int lane, uint64_t seq):
    """(wire bytes, where the message begins, bytes charged to the budget while it lived, and after)."""
    cdef uint64_t budget = 0
    cdef Frame* f = frame_encode(enc, canon, len(canon), lane, seq, &budget)
    if f == NULL:
        return None
    wire, body, charged = frame_data(f)[:f.len], f.body, budget
    frame_ref(f)
    frame_unref(f)
    if budget != charged:
        raise AssertionError("a frame that is held was given back")
    frame_unref(f)
    return wire, body, charged, budget
