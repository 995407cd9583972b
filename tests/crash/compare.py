"""Whether two runs' folders hold the same, but for what clocks and memory say."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import models
from common.rundir import ARGS, MARK

MEASURED = {"seconds", "memory_gb", MARK}
"""And the identity of a run, which is drawn."""
# Figures, and what holds measured times: only that they are there.
ONLY_THERE = {"report.html", "gammas.png", "channels.png", "ablation.png", "table.txt", "table.csv", "step_cost.json"}
ONLY_THERE |= {"table.json", "record.json"}


def differences(one: Path, other: Path) -> Iterator[str]:
    """Every way in which the run `other` differs from `one`, in words."""
    mine, theirs = ({path.relative_to(each) for path in each.rglob("*") if path.is_file()} for each in (one, other))
    for name in sorted(mine - theirs):
        yield f"{name} is missing"
    for name in sorted(theirs - mine):
        yield f"{name} is too much"
    for name in sorted(mine & theirs):
        if name.name not in ONLY_THERE and not _same(_content(one / name), _content(other / name)):
            yield f"{name} differs"


def _content(path: Path) -> Any:
    if path.suffix == ".pt":
        return models.read_checkpoint(path)
    if path.name == ARGS:
        return yaml.safe_load(path.read_text())
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name].tolist() for name in arrays.files}
    if path.suffix == ".json":
        return json.loads(path.read_text())
    if path.suffix == ".csv":
        with open(path, newline="") as handle:
            return list(csv.DictReader(handle))
    return path.read_bytes()


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - MEASURED
        return keys == other.keys() - MEASURED and all(_same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and (one == other or (one != one and other != other))
