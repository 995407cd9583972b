"""A bounded part of `python -m tests.crash`: every line, a few of the points at which most has been lost before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.material import job

JOB = """
import sys
from pathlib import Path
import torch
from tests.crash.lines import Line, make_material
from tests.crash.test_crash import POINTS
torch.set_num_threads(1)
place = Path(sys.argv[1])
for kind, names in POINTS.items():
    line = Line.begin(kind, make_material(place / kind / "material"), place / kind)
    for name in names:
        number = len(line.points) - 1 - line.points[::-1].index(name)
        print(kind, name, line.attempt(number))
print("files left over:", list(place.rglob("*.tmp")))
"""
POINTS = {"train_prune": ["after a step of sparse"], "finetune_kd": ["after the file x/weights/last.pt"]}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_whoever_dies_here_and_is_resumed_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    done = job(JOB, tmp_path, timeout=300)
    wanted = [f"{kind} {name} []" for kind, names in POINTS.items() for name in names]
    assert done.stdout.splitlines() == [*wanted, "files left over: []"], done.stderr
