"""Cross-fitted teachers: as many as there are folds, each trained without the pictures it is to teach on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from common.errors import UserError
from common.log import log
from data import DataSpec
from data.folds import folds_of, without_fold
from data.labels import scan
from models.network import Network
from pipeline.distil_options import DistilConfig


def check_members(config: DistilConfig, members: Sequence[Network]) -> None:
    """Refuse teachers that are not one a fold.

    Raises:
        UserError: there are more or fewer.
    """
    if config.cross_fit and len(members) != config.cross_fit:
        raise UserError(
            f"--cross-fit {config.cross_fit} with {len(members)} teacher{'s' if len(members) > 1 else ''}: each fold "
            "of the pictures has its own, trained without it",
            todo="--t_weights RUN/fold1/weights/best.pt+RUN/fold2/weights/best.pt, of a run of train_prune.py "
            f"--cross-fit {config.cross_fit}",
        )


def members_of_pictures(config: DistilConfig, spec: DataSpec) -> Tensor | None:
    """``(N,)``: which teacher a training picture has; None without cross-fitting."""
    if not config.cross_fit:
        return None
    return torch.from_numpy(folds_of(len(scan(spec, "train").pictures), config.cross_fit))


def fold_specs(config: DistilConfig, spec: DataSpec) -> list[DataSpec]:
    """What each teacher is trained on: the training split without its fold."""
    pictures = scan(spec, "train").pictures
    return [without_fold(spec, pictures, fold, config.cross_fit) for fold in range(config.cross_fit)]


def fold_epochs(epochs: int, folds: int) -> int:
    """So many that a teacher makes as many steps as the baseline: an epoch of fewer pictures is shorter."""
    return max(1, round(epochs * folds / (folds - 1)))


def say_cost(folds: int, epochs: int) -> None:
    """Before anything is trained."""
    log.info(
        "--cross-fit %d: %d more baselines, of %d epochs each on %.0f %% of the training pictures: %d times the "
        "baseline's time",
        folds,
        folds,
        fold_epochs(epochs, folds),
        100 * (folds - 1) / folds,
        folds,
    )
