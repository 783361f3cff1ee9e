# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.const cimport ENC_JSON, ENC_POLL, ENC_SSE
from edge._fast.frame cimport frame_data, frame_encode, frame_ref, frame_unref
from edge._fast.sys cimport mem_alloc, mem_free, memcpy, memset


cdef void log_init(Log* g, int lane, uint32_t limit, uint64_t head, uint64_t* budget, uint64_t* encoded) noexcept nogil:
    g.ring = NULL
    g.cap = 0
    g.head = head
    g.tail = head + 1
    g.framed = head + 1
    g.bytes = 0
    g.limit = limit
    g.lane = <uint8_t>lane
    g.budget = budget
    g.encoded = encoded


cdef inline Batch* log_at(Log* g, uint64_t seq) noexcept nogil:
    return &g.ring[seq & (g.cap - 1)]


cdef void log_unframe(Log* g, uint64_t seq) noexcept nogil:
    cdef Batch* b = log_at(g, seq)
    cdef int i
    for i in range(LOG_FRAMES):
        frame_unref(b.frames[i])
        b.frames[i] = NULL


cdef void log_drop(Log* g) noexcept nogil:
    cdef Batch* b = log_at(g, g.tail)
    log_unframe(g, g.tail)
    g.bytes -= b.len
    g.budget[0] -= b.len
    mem_free(b.canon, b.len)
    b.canon = NULL
    g.tail += 1
    if g.framed < g.tail:
        g.framed = g.tail


cdef uint32_t log_trim(Log* g, uint32_t limit) noexcept nogil:
    cdef uint32_t dropped = 0
    while g.tail <= g.head and g.bytes > limit:
        log_drop(g)
        dropped += 1
    if g.tail > g.head:         # 100,000 rooms that went quiet would keep tens of megabytes of empty rings
        g.budget[0] -= g.cap * sizeof(Batch)
        mem_free(g.ring, g.cap * sizeof(Batch))
        g.ring = NULL
        g.cap = 0
    return dropped


cdef void log_free(Log* g) noexcept nogil:
    log_trim(g, 0)


cdef int log_grow(Log* g) noexcept nogil:
    cdef uint32_t cap = 8 if g.cap == 0 else g.cap * 2
    cdef Batch* ring = <Batch*>mem_alloc(cap * sizeof(Batch))
    if ring == NULL:
        return -1
    cdef uint64_t seq = g.tail
    while seq <= g.head:
        ring[seq & (cap - 1)] = g.ring[seq & (g.cap - 1)]
        seq += 1
    g.budget[0] += (cap - g.cap) * sizeof(Batch)
    mem_free(g.ring, g.cap * sizeof(Batch))
    g.ring = ring
    g.cap = cap
    return 0


cdef int log_append(Log* g, uint64_t seq, uint32_t count, const uint8_t* canon, uint32_t n) noexcept nogil:
    cdef uint8_t* copy
    cdef Batch* b
    cdef int jumped = 0
    if seq <= g.head:
        return 2
    copy = <uint8_t*>mem_alloc(n)
    if copy == NULL:
        return -1
    if g.head + 1 - g.tail == g.cap and log_grow(g) < 0:
        mem_free(copy, n)
        return -1
    if seq != g.head + 1:
        while g.tail <= g.head:
            log_drop(g)
        g.tail = g.framed = seq
        jumped = 1
    while g.tail <= g.head and (g.bytes + n > g.limit or g.head + 1 - g.tail >= LOG_MOST):
        log_drop(g)
    memcpy(copy, canon, n)
    g.head = seq
    b = log_at(g, seq)
    b.canon = copy
    b.len = n
    b.count = count
    g.bytes += n
    g.budget[0] += n
    while g.framed + LOG_WARM <= g.head:
        log_unframe(g, g.framed)
        g.framed += 1
    return jumped


cdef int log_put(Log* g, uint64_t seq, uint32_t count, const uint8_t* canon, uint32_t n) noexcept nogil:
    cdef Batch* b
    cdef uint8_t* copy
    if seq < g.tail or seq > g.head or n > log_at(g, seq).len:
        return -1
    copy = <uint8_t*>mem_alloc(n)
    if copy == NULL:
        return -1
    memcpy(copy, canon, n)
    b = log_at(g, seq)
    log_unframe(g, seq)
    g.bytes -= b.len - n
    g.budget[0] -= b.len - n
    mem_free(b.canon, b.len)
    b.canon = copy
    b.len = n
    b.count = count
    return 0


cdef Frame* log_frame(Log* g, uint64_t seq, int enc) noexcept nogil:
    cdef Batch* b = log_at(g, seq)
    if enc == ENC_POLL:
        enc = ENC_JSON
    if b.frames[enc] == NULL:
        b.frames[enc] = frame_encode(enc, b.canon, b.len, g.lane, seq, g.budget)
        g.encoded[enc] += 1
        if seq < g.framed:
            g.framed = seq
    return b.frames[enc]


cdef void log_cool(Log* g) noexcept nogil:
    while g.framed <= g.head:
        log_unframe(g, g.framed)
        g.framed += 1


cdef uint64_t log_back(Log* g, uint64_t low, uint64_t comments, uint64_t bytes, int enc) noexcept nogil:
    cdef uint64_t seq = g.head
    cdef Frame* f
    cdef uint64_t size
    while seq > low and seq >= g.tail and comments > 0:
        f = log_frame(g, seq, enc)
        if f == NULL:
            break
        size = f.len + (80 if enc == ENC_SSE else 0)    # an SSE event's id line counts too
        if size > bytes:
            break
        bytes -= size
        comments -= min(comments, <uint64_t>log_at(g, seq).count)
        seq -= 1
    return seq


# ---- for tests ----

cdef class LogProbe:
    cdef Log g
    cdef uint64_t held
    cdef uint64_t encodings[LOG_FRAMES]
    cdef Frame* kept

    def __cinit__(self, int lane, uint32_t limit, uint64_t head):
        memset(self.encodings, 0, sizeof(self.encodings))
        log_init(&self.g, lane, limit, head, &self.held, self.encodings)

    def __dealloc__(self):
        frame_unref(self.kept)
        log_free(&self.g)

    def append(self, uint64_t seq, uint32_t count, bytes canon):
        return log_append(&self.g, seq, count, canon, <uint32_t>len(canon))

    def put(self, uint64_t seq, uint32_t count, bytes canon):
        return log_put(&self.g, seq, count, canon, <uint32_t>len(canon))

    def frame(self, uint64_t seq, int enc):
        if not self.g.tail <= seq <= self.g.head:
            raise IndexError(seq)
        cdef Frame* f = log_frame(&self.g, seq, enc)
        return frame_data(f)[:f.len]

    def keep(self, uint64_t seq, int enc):
        """As a socket in the middle of a frame does; one at a time."""
        frame_unref(self.kept)
        self.kept = log_frame(&self.g, seq, enc)
        frame_ref(self.kept)

    def kept_bytes(self):
        return None if self.kept == NULL else frame_data(self.kept)[:self.kept.len]

    def release(self):
        frame_unref(self.kept)
        self.kept = NULL

    def trim(self, uint32_t limit):
        return log_trim(&self.g, limit)

    def cool(self):
        log_cool(&self.g)

    def back(self, uint64_t low, uint64_t comments, uint64_t limit, int enc):
        return log_back(&self.g, low, comments, limit, enc)

    def state(self):
        cdef uint64_t seq = self.g.tail
        warm = []
        while seq <= self.g.head:
            warm += [(seq, i) for i in range(LOG_FRAMES) if log_at(&self.g, seq).frames[<int>i] != NULL]
            seq += 1
        return {
            "head": self.g.head, "tail": self.g.tail, "framed": self.g.framed, "bytes": self.g.bytes, "cap": self.g.cap,
            "held": self.held, "encoded": self.encodings, "warm": warm,
        }
