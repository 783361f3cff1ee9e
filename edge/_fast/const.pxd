# The words that every module of the engine shares: encodings, kinds, lanes, causes, and the counters' names.
# It owns nothing and does nothing; a number stands here once or nowhere.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t

cdef enum:                      # how a viewer's bytes look; a batch has at most one frame of each
    ENC_JSON = 0                # WebSocket text
    ENC_MSGPACK = 1             # WebSocket binary
    ENC_ZSTD = 2                # WebSocket binary, one zstd frame of MessagePack a message
    ENC_DEFLATE = 3             # WebSocket text, permessage-deflate
    ENC_SSE = 4                 # text/event-stream
    ENC_POLL = 5                # a bare JSON text, joined into the answer of a long poll
    ENC_COUNT = 6

cdef enum:
    LANE_MUST = 0
    LANE_CHAT = 1
    LANE_COUNT = 2

cdef enum:                      # what a request head asks for
    STREAM_NONE = 0             # not ours: handed to the HTTP application, unread
    STREAM_WS = 1
    STREAM_SSE = 2
    STREAM_POLL = 3
