# A buffer whose end (or start) touches a page that nobody may read: a parser that looks one byte too far dies here,
# with a fault, instead of passing by luck. It owns its mapping, and the address is dead once that is closed.
import ctypes
import mmap
from types import TracebackType
from typing import Self

PAGE = mmap.PAGESIZE
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class guard:  # noqa: N801, RUF100 - it reads as a verb: `with guard(data) as g: parse(g.address, g.length)`
    """Writable memory with `data` in it, between two unreadable pages.

    `address` and `length` say where the data is: flush with the end of the memory, or with `at_start=True` flush with
    its start. `place` puts other data there (no longer than `room`, by default the first data's length) and spares a
    test that walks every prefix a mapping for each. `read` gives back what is there now, for parsers that write.
    """

    address: int
    length: int

    def __init__(self, data: bytes = b"", *, room: int = 0, at_start: bool = False) -> None:
        self.room = max(len(data), room, 1)
        self._at_start = at_start
        self._pages = -(-self.room // PAGE) * PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        base = _libc.mmap(None, self._pages + 2 * PAGE, PROT_NONE, flags, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self._base: int | None = base
        if _libc.mprotect(base + PAGE, self._pages, mmap.PROT_READ | mmap.PROT_WRITE) != 0:
            raise OSError(ctypes.get_errno(), "mprotect")
        self.place(data)

    def place(self, data: bytes) -> Self:
        if self._base is None or len(data) > self._pages:
            raise ValueError("closed, or too small for that")
        self.length = len(data)
        self.address = self._base + PAGE + (0 if self._at_start else self._pages - self.length)
        ctypes.memmove(self.address, data, self.length)
        return self

    def read(self) -> bytes:
        return ctypes.string_at(self.address, self.length)

    def close(self) -> None:
        if self._base is not None:
            _libc.munmap(self._base, self._pages + 2 * PAGE)
            self._base = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
