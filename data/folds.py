"""The training pictures in folds, so that each can be taught by a teacher that has not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.errors import UserError
from data.spec import DataSpec

RUNS = 10
"""Runs of neighbours that each fold gets: neighbours, by name, are often frames of one scene and belong together."""


def folds_of(count: int, folds: int) -> np.ndarray:
    """The fold ``(count,)``, from 0, of each picture of a split in its order; a function of the two numbers alone.

    Raises:
        UserError: there are fewer pictures than folds.
    """
    if count < folds:
        raise UserError(f"{count} pictures do not make {folds} folds", todo="give more pictures, or --cross-fit 0")
    runs = min(RUNS * folds, count)
    return np.arange(count) * runs // count % folds


def without_fold(spec: DataSpec, pictures: Sequence[Path], fold: int, folds: int) -> DataSpec:
    """The data set whose training split lacks one fold of its `pictures`, those that are also in another fold too."""
    held = {path for path, own in zip(pictures, folds_of(len(pictures), folds), strict=True) if own == fold}
    kept = [path for path in pictures if path not in held]
    return replace(spec, splits={**spec.splits, "train": tuple(kept)})
