"""The numbers of a run: every network scored the same way, timed in the same rounds, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import models
from data import DataSpec
from data.spec import SCORED
from engine import distributed, evaluate
from engine.bootstrap import Interval, paired_interval
from engine.config import TrainConfig
from engine.evaluate import Score
from models.network import Network
from reporting.report import Row
from reporting.speed import Speeds, measured_speeds

Scores = dict[str, Score]


def scores(
    network: Network,
    spec: DataSpec,
    config: TrainConfig,
    folder: Path | None = None,
    splits: Sequence[str] = ("val", "test"),
) -> Scores:
    """Split -> score, for those of `splits` the data set has; with figures in `folder`.

    It runs on the training's device, where the network stays. Rank 0 scores for all ranks: every one has to call.
    """
    device = distributed.start(config.device)
    if not distributed.is_main():
        return distributed.broadcast(None)
    found = {
        split: evaluate(
            network,
            spec,
            split,
            config.input_size,
            config.scoring_batch,
            device,
            workers=config.workers,
            plots_dir=folder and folder / split,
            matched=True,
        )
        for split in splits
        if spec.splits.get(split)
    }
    return distributed.broadcast(found)


def shown_split(spec: DataSpec) -> str:
    """The split a table is about: "test" where the data set has one, for "val" has chosen the best epoch."""
    return "test" if spec.splits.get("test") else "val"


def table(
    networks: Mapping[str, Network], found: Mapping[str, Score], size: tuple[int, int], kept: Any = None
) -> tuple[list[Row], Speeds]:
    """A row per network: size and cost, CPU time in interleaved rounds, and `found`'s mAP of the same name.

    Time is always the CPU's, wherever the networks were trained; on the CPU they stay.

    Args:
        kept: times taken before, see `reporting.speed.kept_or`.
    """
    speeds = measured_speeds({name: network.cpu() for name, network in networks.items()}, size, kept)
    rows = [
        Row(
            name,
            models.parameters(network),
            models.megabytes(network),
            models.macs(network, size),
            speeds.cpu_ms(name),
            map50=found[name].map50 if name in found else None,
            map50_95=found[name].map50_95 if name in found else None,
        )
        for name, network in networks.items()
    ]
    return rows, speeds


def counted(score: Score) -> str:
    """Which boxes an mAP counts, in a sentence: more than so many of a class in a picture are not looked at."""
    more = f"; {score.crowded} of the {score.images} pictures hold more, so it stays low" if score.crowded else ""
    return f"mAP counts the {score.scored} most confident boxes of a class in a picture (max_det){more}"


def footnote(score: Score) -> str:
    """`counted`, where the number is not COCO's or some picture holds more; else "", for it changes nothing."""
    return counted(score) if score.crowded or score.scored != SCORED else ""


def interval_of(before: Score, after: Score) -> Interval | None:
    """How sure the difference between two scores is; None where they do not hold what was right in each picture."""
    if before.matches is None or after.matches is None:
        return None
    return paired_interval(before.matches, after.matches)


def pictures(folder: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Any]]]:
    """(caption, file) of the figures and of the prediction pictures an evaluation left in `folder`."""
    figures, shown = (
        [(path.stem.replace("_", " "), path) for path in sorted(folder.glob(pattern))] for pattern in ("*.png", "*.jpg")
    )
    return figures, list(shown)
