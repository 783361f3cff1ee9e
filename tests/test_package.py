"""The package: what `python -m build` makes, and that it serves in an environment with nothing else in it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from edge import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOT_SOURCE = (".*", "build", "dist", "out", "node_modules", "*.so", "*.egg-info", "__pycache__")


def run(*command: str | Path, cwd: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "PYTHON"))}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist and the wheel that is made from it, from a copy of the sources as a clone has them."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE), symlinks=True)
    # --no-isolation: the build requirements are here, and the compiler has enough to do.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=folder / "source")
    return folder / "dist"


def members(built: Path) -> tuple[set[str], set[str]]:
    """What is in the sdist and in the wheel."""
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    with tarfile.open(sdist) as tar, zipfile.ZipFile(wheel) as archive:
        return {name.partition("/")[2] for name in tar.getnames()}, set(archive.namelist())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_both_archives_hold_what_they_should(built: Path) -> None:
    sdist, wheel = members(built)
    sources = {str(path.relative_to(ROOT)) for path in ROOT.glob("edge/_fast/*.p[yx]*")}
    compiled = {path.removesuffix(".pyx") for path in sources if path.endswith(".pyx")}
    assert sources <= sdist
    assert not [name for name in sdist if name.endswith((".c", ".so"))]
    assert {name.split(".")[0] for name in wheel if name.endswith(".so")} == compiled
    assert not [name for name in wheel if name.endswith((".c", ".pyx"))]
    assert not [name for name in wheel if name.startswith(("tests/", "bench/"))]
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / "edge" / "web").rglob("*") if path.is_file()}
    for top in ("edge", "broker"):
        shipped |= {
            str(path.relative_to(ROOT)) for path in (ROOT / top).rglob("*.py*") if path.suffix in (".py", ".pyi")
        }
        shipped.add(f"{top}/py.typed")
    assert shipped <= sdist
    assert shipped <= wheel
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it and what the wheel asks for, and no more."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=True, symlinks=True)
    (wheel,) = built.glob("*.whl")
    run(folder / "venv/bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check", wheel, cwd=folder)
    return folder / "venv" / "bin" / "edge"


@pytest.fixture
def serving(installed: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    errors = tmp_path / "errors"
    command = [installed, "serve", "--dev", "--listen", "127.0.0.1:0", "--private-listen", "127.0.0.1:0"]
    with (
        errors.open("w") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path) as process,
    ):
        try:
            yield process, errors
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_installed_wheel_serves(serving: tuple[subprocess.Popen[str], Path]) -> None:
    process, errors = serving
    assert process.stdout
    line = process.stdout.readline()
    ready = re.fullmatch(r"edge: ready on (http://127\.0\.0\.1:[1-9]\d*)\n", line)
    assert ready, (line, errors.read_text())
    assert process.stdout.readline() == f"edge: open {ready[1]}/?room=demo\n"
    with urllib.request.urlopen(f"{ready[1]}/?room=demo", timeout=10) as page:
        assert page.status == 200
    private = re.search(
        r"^edge: metrics and health on (http://127\.0\.0\.1:[1-9]\d*)$", errors.read_text(), re.MULTILINE
    )
    assert private
    with urllib.request.urlopen(f"{private[1]}/healthz", timeout=10) as health:
        assert health.status == 200
    process.terminate()
    assert process.wait(20) == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_installed_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed, "--version"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, f"edge {__version__}\n")


def imported_packages() -> set[str]:
    """The distributions, by normalised name, that the sources of the server import."""
    roots: set[str] = set()
    for top in ("edge", "broker"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(), path)):
                if isinstance(node, ast.Import):
                    roots |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    roots.add((node.module or "").split(".")[0])
        for path in (ROOT / top).rglob("*.pyx"):
            roots |= set(
                re.findall(r"^\s*(?:import|from)\s+(\w+)[\w.]*(?:\s+import|\s*$)", path.read_text(), re.MULTILINE)
            )
    foreign = roots - set(sys.stdlib_module_names) - {"edge", "broker"}
    homes = packages_distributions()
    assert foreign <= set(homes), f"not installed: {foreign - set(homes)}"
    return {homes[root][0].lower().replace("_", "-") for root in foreign}


def test_the_dependencies_are_those_that_are_imported() -> None:
    declared = {re.split(r"[\[<>=! ]", line)[0].lower().replace("_", "-") for line in PROJECT["dependencies"]}
    assert declared == imported_packages()
