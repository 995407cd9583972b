"""What every command that ends with a report puts into its record: data, machine, and one network against another."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.options import to_dict
from data import DataSpec
from engine import checkpoints
from engine.bootstrap import Matches
from engine.config import TrainConfig
from engine.evaluate import Score
from export.machine import processor
from pipeline.measured import Mark, measured, smaller_marks
from reporting.disagreement import compare_pictures, tally
from reporting.origin import data_name
from reporting.record import Record, class_records, interval_record, kept_speeds, pictures_record
from reporting.report import Row
from reporting.results import interval_of
from reporting.verdict import short_verdict


def begun_record(config: TrainConfig, spec: DataSpec, split: str, title: str, asked: str) -> Record:
    """The parts that any run's record has."""
    counts = {name: len(pictures) for name, pictures in spec.splits.items() if pictures}
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "title": title,
        "asked": asked,
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
        "machine": f"{processor()}, {os.cpu_count()} cores{device}; PyTorch {torch.__version__.split('+')[0]}",
        "data": {
            "name": data_name(config.data),
            "classes": list(spec.names),
            "pictures": counts,
            "identity": checkpoints.pictures_of(spec),
        },
        "split": split,
        "size": list(config.input_size),
        "settings": {"run": to_dict(config)},
    }


def compared(record: Record, run: Path, spec: DataSpec, first: tuple[Row, Score], last: tuple[Row, Score]) -> None:
    """Fill in what a record says of one network against another: in words, class by class, picture by picture."""
    split = record["split"]
    (before, one), (after, other) = first, last
    classes, interval = class_records(one, other)
    seen = compare_pictures(one, other)
    record |= {
        "lead": short_verdict(before, after, split, interval),
        "interval": interval_record(interval),
        "classes": classes,
        "tally": tally(seen),
        "pictures": pictures_record(run, spec, split, seen),
    }


def costed(
    record: Record,
    run: Path,
    spec: DataSpec,
    config: TrainConfig,
    marks: Sequence[Mark],
    instead: tuple[str, str] | None = None,
) -> dict[str, Matches | None]:
    """Fill in the figure of accuracy and latency, which file to use, and what the uncut network is at smaller inputs.

    Args:
        marks: the uncut network first, the run's last network, which has a `path`, last.
        instead: see `pipeline.measured.measured`.

    Returns:
        What each network of the figure got right.
    """
    split, last = record["split"], marks[-1]
    smaller = smaller_marks(marks[0], spec, split, config)
    kept = kept_speeds(run).get("figure") if config.resume else None
    found = measured([*marks[:-1], *smaller, last], split, config, run, kept, instead)
    rivals = [
        short_verdict(_scored(last), _scored(each), split, interval_of(last.score, each.score)) for each in smaller
    ]
    record |= {
        "points": found.points,
        "timed": found.timed,
        "ship": found.ship,
        "ship_why": found.ship_why,
        "rivals": rivals,
        "speeds": {**record.get("speeds", {}), "figure": found.speeds},
    }
    return found.matches


def _scored(mark: Mark) -> Row:
    return Row(mark.name, map50=mark.score.map50, map50_95=mark.score.map50_95)


def lineage_records(lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ancestors without the numbers of their channels, which are long."""
    return [{"kind": each.get("kind"), "sha256": each["sha256"], "layers": len(each["layers"])} for each in lineage]
