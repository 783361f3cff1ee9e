"""The sanitizer build in short: made out of tree, its reports are failures, and every fuzz target passes under it.

`make test-sanitize` runs the whole fast suite on the same build, which is therefore worth keeping in out/.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "sanitize.sh"
BUILD = ROOT / "out" / "sanitize"
ENVIRON = os.environ | {"PYTHON": sys.executable}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def said(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [SCRIPT, *arguments], env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=500
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module", autouse=True)
def build() -> Iterator[None]:
    BUILD.parent.mkdir(exist_ok=True)
    with (BUILD.parent / "sanitize.lock").open("w") as lock:  # two runs at once would compile into each other
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, text = said("build", BUILD)
        assert status == 0, text
        yield


def test_the_build_is_instrumented_and_apart() -> None:
    modules = sorted(BUILD.glob("edge/_fast/*.so"))
    assert {path.stem.split(".")[0] for path in modules} == {path.stem for path in ROOT.glob("edge/_fast/*.pyx")}
    for path in modules:
        code = path.read_bytes()
        assert b"__asan_report_load" in code, path
        assert b"__ubsan_handle" in code, path
    status, text = said("run", BUILD, "-c", "from edge._fast import ws; print(ws.__file__)")
    assert status == 0, text
    assert Path(text.strip()).parent == BUILD / "edge" / "_fast"


@pytest.mark.parametrize(
    "crime, report",
    [
        ("libc.memset(libc.malloc(8), 1, 9)", "AddressSanitizer: heap-buffer-overflow"),
        (
            "ws.parse(bytearray(ws.STATE_SIZE), (ctypes.c_char * 99).from_address(16), 9, False)",
            "AddressSanitizer: SEGV",
        ),
    ],
)
def test_a_report_is_a_failure(crime: str, report: str) -> None:
    prepare = (
        "import ctypes; from edge._fast import ws; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; "
    )
    prepare += "libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]; "
    status, text = said("run", BUILD, "-c", prepare + crime)
    assert status != 0
    assert report in text


def test_the_fuzz_targets_under_sanitizers() -> None:
    status, text = said("tests/fuzz")
    assert status == 0, text
