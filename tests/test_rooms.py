"""Imports run one way, as docs/design.md draws them; nothing but a room's own code knows what is above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the top down; rooms on one floor do not know each other.
FLOORS = (
    ("train_prune", "finetune_kd"),
    ("thinyolo",),
    ("pipeline",),
    ("reporting",),
    ("prune", "distill", "export"),
    ("engine",),
    ("data",),
    ("models",),
    ("common",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def files() -> list[Path]:
    rooms = [path for room in FLOOR for path in (ROOT / room).rglob("*.py")]
    return [*rooms, *ROOT.glob("*.py")]


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, room) of every import, in functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, each.name.split(".")[0]) for each in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.lineno, node.module.split(".")[0]))
    return found


def test_every_room_is_drawn() -> None:
    drawn = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    arrows = next(line for line in drawn.splitlines() if line.startswith("train_prune.py, finetune_kd.py ->"))
    assert [tuple(part.strip(" ()").replace(".py", "").split(", ")) for part in arrows.split("->")] == list(FLOORS)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "cfg", "benchmarks"}
    assert packages <= set(FLOOR)


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downwards(path: Path) -> None:
    mine = path.relative_to(ROOT).parts[0].removesuffix(".py")
    wrong = [
        f"line {line}: {room}"
        for line, room in imported(path)
        if room in FLOOR and room != mine and not FLOOR[room] > FLOOR[mine]
    ]
    assert wrong == []
