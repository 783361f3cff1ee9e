# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.math cimport ceil

from edge._fast.sys cimport hash_bytes

cdef extern from * nogil:
    uint64_t atomic_load "__atomic_load_n"(const uint64_t* p, int order)
    bint atomic_swap "__atomic_compare_exchange_n"(uint64_t* p, uint64_t* old, uint64_t new, bint weak, int ok, int bad)
    int SEQ_CST "__ATOMIC_SEQ_CST"

# A tick is 1/16 us: 200,000 a second are 80 ticks each. The 48 bits that a word has for them go round in 203 days: a
# word that nobody has touched for just so long would count once more, for a time of its limit.
cdef double TICKS = 16e6
cdef uint64_t TIME = (<uint64_t>1 << 48) - 1
cdef int64_t BEHIND = 60 * 16000000     # how far a worker's clock may be behind when it uses what it has read from it
cdef int ROUNDING = 1                   # what adding seconds up may be wrong by
cdef int TRIES = 100                    # to be first; a try fails only where another worker has just changed the set

cdef enum:
    PAIRS = 8


cdef inline int64_t lack_of(const Table* b, uint64_t word, uint64_t now) noexcept nogil:
    cdef int64_t lack = <int64_t>(((word >> TAG_BITS) - now) & TIME)
    return lack if lack <= b.reach else 0


cdef inline uint64_t word_of(uint64_t h, uint64_t now, int64_t lack) noexcept nogil:
    return (((now + <uint64_t>lack) & TIME) << TAG_BITS) | (h & ((1 << TAG_BITS) - 1))


cdef inline uint64_t* set_of(const Table* b, uint64_t h) noexcept nogil:
    return b.words + ((h >> 32) * b.sets >> 32) * WAYS


cdef inline bint swapped(uint64_t* at, uint64_t old, uint64_t new) noexcept nogil:
    return atomic_swap(at, &old, new, False, SEQ_CST, SEQ_CST)


ctypedef struct Seen:           # a set as it was found
    int own                     # where the key's bucket is; -1 nowhere
    int twin                    # and where it is once more, because two workers began it at the same moment
    int least                   # which lacks least
    int64_t own_lack
    int64_t twin_lack
    int64_t least_lack
    uint64_t own_word
    uint64_t twin_word
    uint64_t least_word


cdef void look(const Table* b, uint64_t h, uint64_t now, Seen* seen) noexcept nogil:
    cdef uint64_t* words = set_of(b, h)
    cdef uint64_t word
    cdef int64_t lack
    cdef int i
    seen.own = seen.twin = seen.least = -1
    for i in range(WAYS):
        word = atomic_load(&words[i], SEQ_CST)
        lack = lack_of(b, word, now)
        if lack and (word ^ h) & ((1 << TAG_BITS) - 1) == 0:
            if seen.own < 0:
                seen.own, seen.own_lack, seen.own_word = i, lack, word
            else:
                seen.twin, seen.twin_lack, seen.twin_word = i, lack, word
        if seen.least < 0 or lack < seen.least_lack:
            seen.least, seen.least_lack, seen.least_word = i, lack, word


cdef int64_t buckets_wait(const Table* b, uint64_t h, uint64_t now) noexcept nogil:
    cdef Seen seen
    cdef int64_t lack = 0
    look(b, h, now, &seen)
    if seen.own >= 0:
        lack += seen.own_lack
    if seen.twin >= 0:
        lack += seen.twin_lack
    return lack + b.every - b.span if lack + b.every > b.span + ROUNDING else 0


cdef int64_t buckets_take(Table* b, uint64_t h, uint64_t now) noexcept nogil:
    cdef uint64_t* words = set_of(b, h)
    cdef Seen seen
    cdef bint begun = False
    cdef int _
    for _ in range(TRIES):
        look(b, h, now, &seen)
        if seen.twin >= 0:
            # One lacks from now on what both did. It is charged before the other goes: whoever comes between the two
            # finds less in it than there is, not more.
            if swapped(&words[seen.own], seen.own_word, word_of(h, now, min(seen.own_lack + seen.twin_lack, b.reach))):
                swapped(&words[seen.twin], seen.twin_word, 0)
        elif begun:
            if seen.own < 0 or seen.own_lack <= b.span + ROUNDING:
                return 0
            # Two have taken the last one, each from a bucket that it had begun.
            if swapped(&words[seen.own], seen.own_word, word_of(h, now, seen.own_lack - b.every)):
                return seen.own_lack - b.span
        elif seen.own >= 0:
            if seen.own_lack + b.every > b.span + ROUNDING:
                return seen.own_lack + b.every - b.span
            if swapped(&words[seen.own], seen.own_word, word_of(h, now, seen.own_lack + b.every)):
                return 0
        elif swapped(&words[seen.least], seen.least_word, word_of(h, now, b.every)):
            b.evicted += seen.least_lack > 0
            begun = True
    if begun:
        buckets_give(b, h, now)
    return b.every


cdef void buckets_give(Table* b, uint64_t h, uint64_t now) noexcept nogil:
    cdef uint64_t* words = set_of(b, h)
    cdef Seen seen
    cdef int _
    for _ in range(TRIES):
        look(b, h, now, &seen)
        if seen.own < 0 or swapped(
            &words[seen.own], seen.own_word, word_of(h, now, max(seen.own_lack - b.every, 0))
        ):
            return


cdef uint64_t buckets_hash(const Table* b, object key) except? 0:
    if isinstance(key, str):
        # As it lies in memory, which is the same for all that are equal: nothing has to be encoded.
        return hash_bytes(PyUnicode_DATA(key), PyUnicode_KIND(key) * PyUnicode_GET_LENGTH(key), b.seed)
    if isinstance(key, bytes):
        return hash_bytes(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), b.seed)
    raise TypeError(f"a key is bytes or str, not {type(key).__name__}")


cdef inline uint64_t ticks(double now) noexcept nogil:
    return <uint64_t>(now * TICKS + 0.5)


cdef class Buckets:
    """`size` at once, and that many again in `per_s` seconds; no limit where `size` is 0. `memory` is theirs alone, but
    for other workers that have the same memory and `seed`. What of it makes no line of 64 bytes is not used."""

    cdef Table b
    cdef Py_buffer view

    def __cinit__(self, uint32_t size, double per_s, memory, uint64_t seed):
        PyObject_GetBuffer(memory, &self.view, PyBUF_WRITABLE)
        self.b.words = <uint64_t*>self.view.buf
        self.b.sets = <uint64_t>self.view.len // (WAYS * 8)
        self.b.seed = seed
        if not size:
            return
        if not 0 < per_s <= 86400:
            raise ValueError("a limit is for a time between 0 and a day")
        if not 0 < self.b.sets < 1 << 32 or <size_t>self.view.buf % 8:
            raise ValueError("buckets take a whole line of 64 bytes, at an address of whole words")
        self.b.every = max(<int64_t>ceil(per_s * TICKS / size), ROUNDING + 1)
        self.b.span = self.b.every * size
        self.b.reach = self.b.span * WAYS + BEHIND

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    def take(self, key, double now):
        """0 where one is taken; else in how many seconds there will be one."""
        return buckets_take(&self.b, buckets_hash(&self.b, key), ticks(now)) / TICKS if self.b.every else 0.0

    def wait(self, key, double now):
        """0 where there is one to be taken; else in how many seconds there will be."""
        return buckets_wait(&self.b, buckets_hash(&self.b, key), ticks(now)) / TICKS if self.b.every else 0.0

    def give(self, key, double now):
        """Back what was just taken."""
        if self.b.every:
            buckets_give(&self.b, buckets_hash(&self.b, key), ticks(now))

    @property
    def evicted(self):
        """How many this worker has put out of their place before they were full."""
        return self.b.evicted


cdef class Purse:
    """What one thing is paid from: `pairs` are buckets and a key, buckets and a key, up to eight. It is worked out once
    for all that its holder will do."""

    cdef tuple pairs
    cdef Table* tables[PAIRS]
    cdef uint64_t hashes[PAIRS]
    cdef int count

    def __cinit__(self, *pairs):
        cdef Buckets it
        cdef int i
        self.count = len(pairs) // 2
        if self.count > PAIRS or len(pairs) % 2:
            raise ValueError("up to eight pairs")
        self.pairs = pairs
        for i in range(self.count):
            it = pairs[2 * i]
            self.tables[i] = &it.b
            self.hashes[i] = buckets_hash(&it.b, pairs[2 * i + 1])

    def take(self, double now):
        """Takes one from each. None where all were taken; else which buckets refuse, and for how many seconds, and
        nothing is taken from any. A worker that is overtaken by another between looking and taking has some in hand for
        a moment, and gives them back: others may be refused for that."""
        cdef uint64_t then = ticks(now)
        cdef int64_t wait
        cdef int i, j
        for i in range(self.count):
            wait = buckets_wait(self.tables[i], self.hashes[i], then) if self.tables[i].every else 0
            if wait:
                return self.pairs[2 * i], wait / TICKS
        for i in range(self.count):
            wait = buckets_take(self.tables[i], self.hashes[i], then) if self.tables[i].every else 0
            if wait:
                for j in range(i):
                    if self.tables[j].every:
                        buckets_give(self.tables[j], self.hashes[j], then)
                return self.pairs[2 * i], wait / TICKS
        return None
