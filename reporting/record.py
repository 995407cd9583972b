"""What a run leaves for its report, in ``RUN/report``: numbers as JSON, pictures, and what was right in each picture.

The page is made of these alone, so that it can be made again, and runs can be compared, without the data set.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from common.errors import UserError
from common.files import whole_file
from common.reading import read_text
from data import DataSpec
from data.pictures import read_picture
from engine.bootstrap import Interval, Matches, paired_intervals
from engine.evaluate import Score
from reporting.disagreement import Seen, shrunk, worst
from reporting.html import jpeg

FOLDER = "report"
RECORD, MATCHES = f"{FOLDER}/record.json", f"{FOLDER}/matches.npz"
AGAIN = "--resume of the run writes it anew"
_PARTS = ("picture", "label", "right", "truth")


class Point(TypedDict):
    """A network as it would be run: one mark of the accuracy-latency figure.

    Keys:
        name, kind: kind is "fat", "cut", "file" or "smaller" (the fat network at a smaller input).
        size: (H, W) of the input.
        map50_95: on the split of the record; `against`: its difference to the fat network's, see `interval_record`.
        macs: multiply-adds of a picture.
        ms: milliseconds of CPU time a picture in `runtime`; None where they are withheld.
        megabytes, file: of the file, relative to the run.
    """

    name: str
    kind: str
    size: Sequence[int]
    map50_95: float | None
    against: dict[str, Any] | None
    macs: float | None
    ms: float | None
    runtime: str
    megabytes: float | None
    file: str


class Record(TypedDict, total=False):
    """What a report is made of. Every part may be missing; its section is then left out. Paths start at the run.

    Keys:
        title, intro: the heading and a sentence below it.
        made, machine: when, and on what.
        data: "name", "classes", "pictures" (split -> count), "identity" (see `engine.checkpoints.pictures_of`).
        split, size: what mAP was scored on, at which (H, W); `resize`: how pictures were brought to it.
        asked: the options that say what the run was to do.
        verdict: the verdict, a comparison a line; `lead`: how well the last network detects, in one sentence.
        interval: of the last network's mAP50-95 against the baseline's, see `interval_record`.
        rows: the table, `reporting.report.Row` as mappings; `baseline` and `last` name two of them.
        measured_with, counted: what the table's times are, and which boxes its mAP counts.
        rivals: sentences on the uncut network at smaller inputs.
        points, timed: the figure of accuracy and latency, and what its times are.
        ship: the place in `points` of the file to use, `ship_why` why that one.
        classes: a mapping a class: "name", "boxes", "first", "second" (AP50-95) and "against".
        tally, pictures: see `reporting.disagreement.tally` and `pictures_record`.
        cut: a mapping a cut: "title", "plain" (sentences), "text" (the whole report).
        channels: the figure of channels, `layers` the table: a mapping a row, all with the same keys.
        gammas: the figure of the gammas.
        results: stage -> its `results.csv`.
        figures: (caption, file): PR curve, confusion matrix, ...
        speeds: the times behind "table" and "figure", `reporting.speed.Speeds` as mappings.
        settings: resolved options; `lineage`: the ancestors, oldest first.
    """

    title: str
    intro: str
    made: str
    machine: str
    data: Mapping[str, Any]
    split: str
    size: Sequence[int]
    resize: str
    asked: str
    verdict: str
    lead: str
    interval: Mapping[str, Any] | None
    rows: Sequence[Mapping[str, Any]]
    baseline: str
    last: str
    measured_with: str
    counted: str
    rivals: Sequence[str]
    points: Sequence[Point]
    timed: str
    ship: int | None
    ship_why: str
    classes: Sequence[Mapping[str, Any]]
    tally: Mapping[str, int]
    pictures: Sequence[Mapping[str, Any]]
    cut: Sequence[Mapping[str, Any]]
    channels: str
    layers: Sequence[Mapping[str, Any]]
    gammas: str
    results: Mapping[str, str]
    figures: Sequence[Sequence[str]]
    speeds: Mapping[str, Any]
    settings: Mapping[str, Any]
    lineage: Sequence[Mapping[str, Any]]


def interval_record(interval: Interval | None) -> dict[str, Any] | None:
    """ "difference", "low", "high", "pictures" of an interval, as JSON has them."""
    if interval is None:
        return None
    return {
        "difference": _finite(interval.difference),
        "low": interval.low,
        "high": interval.high,
        "pictures": interval.pictures,
    }


def class_records(first: Score, second: Score) -> tuple[list[dict[str, Any]], Interval | None]:
    """A mapping a class with objects, as `Record.classes` has them, and the interval of the mean."""
    mean, by_class = None, [None] * len(first.per_class)
    if first.matches is not None and second.matches is not None:
        mean, by_class = paired_intervals(first.matches, second.matches)  # type: ignore[assignment]
    rows = [
        {
            "name": name,
            "boxes": row["boxes"],
            "first": row["ap50_95"],
            "second": second.per_class[name]["ap50_95"],
            "against": interval_record(interval),
        }
        for (name, row), interval in zip(first.per_class.items(), by_class)
        if row["ap50_95"] is not None
    ]
    return rows, mean


def pictures_record(run: Path, spec: DataSpec, split: str, compared: Sequence[Seen]) -> list[dict[str, Any]]:
    """The pictures that show best where two networks differ, the worst for the second first; left in the run.

    A mapping a picture: "file", "name", "size" (H, W) of the picture, "scale" of the file beside it, and `Seen`'s.
    """
    kept = []
    for number, place in enumerate(worst(compared)):
        path = spec.splits[split][place]
        try:
            image = read_picture(path, spec.pixel_range)
        except UserError:
            continue  # gone since it was scored
        small = shrunk(image)
        name = f"{FOLDER}/{number}.jpg"
        with whole_file(run / name) as temporary:
            temporary.write_bytes(jpeg(small))
        kept.append(
            {
                "file": name,
                "name": path.name,
                "size": list(image.shape[:2]),
                "scale": small.shape[1] / image.shape[1],
                "objects": compared[place].objects,
                "false": compared[place].false,
            }
        )
    return kept


def write_record(run: Path, record: Record, matches: Mapping[str, Matches | None]) -> None:
    """Leave a record in the run, and what each network of `matches` got right, as far as that is known."""
    known = {name: each for name, each in matches.items() if each is not None}
    arrays = {f"{number}_{part}": getattr(each, part) for number, each in enumerate(known.values()) for part in _PARTS}
    with whole_file(run / MATCHES) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, names=np.array(list(known), dtype=np.str_), **arrays)
    with whole_file(run / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")


def read_record(run: Path) -> Record:
    """The record that a run has left.

    Raises:
        UserError: there is none, or it is damaged.
    """
    try:
        record = json.loads(read_text(run / RECORD, todo=AGAIN))
    except (ValueError, RecursionError) as error:
        raise UserError(f"is damaged: {error}", where=run / RECORD, todo=AGAIN) from None
    if not isinstance(record, dict) or not set(record) <= set(Record.__annotations__):
        raise UserError("is no record of a run", where=run / RECORD, todo=AGAIN)
    return record  # type: ignore[return-value]


def kept_speeds(run: Path) -> Mapping[str, Any]:
    """`Record.speeds` of a run that is resumed; nothing where it has not ended yet."""
    try:
        found = read_record(run).get("speeds")
    except UserError:  # absent, or damaged: it is written anew
        return {}
    return found if isinstance(found, dict) else {}


def read_matches(run: Path) -> dict[str, Matches]:
    """What each network of a run got right in each picture of the split.

    Raises:
        UserError: there is nothing, or it is damaged.
    """
    path = run / MATCHES
    try:
        with np.load(path, allow_pickle=False) as kept:
            return {
                str(name): Matches(*(kept[f"{number}_{part}"] for part in _PARTS))
                for number, name in enumerate(kept["names"])
            }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot be read: {error}", where=path, todo=AGAIN) from None


def in_run(run: Path, name: str) -> Path:
    """A file that a record names.

    Raises:
        UserError: it would be outside the run.
    """
    path = (run / name).resolve()
    if not path.is_relative_to(run.resolve()):
        raise UserError(f"names a file that is not the run's: {name[:80]!r}", where=run / RECORD, todo=AGAIN)
    return path


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
