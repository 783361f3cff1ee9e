# The fuzz target of resume positions: the vector's parser against a regular expression and Python's integers. `one`
# raises on any disagreement. Run alone it fuzzes with atheris (python -m tests.fuzz.fuzz_vector [corpus] [-libFuzzer
# options]); the tests call `one` without it.
import ctypes
import re
import sys

from edge._fast import sse
from tests._fast.guard import guard

NUMBER = rb"(0|[1-9][0-9]{0,19})"
VECTOR = re.compile(rb"i%s\.m%s\.c%s" % (NUMBER, NUMBER, NUMBER))
# Random bytes are hardly ever a vector: half of the inputs are spelled in its own letters.
LETTERS = b"im.c0123456789..18446744073709551615i\n"


def reference(data: bytes) -> tuple[int, int, int] | None:
    match = VECTOR.fullmatch(data)
    if match is None or any(int(number) >= 2**64 for number in match.groups()):
        return None
    return int(match[1]), int(match[2]), int(match[3])


def check(data: bytes) -> None:
    want = reference(data)
    with guard(room=len(data)) as page:
        for size in {*range(min(len(data), 80)), len(data)}:
            page.place(data[:size])
            got = sse.parse(memoryview((ctypes.c_char * size).from_address(page.address)))
            assert got == reference(data[:size]), (data[:size], got)
            assert page.read() == data[:size]
    if want is not None:
        assert sse.vector(want) == data  # there is one way to write a position


def one(data: bytes) -> None:
    check(data)
    check(bytes(LETTERS[byte % len(LETTERS)] for byte in data))
    if len(data) >= 25:
        numbers = [int.from_bytes(data[i : i + 8], "big") >> (data[24] >> i // 4 & 63) for i in (0, 8, 16)]
        text = b"i%d.m%d.c%d" % tuple(numbers)
        assert sse.parse(text) == tuple(numbers)
        check(text)
        check(text[: data[0] % len(text)] + data[25:27] + text[data[1] % len(text) :])


def main() -> None:
    import atheris  # type: ignore[import-not-found]

    # The compiled parser gives no coverage; the reference does, and it branches where the parser must.
    with atheris.instrument_imports(include=["tests.fuzz"]):
        from tests.fuzz import fuzz_vector

    atheris.Setup(sys.argv, fuzz_vector.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
