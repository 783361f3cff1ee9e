"""The rule about skips, on a small suite: in CI a skip fails, unless its reason says that it does not apply."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_fine(): pass

@pytest.mark.skip(reason="not applicable: there is no such thing here")
def test_not_applicable(): pass

@pytest.mark.skip(reason="no browser")
def test_lazy(): pass

def test_late(): pytest.skip("no browser")

@pytest.mark.xfail
def test_known(): assert False
"""
MODULE = "import pytest\npytest.skip('no browser', allow_module_level=True)\n"


@pytest.mark.parametrize("ci, counts", [("", "1 passed, 4 skipped, 1 xfailed"), ("1", None)])
def test_a_skip_in_ci_is_a_failure(ci: str, counts: str | None, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((Path(__file__).parent / "conftest.py").read_text())
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "test_module.py").write_text(MODULE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"CI": ci}, capture_output=True, text=True, timeout=60
    )
    last = done.stdout.splitlines()[-1]
    if counts:
        assert done.returncode == 0
        assert last.startswith(counts)
    else:
        assert done.returncode == 1
        assert last.startswith("1 failed, 1 passed, 1 skipped, 1 xfailed, 2 errors")
        assert done.stdout.count("skipped in CI, where everything must run") >= 3
