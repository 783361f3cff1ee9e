"""Who may import whom: design in one table. A module that is in no row, or imports past its row, fails here.

Python files are read by their syntax tree, Cython files by their import and cimport lines. Imports inside functions
count: what keeps layers apart is knowledge, not time.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAVES = {"edge", "edge.config", "edge.errors", "edge.wire"}

# The longest matching name is a module's part; each may import itself and what stands in its row.
MAY_IMPORT: dict[str, set[str]] = {
    "edge": set(),
    "edge.config": set(),
    "edge.errors": set(),
    "edge.wire": {"edge.errors", "edge._fast.digest", "edge._fast.item", "edge._fast.scan"},  # which are leaves, too
    "edge._fast": set(),
    # The part of it that has to do with text, by its modules: so who needs one of them sees nothing of the engine.
    "edge._fast.buckets": {"edge._fast"},
    "edge._fast.digest": {"edge._fast"},
    "edge._fast.item": {"edge._fast"},
    "edge._fast.passed": set(),
    "edge._fast.said": set(),
    "edge._fast.plain": {"edge._fast"},
    "edge._fast.scan": {"edge._fast"},
    "edge._fast.sieve": {"edge._fast"},
    "edge._fast.sketch": set(),
    "edge.auth": LEAVES,
    "edge.metrics": LEAVES,
    "edge.box": LEAVES | {"edge.metrics"},
    "edge.options": LEAVES | {"edge.ingest", "broker.access", "broker.state_file"},
    "edge.rooms": LEAVES | {"edge._fast.said"},
    # Text in C, which is pure: no I/O, no clock, and what it knows of a character it has asked for in Python.
    "edge.ingest": LEAVES | {"edge._fast.plain", "edge._fast.sieve", "edge._fast.sketch"},
    "edge.ingest.classifier": LEAVES | {"edge.ingest"},
    "edge.ingest.limits": LEAVES | {"edge.ingest", "edge._fast.buckets"},  # which are shared with other workers
    "edge.ingest.pipeline": LEAVES | {"edge.ingest", "edge._fast.buckets"},
    "edge.api": LEAVES | {"edge.auth", "edge.metrics"},
    "edge.cabinet": LEAVES | {"broker.base"},
    "edge.eager": set(),
    "edge.speaker": LEAVES | {"edge.auth", "edge.ingest", "edge._fast.item"},
    "edge.ops": LEAVES | {"edge.auth", "edge.offers", "edge.speaker"},
    # What the worker is put together from: each knows the broker's contract, and none another, nor the engine.
    "edge.offers": LEAVES | {"broker.base"},
    "edge.scores": LEAVES | {"broker.base"},
    "edge.outside": LEAVES | {"edge.auth"},
    "edge.owner": LEAVES | {"edge.eager", "edge.rooms", "broker.base"},
    "edge.reactions": LEAVES | {"edge.auth", "edge.ingest", "edge.moderation", "edge.rooms", "broker.base"},
    "edge.rates": LEAVES,
    "edge.reports": LEAVES | {"edge.rooms", "broker.base"},
    "edge.trouble": LEAVES | {"broker.base"},
    "edge.moderation": LEAVES | {"edge.auth", "edge.cabinet", "edge.ingest", "edge.metrics", "broker.base"},
    "edge.known": LEAVES | {"edge.ingest", "broker.base"},
    "edge.paid": LEAVES | {"edge.auth", "edge.cabinet"},
    "edge.speech": LEAVES
    | {"edge.ingest", "edge.known", "edge.moderation", "edge.offers", "edge.speaker", "edge._fast.passed"},
    "edge.admission": LEAVES
    | {"edge.auth", "edge.ingest", "edge.moderation", "edge.ops", "edge.trouble", "edge.watch", "edge._fast"},
    "edge.hands": LEAVES
    | {"edge.moderation", "edge.offers", "edge.owner", "edge.scores", "edge.speech", "edge.watch", "broker.base"},
    "edge.service": LEAVES
    | {
        "edge.admission",
        "edge.auth",
        "edge.cabinet",
        "edge.moderation",
        "edge.offers",
        "edge.outside",
        "edge.paid",
        "edge.reactions",
        "edge.scores",
        "edge.speaker",
        "edge.speech",
        "edge.watch",
        "broker.base",
    },
    "edge.watch": LEAVES | {"edge.auth", "edge.rooms", "edge.scores", "broker.base"},
    "edge.worker": LEAVES
    | {
        "edge.admission",
        "edge.hands",
        "edge.known",
        "edge.moderation",
        "edge.offers",
        "edge.ops",
        "edge.outside",
        "edge.owner",
        "edge.paid",
        "edge.reactions",
        "edge.rates",
        "edge.reports",
        "edge.scores",
        "edge.service",
        "edge.speaker",
        "edge.speech",
        "edge.trouble",
        "edge.watch",
        "edge._fast",
        "edge.rooms",
        "edge.ingest",
        "edge.api",
        "edge.auth",
        "edge.box",
        "edge.options",
    }
    | {"broker"},
    "edge.host": {
        "edge.box",
        "edge.config",
        "edge.errors",
        "edge.options",
        "edge.worker",
        "broker.local",
    },  # the last: a process of the box too
    "edge.cli": {"edge", "edge.config", "edge.errors", "edge.host", "edge.auth"},
    "broker": set(),
    "broker.access": {"broker"},
    "broker.base": {"broker"},
    "broker.state_file": {"broker"},
    "broker.local": {"broker"},
}

IMPURE = set(
    "asyncio time datetime socket ssl select selectors subprocess threading multiprocessing os io pathlib tempfile "
    "signal http urllib uvloop aiohttp nats picows websockets".split()
)
# `_fast` calls up in batches and knows no loop; rooms and ingest do no I/O and read no clock: time is an argument.
NEVER: dict[str, set[str]] = {
    "edge._fast": {"asyncio", "logging", "uvloop", "aiohttp"},
    "edge.rooms": IMPURE,
    "edge.ingest": IMPURE,
}

CYTHON_IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\s+\(?\s*([\w, ]+)|c?import\s+([\w.]+))", re.MULTILINE)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(importer: str, package: bool, level: int, name: str) -> str:
    base = importer.split(".")[: None if package else -1]
    base = base[: len(base) - level + 1]
    return ".".join([*base, name] if name else base)


def python_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = absolute(module_name(path), path.stem == "__init__", node.level, base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def cython_imports(path: Path) -> Iterator[str]:
    for base, names, plain in CYTHON_IMPORT.findall(path.read_text()):
        if plain:
            yield plain
        else:
            dots = len(base) - len(base.lstrip("."))
            base = absolute(module_name(path), False, dots, base.lstrip(".")) if dots else base
            yield from (f"{base}.{name.strip().split(' ')[0]}" for name in names.split(",") if name.strip())


def imports(path: Path) -> set[str]:
    return set((python_imports if path.suffix in (".py", ".pyi") else cython_imports)(path))


def part_of(name: str, parts: dict[str, set[str]]) -> str:
    """The longest name of the table that `name` is, or lies under; '' where it is under none."""
    pieces = name.split(".")
    return next((part for end in range(len(pieces), 0, -1) if (part := ".".join(pieces[:end])) in parts), "")


def sources() -> list[Path]:
    found = [path for top in ("edge", "broker") for path in (ROOT / top).rglob("*.py*")]
    return sorted(path for path in found if path.suffix in (".py", ".pyi", ".pyx", ".pxd"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    name = module_name(path)
    part = part_of(name, MAY_IMPORT)
    assert part != "edge" or name == "edge", f"{name} has no row in MAY_IMPORT: say what it may import"
    for imported in sorted(imports(path)):
        if imported.split(".")[0] in ("edge", "broker"):
            other = part_of(imported, MAY_IMPORT)
            allowed = MAY_IMPORT[part] | {part}
            assert any(other == row or (row != "edge" and other.startswith(f"{row}.")) for row in allowed), (
                f"{name} imports {imported}; {part} may import {', '.join(sorted(allowed))}"
            )
        else:
            assert imported.split(".")[0] not in NEVER.get(part, set()), f"{name} imports {imported}"


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    python = ROOT / "edge" / "rooms" / "x.py"
    assert absolute("edge.rooms.x", False, 1, "y") == "edge.rooms.y"
    assert absolute("edge.rooms", True, 1, "y") == "edge.rooms.y"
    assert absolute("edge.rooms.x", False, 2, "") == "edge"
    assert module_name(python) == "edge.rooms.x"
    cython = "from edge._fast cimport log, frame\nfrom .sys cimport now\ncimport edge.worker\n    import asyncio\n"
    found = [group for groups in CYTHON_IMPORT.findall(cython) for group in groups if group]
    assert found == ["edge._fast", "log, frame", ".sys", "now", "edge.worker", "asyncio"]
    script = tmp_path / "script.py"
    script.write_text("def f():\n    from edge import worker\n    import broker.memory as m\n")
    assert set(python_imports(script)) == {"edge.worker", "broker.memory"}
