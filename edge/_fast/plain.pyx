# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Text as moderation reads it: each character as the plain one that it stands for; and as its skeleton, with what may
# stand for one letter as that letter, and each run of one character as one.
# It owns a table of characters, filled as they are met, by asking a function of Python's once for each: what they stand
# for is not known here. It must never do I/O, read a clock, or answer where characters might join into others: a text
# in which they might goes to a second function, which reads it as a whole.
#
# When characters join. A text is read in NFKC, and NFKC of a text is more than that of its characters one by one: marks
# change places, and some characters become one. Neither happens at a character that begins with a letter (its class of
# marks is 0) with which nothing before it joins. Most writing is nothing else. A mark keeps its place behind one of a
# class no higher than its own. And what may join stays alone behind a whole character that joins with nothing.
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND, PyUnicode_New, PyUnicode_READ
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from edge._fast.sys cimport mem_alloc, mem_free

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object text)
    object PyUnicode_FromKindAndData(int kind, const void* data, Py_ssize_t size)

cdef enum:
    LONGEST = 512               # characters of a text; a longer one is read as a whole
    MOST = 3                    # characters that one of them may stand for; what stands for more is read as a whole
    PAGE = 256                  # characters of a page of the table
    PAGES = 0x400 + 0x10        # planes 0 to 3, then the tags. The other planes have nothing but private characters

cdef enum:
    CHANGED = 1 << 16           # of an ASCII character: it is not folded to its lower case

cdef enum:                      # what is known of a character
    MET = 1
    DROPPED = 2                 # it is not seen at all: what is around it is side by side
    LOWER = 4                   # it stands for itself in lower case, and no more
    MARK = 8                    # it begins with a mark
    JOINS = 16                  # it may join with what is before it
    JOINED = 32                 # something may join with its end
    WHOLE = 64                  # a text with it in it is read as a whole

ctypedef struct Letter:
    uint32_t folded[MOST]
    uint8_t count               # of `folded`
    uint8_t flags
    uint8_t last                # the class of the mark that it ends with; 0 where it ends with none
    uint8_t thin                # in a skeleton, where that is an ASCII character and `folded` is none; else 0


cdef class Plain:
    """`learn` tells of a character what there is to know (`normal.Letter`), `whole` reads a text in its own way."""

    cdef Letter* pages[PAGES]
    cdef uint32_t ascii[128]    # folded, in a skeleton, and CHANGED: in a byte each
    cdef object learn
    cdef object whole

    def __init__(self, learn, whole):
        cdef int code
        self.learn, self.whole = learn, whole
        for code in range(128):
            letter = learn(code)
            self.ascii[code] = ord(letter.folded) | ord(letter.thin) << 8 | (0 if letter.lower else CHANGED)

    def __dealloc__(self):
        cdef int page
        for page in range(PAGES):
            mem_free(self.pages[page], PAGE * sizeof(Letter))

    def read(self, str text not None):
        """The text folded, and its skeleton. In place of the first None where it is what `lower` makes of the text."""
        cdef object found = None
        if PyUnicode_GET_LENGTH(text) <= LONGEST:
            found = plain_ascii(self, text) if PyUnicode_IS_ASCII(text) else plain_any(self, text)
        return self.whole(text) if found is None else found


cdef object plain_ascii(Plain it, str text):
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), m = 0, i
    cdef const uint8_t* p = <const uint8_t*>PyUnicode_DATA(text)
    cdef uint8_t folded[LONGEST]
    cdef uint8_t bones[LONGEST]
    cdef uint8_t to, last = 255
    cdef uint32_t known, every = 0
    for i in range(n):
        known = it.ascii[p[i]]
        every |= known
        folded[i] = <uint8_t>known
        bones[m] = to = <uint8_t>(known >> 8)
        m += to != last
        last = to
    return (ascii_text(folded, n) if every & CHANGED else None), ascii_text(bones, m)


cdef object ascii_text(const uint8_t* p, Py_ssize_t n):
    cdef object made = PyUnicode_New(n, 127)
    memcpy(PyUnicode_DATA(made), p, n)
    return made


cdef object plain_any(Plain it, str text):
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), size = 0, m = 0, i
    cdef int kind = PyUnicode_KIND(text), k
    cdef const void* p = PyUnicode_DATA(text)
    cdef uint32_t folded[LONGEST * MOST]
    cdef uint32_t bones[LONGEST * MOST]
    cdef uint32_t code, known, to, last = 0xFFFFFFFF
    cdef uint8_t every = LOWER, before = MARK, mark = 0
    cdef const Letter* letter
    for i in range(n):
        code = PyUnicode_READ(kind, p, i)
        if code < 128:
            known = it.ascii[code]
            folded[size] = <uint8_t>known
            size += 1
            every &= 0 if known & CHANGED else LOWER
            before, mark = JOINED, 0
            to = <uint8_t>(known >> 8)
            if to != last:
                bones[m] = last = to
                m += 1
            continue
        letter = letter_of(it, code)
        every &= letter.flags
        if letter.flags & (DROPPED | WHOLE | MARK | JOINS):
            if letter.flags & WHOLE:
                return None
            if letter.flags & DROPPED:
                continue
            if letter.flags & JOINS and (before & JOINED or mark):
                return None
            if letter.flags & MARK and mark > letter.last:
                return None
        before, mark = letter.flags, letter.last
        for k in range(letter.count):
            to = folded[size] = letter.folded[k]
            size += 1
            if to < 128:
                to = <uint8_t>(it.ascii[to] >> 8)
            elif letter.thin:
                to = letter.thin
            if to != last:
                bones[m] = last = to
                m += 1
    return (
        None if every else PyUnicode_FromKindAndData(4, folded, size),
        PyUnicode_FromKindAndData(4, bones, m),
    )


cdef const Letter* letter_of(Plain it, uint32_t code) except NULL:
    cdef uint32_t page = code >> 8
    cdef Letter* letter
    if page >= 0x400:
        if page >> 4 != 0xE0:
            return private(code)
        page = 0x400 | (page & 15)
    if it.pages[page] == NULL:
        it.pages[page] = <Letter*>mem_alloc(PAGE * sizeof(Letter))
        if it.pages[page] == NULL:
            raise MemoryError
    letter = &it.pages[page][code & 255]
    if not letter.flags:
        letter_meet(letter, it.learn(code))
    return letter


cdef Letter PRIVATE


cdef const Letter* private(uint32_t code) noexcept:
    # There is one such at a time, and who asks for another is done with it.
    PRIVATE.folded[0], PRIVATE.count, PRIVATE.flags = code, 1, MET | LOWER
    return &PRIVATE


cdef int letter_meet(Letter* letter, learned) except -1:
    cdef str folded = learned.folded
    cdef Py_ssize_t n = len(folded), i
    cdef uint8_t flags = MET
    if learned.dropped:
        flags |= DROPPED
    if learned.lower:
        flags |= LOWER
    if learned.mark:
        flags |= MARK
    if learned.joins:
        flags |= JOINS
    if learned.joined:
        flags |= JOINED
    if learned.whole or n > MOST:
        flags |= WHOLE
    else:
        for i in range(n):
            letter.folded[i] = ord(folded[i])
        letter.count = <uint8_t>n
    letter.last = learned.last
    letter.thin = ord(learned.thin) if n == 1 and learned.thin != folded and learned.thin.isascii() else 0
    letter.flags = flags
    return 0


def runs(str text not None, Py_ssize_t first, Py_ssize_t last):
    """Of two runs of one character, counted from 0, where each starts and ends: four numbers."""
    cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), at = -1, starts = 0, ends = 0, other = 0, i
    cdef int kind = PyUnicode_KIND(text)
    cdef const void* p = PyUnicode_DATA(text)
    if not 0 <= first <= last:
        raise IndexError(f"runs {first} to {last}")
    for i in range(n):
        if i and PyUnicode_READ(kind, p, i) == PyUnicode_READ(kind, p, i - 1):
            continue
        if at == first:
            ends = i
        if at == last:
            return starts, ends, other, i
        at += 1
        if at == first:
            starts = i
        if at == last:
            other = i
    if at != last:
        raise IndexError(f"there is no run {last}")
    return starts, n if first == last else ends, other, n
