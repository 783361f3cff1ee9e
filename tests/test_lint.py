"""The linters, each a test: what they say is what would be said in review."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sysconfig.get_path("scripts"))
# Modules that describe themselves to Python by a hand-written stub.
STUBBED = sorted(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ROOT.glob("edge/_fast/*.pyi"))


def clean(*command: str | Path) -> None:
    path = f"{BIN}:{os.environ['PATH']}"  # cython-lint calls pycodestyle by name
    environ = os.environ | {"PATH": path}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_ruff_check() -> None:
    clean(BIN / "ruff", "check")


def test_ruff_format() -> None:
    clean(BIN / "ruff", "format", "--check", "--diff")


def test_mypy() -> None:
    clean(sys.executable, "-m", "mypy")


def test_cython_lint() -> None:
    sources = [*ROOT.glob("edge/_fast/*.pyx"), *ROOT.glob("edge/_fast/*.pxd")]
    clean(BIN / "cython-lint", *sorted(sources))


@pytest.mark.skipif(not STUBBED, reason="not applicable: no compiled module has a stub")
def test_the_stubs_tell_the_truth(tmp_path: Path) -> None:
    cythons_own = tmp_path / "allowed"
    cythons_own.write_text(".*\\.__pyx_capi__\n.*\\.__test__\n")
    flags = ("--allowlist", cythons_own, "--ignore-unused-allowlist", "--ignore-disjoint-bases")
    clean(sys.executable, "-m", "mypy.stubtest", *flags, *STUBBED)


def test_shell_scripts_parse() -> None:
    scripts = [path for path in (ROOT / ".ci").iterdir() if path.is_file()]
    for top in ("tests", "bench", "sysctl", "deploy"):
        scripts += [path for path in (ROOT / top).rglob("*.sh") if "node_modules" not in path.parts]
    assert scripts
    for script in scripts:
        shell = "bash" if "bash" in script.read_text().splitlines()[0] else "sh"
        clean(shell, "-n", script)
