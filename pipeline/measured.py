"""What the networks of a run are worth where they will run: files, times in one runtime, accuracy beside latency.

The rival of every cut is the uncut network at a smaller input, which costs nobody anything to make: it is scored too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from common.errors import UserError, first_line
from common.log import log
from data import DataSpec
from engine import distributed
from engine.bootstrap import Matches
from engine.config import TrainConfig
from engine.evaluate import Score, evaluate
from export.files import megabytes
from export.formats import runtime_title
from export.latency import DeployedLatency, call_rounds, caller
from export.options import ExportOptions
from export.to_onnx import need_onnx
from models.network import Network
from pipeline.exporting import Exporter
from reporting.outcome import Made
from reporting.record import Point, interval_record
from reporting.results import interval_of
from reporting.speed import Speeds, kept_or, key_of

SHARES = (0.75, 0.5)
"""Of the input's sides, at which the uncut network is scored as well."""
USUAL_FILES = "onnx,int8"
ONNX_RUNTIME, PYTORCH = "onnxruntime", "torch"
ROUNDS = 20
LEAST_LOSS = 0.005
"""mAP50-95; where pictures are too few for an interval, a file may lose so much."""


@dataclass
class Measured:
    """What was measured for the figure of accuracy and latency; see `reporting.record.Record`."""

    points: list[Point] = field(default_factory=list)
    timed: str = ""
    ship: int | None = None
    ship_why: str = ""
    matches: dict[str, Matches | None] = field(default_factory=dict)
    speeds: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Mark:
    """A network that is scored and timed.

    Attributes:
        kind: see `reporting.record.Point`.
        size: (H, W) of its input.
        network: what runs, or in its place the file `made`.
        path: its file, of what may be used.
        scored: what is scored in the place of `network`: a teacher with the student's classes.
    """

    name: str
    kind: str
    size: tuple[int, int]
    score: Score
    network: Network
    made: Made | None = None
    path: Path | None = None
    scored: nn.Module | None = None


def wanted_files(config: TrainConfig) -> str:
    """The formats that ``--files`` asks for, "" for none.

    Raises:
        UserError: there is no such format, or ONNX is asked for by name and not installed.
    """
    asked = config.files.strip().lower()
    if asked in ("", "none", "off"):
        return ""
    if asked == "auto":
        try:
            need_onnx()
        except UserError:
            return ""
        return USUAL_FILES
    try:
        formats = ExportOptions(weights="network.pt", to=asked, data=config.data or "data.yaml").formats
    except UserError as error:
        raise UserError(error.problem.replace("--to", "--files", 1), todo=error.todo) from None
    if any(".onnx" in end for each in formats for end in each.endings):
        need_onnx()
    return asked


def smaller_sizes(size: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """`SHARES` of an input (H, W), in multiples of the stride; each once, and none as large as the input."""
    found = [tuple(max(stride, round(share * side / stride) * stride) for side in size) for share in SHARES]
    return [each for each in dict.fromkeys(found) if each != size]  # type: ignore[misc]


def smaller_marks(fat: Mark, spec: DataSpec, split: str, config: TrainConfig) -> list[Mark]:
    """The uncut network at smaller inputs, scored by this process alone."""
    device = distributed.start(config.device)
    found = []
    for size in smaller_sizes(config.input_size, fat.network.max_stride):
        judged: Any = fat.scored or fat.network
        score = evaluate(judged, spec, split, size, config.scoring_batch, device, workers=config.workers, matched=True)
        found.append(Mark(f"{fat.name} at {size[1]}x{size[0]}", "smaller", size, score, fat.network))
    return found


def measured(
    marks: list[Mark],
    split: str,
    config: TrainConfig,
    run: Path,
    kept: Any = None,
    instead: tuple[str, str] | None = None,
) -> Measured:
    """Write the files of the last network, and time everything side by side.

    What a converter or a runtime of others raises costs no run its report: it is said.

    Args:
        marks: the uncut network first, then others, the run's last network with its file last.
        split: of the data set, which the scores are of.
        kept: times taken before, see `reporting.speed.kept_or`.
        instead: the name of the mark to use in the place of the last network and its files, and why.
    """
    found = Measured()
    last, others = marks[-1], list[Mark]()
    assert last.path is not None
    try:
        files, found.ship_why = _files(last.path, split, config)
    except Exception as error:  # whatever a converter of others raises, hours of training are behind this line
        files, found.ship_why = [], f"No file was written: {first_line(error)}"
        log.warning("%s", found.ship_why)
    for made in files:
        if made.net is None or made.score is None:
            continue  # nothing here runs it
        if getattr(made.net, "runtime", "") == ONNX_RUNTIME and made.description.precision == "fp32":
            last = replace(last, made=made, path=made.path)  # the network itself, as networks are timed
        else:
            name = f"{last.name}, {made.title}"
            others.append(Mark(name, "file", last.size, made.score, last.network, made, made.path))
    marks = [*marks[:-1], last, *others]
    speeds, runtime = _speeds(marks, ONNX_RUNTIME if files else PYTORCH, kept)
    found.timed, found.speeds = speeds.what, speeds.as_dict()
    for mark in marks:
        found.points.append(_point(mark, marks[0], speeds, runtime, run))
        found.matches[mark.name] = mark.score.matches
    found.ship = marks.index(last)
    if choice := _ship(marks, found.points):
        found.ship, found.ship_why = choice
    if instead is not None:
        found.ship, found.ship_why = next(
            (place, instead[1]) for place, each in enumerate(marks) if each.name == instead[0]
        )
    return found


def _files(weights: Path, split: str, config: TrainConfig) -> tuple[list[Made], str]:
    """The files that ``--files`` asks for, and why there is none."""
    to = wanted_files(config)
    todo = f"thinyolo export --weights {weights} --to {USUAL_FILES} --data {config.data}"
    if not to:
        why = "--files none" if config.files.strip().lower() != "auto" else "ONNX Runtime is not installed here"
        install = "" if why.startswith("-") else "pip install -e '.[export]', then "
        return [], f"It runs in PyTorch only, for no other file was asked for ({why}): {install}{todo}"
    threads = torch.get_num_threads()
    try:
        exporter = Exporter(
            ExportOptions(
                weights=str(weights),
                to=to,
                data=config.data,
                imgsz=f"{config.input_size[1]}x{config.input_size[0]}",
                split=split,
                single_cls=config.single_cls,
                threads=1,
            )
        )
        exporter.make()
    finally:
        torch.set_num_threads(threads)
    for name, refusal in exporter.refused:
        log.warning("%s was not made: %s", name, refusal)
    return exporter.made, "; ".join(f"{name} was not made: {refusal.problem}" for name, refusal in exporter.refused)


def _speeds(marks: list[Mark], runtime: str, kept: Any = None) -> tuple[Speeds, str]:
    """CPU times in the same rounds, of networks of equal cost once, and in which runtime networks ran.

    Where files are made that is ONNX Runtime: what a network takes in PyTorch says little of where it will run.
    """
    timed = {
        mark.name: [*mark.size, models.fingerprint(mark.network), mark.made.title if mark.made else ""]
        for mark in marks
    }
    speeds = kept_or(kept, key_of(timed, runtime), lambda: _timed(marks, runtime))
    return speeds, PYTORCH if speeds.runtime == runtime_title(PYTORCH) else runtime


def _timed(marks: list[Mark], runtime: str) -> Speeds:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = {_cost(mark): mark for mark in reversed(marks)}
        try:
            calls = {mark.name: _call(mark, runtime) for mark in first.values()}
        except Exception as error:  # as above
            log.warning("timed in PyTorch, for the networks could not be run as ONNX: %s", first_line(error))
            runtime = PYTORCH
            calls = {mark.name: _call(mark, runtime) for mark in first.values()}
        times = call_rounds(calls, ROUNDS)
        return Speeds({mark.name: times[first[_cost(mark)].name] for mark in marks}, runtime_title(runtime))
    finally:
        torch.set_num_threads(threads)


def _cost(mark: Mark) -> tuple[object, ...]:
    """The same for networks that take equally long."""
    network = mark.network
    return mark.made and mark.path, models.parameters(network), models.macs(network, mark.size), mark.size


def _call(mark: Mark, runtime: str) -> Callable[[], None]:
    if mark.made is not None and mark.made.net is not None:
        return caller(mark.made.net, mark.size)
    if runtime == PYTORCH:
        return caller(mark.network.cpu().eval(), mark.size)
    return caller(DeployedLatency(mark.size, threads=1).opened(mark.network), mark.size)


def _point(mark: Mark, fat: Mark, speeds: Speeds, runtime: str, run: Path) -> Point:
    inside = mark.path is not None and mark.path.resolve().is_relative_to(run.resolve())
    return {
        "name": mark.name,
        "kind": mark.kind,
        "size": list(mark.size),
        "map50_95": mark.score.map50_95,
        "against": None if mark is fat else interval_record(interval_of(fat.score, mark.score)),
        "macs": models.macs(mark.network, mark.size),
        "ms": speeds.cpu_ms(mark.name),
        "runtime": getattr(mark.made.net, "runtime", runtime) if mark.made else runtime,
        "megabytes": megabytes(mark.path) if mark.path else models.megabytes(mark.network),
        "file": ""
        if mark.path is None
        else str(mark.path.resolve().relative_to(run.resolve()) if inside else mark.path),
    }


def _ship(marks: list[Mark], points: list[Point]) -> tuple[int, str] | None:
    """The place of the file to use, and why; None where there is none.

    It is the fastest of the last network's files (the smallest, where times are withheld) that is not shown to detect
    worse than the network itself.
    """
    places = [place for place, mark in enumerate(marks) if mark.made is not None]
    if not places:
        return None
    whole = next(mark for mark in reversed(marks) if mark.kind != "file").score
    words, fit = [], []
    for place in places:
        score = marks[place].score
        interval = interval_of(whole, score)
        change = score.map50_95 - whole.map50_95
        worse = interval.sign < 0 if interval is not None and interval.low is not None else change < -LEAST_LOSS
        fit += [] if worse else [place]
        if score is not whole:
            beside = f" ({interval})" if interval is not None else ""
            said = " detects worse" if worse else ""
            words.append(f" {marks[place].name}{said}: mAP50-95 {change:+.3f} to it{beside}.")

    def price(place: int) -> float:
        point = points[place]
        return (point["ms"] if point["ms"] is not None else point["megabytes"]) or 0.0

    best = min(fit or places, key=price)
    what = "fastest" if points[best]["ms"] is not None else "smallest"
    rule = f"The {what} file that is not shown to detect worse than the network it was made of."
    if not fit:
        rule = f"The {what} file; all detect worse than the network they were made of."
    return best, rule + "".join(words)
