# The fuzz target of the PROXY parser, and the slow reference it is held against: `ipaddress`, `struct` and whole
# lines. `one` raises on any disagreement. Run alone it fuzzes with atheris (python -m tests.fuzz.fuzz_proxy [corpus]
# [-libFuzzer options]); the tests call `one` without it.
import importlib
import ipaddress
import re
import struct
import sys
from typing import Literal

from edge._fast import proxy
from tests._fast.guard import guard

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
PORT = re.compile(rb"0|[1-9][0-9]{0,4}")

Result = tuple[int, int, bytes, int] | Literal[False] | None


def address(word: bytes, family: int) -> bytes | None:
    text = word.decode("latin-1")
    if "%" in text or (family == 4 and re.search(r"(^|\.)0[0-9]", text)):
        return None
    try:
        return (ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)).packed
    except ValueError:
        return None


def reference_text(data: bytes) -> Result:
    line, end, _ = data[:107].partition(b"\r\n")
    if not end:
        open_line = line.removesuffix(b"\r")
        good = b"PROXY ".startswith(line[:6]) and re.fullmatch(rb"[\x20-\x7e]*", open_line)
        return None if good and len(data) < 107 else False
    if not re.fullmatch(rb"[\x20-\x7e]*", line):
        return False
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return len(line) + 2, 0, bytes(16), 0
    words = line.split(b" ")
    if len(words) != 6 or words[0] != b"PROXY" or words[1] not in (b"TCP4", b"TCP6"):
        return False
    family = 4 if words[1] == b"TCP4" else 6
    source, target = address(words[2], family), address(words[3], family)
    if source is None or target is None:
        return False
    if not all(PORT.fullmatch(word) and int(word) < 65536 for word in words[4:]):
        return False
    return len(line) + 2, family, source.ljust(16, b"\0"), int(words[4])


def reference_binary(data: bytes) -> Result:
    if len(data) < 13:
        return None if SIGNATURE.startswith(data[:12]) else False
    if data[:12] != SIGNATURE or data[12] not in (0x20, 0x21):
        return False
    proxied = data[12] == 0x21
    if len(data) > 13 and proxied and (data[13] >> 4 > 3 or data[13] & 15 > 2):
        return False
    if len(data) < 16:
        return None
    (size,) = struct.unpack_from(">H", data, 14)
    shape = {0x11: (4, ">4s4sHH"), 0x21: (6, ">16s16sHH")}.get(data[13]) if proxied else None
    if size > 536 or (shape and size < struct.calcsize(shape[1])):
        return False
    body = data[16 : 16 + size]
    if len(body) < size:
        return None
    if shape is None:
        return 16 + size, 0, bytes(16), 0
    source, _, port, _ = struct.unpack_from(shape[1], body)
    rest = body[struct.calcsize(shape[1]) :]
    while rest:
        if len(rest) < 3 or len(rest) < 3 + struct.unpack_from(">H", rest, 1)[0]:
            return False
        rest = rest[3 + struct.unpack_from(">H", rest, 1)[0] :]
    return 16 + size, shape[0], source.ljust(16, b"\0"), port


def reference(data: bytes) -> Result:
    """What edge._fast.proxy.parse_proxy must say to `data`."""
    if not data:
        return None
    return reference_text(data) if data[:1] == b"P" else reference_binary(data)


def one(data: bytes) -> None:
    final = proxy.parse_proxy(data)
    assert final == reference(data), (data, final, reference(data))
    with guard(data) as page:
        refused = False
        for size in range(min(len(data), 700) + 1):
            page.place(data[:size])
            got = proxy.parse_proxy_at(page.address, page.length)
            if isinstance(final, tuple):
                assert got == (final if size >= final[0] else None), (data[:size], got, final)
            else:
                assert got is None or got is final, (data[:size], got, final)
            assert not refused or got is False, (data, size)
            refused = got is False


def main() -> None:
    atheris = importlib.import_module("atheris")  # only here: the tests do without it
    atheris.instrument_all()  # the reference's branches steer the fuzzer: the compiled ones are out of its sight
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
