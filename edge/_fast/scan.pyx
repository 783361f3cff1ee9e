# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
# Whether there is anything to say against a text: one pass that says yes where it is fine, and leaves all else to who
# asks. It owns a table of characters, filled as they are met, by asking a function of Python's once for each. It must
# never do I/O, read a clock, or refuse by itself: it names no reasons.
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND, PyUnicode_READ
from libc.stdint cimport uint8_t, uint32_t

from edge._fast.sys cimport mem_alloc, mem_free

cdef enum:
    KINDS = 3                   # of marks, each with a bound of its own
    PAGE = 256                  # characters of a page of the table: a byte each
    PAGES = 0x110000 // PAGE

cdef enum:
    MET = 1
    BAD = 2                     # it may not be in a text
    SHOWN = 4                   # there is something to be seen of it
    PASSED = 8                  # a mark behind it stands on what is before it, and it is none itself
    MARK = 16                   # of the first kind; then of the second, the third


cdef class Scan:
    """`learn` says of a character whether it is bad, whether it shows anything, whether what follows it stands on what
    is before it, and of which kinds of marks it is. `runs` is how many of each kind are fine on one letter."""

    cdef uint8_t* pages[PAGES]
    cdef uint32_t runs[KINDS]
    cdef object learn

    def __init__(self, learn, runs):
        self.learn = learn
        self.runs[0], self.runs[1], self.runs[2] = runs

    def __dealloc__(self):
        cdef int page
        for page in range(PAGES):
            mem_free(self.pages[page], PAGE)

    def fine(self, str text not None):
        """Nothing bad, not too many marks on a letter, and something to be seen."""
        cdef Py_ssize_t n = PyUnicode_GET_LENGTH(text), i
        cdef int kind = PyUnicode_KIND(text), k
        cdef const void* p = PyUnicode_DATA(text)
        cdef uint32_t row[KINDS]
        cdef uint32_t code
        cdef uint8_t flags, every = 0
        row[0] = row[1] = row[2] = 0
        for i in range(n):
            code = PyUnicode_READ(kind, p, i)
            flags = 0 if self.pages[code >> 8] == NULL else self.pages[code >> 8][code & 255]
            if not flags:
                flags = scan_meet(self, code)
            every |= flags
            if flags >= PASSED:
                for k in range(KINDS):
                    row[k] += (flags & MARK << k) != 0
                    if row[k] > self.runs[k]:
                        return False
            else:
                row[0] = row[1] = row[2] = 0
        return every & (BAD | SHOWN) == SHOWN


cdef uint8_t scan_meet(Scan it, uint32_t code) except 0:
    cdef uint8_t flags = MET
    cdef int k
    if it.pages[code >> 8] == NULL:
        it.pages[code >> 8] = <uint8_t*>mem_alloc(PAGE)
        if it.pages[code >> 8] == NULL:
            raise MemoryError
    bad, shown, passed, *marks = it.learn(code)
    if bad:
        flags |= BAD
    if shown:
        flags |= SHOWN
    if passed:
        flags |= PASSED
    for k in range(KINDS):
        if marks[k]:
            flags |= <uint8_t>(MARK << k)
    it.pages[code >> 8][code & 255] = flags
    return flags
