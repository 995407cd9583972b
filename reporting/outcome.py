"""What an export leaves in words: the model cards, and the table of all files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.evaluate import Score
from export.checks import Difference
from export.description import Description
from export.files import megabytes
from export.latency import Latency
from export.machine import busy, load_average, processor
from export.opening import Opened
from export.options import ExportOptions
from reporting.card import write_card
from reporting.origin import Facts, data_name
from reporting.tables import table

ROUNDS = 20  # of the table's latency


@dataclass
class Made:
    """A file that was written, and what was measured of it.

    Attributes:
        title: the format in words.
        path: the file (of two, the one that is opened).
        description: what it says about itself.
        net: the file, opened by a runtime that is here; None where none is.
        difference: to PyTorch's outputs.
        score: on ``--split``.
        latency: beside the others.
        note: a footnote of the table.
        more: further facts for the card.
    """

    title: str
    path: Path
    description: Description
    net: Opened | None = None
    difference: Difference | None = None
    score: Score | None = None
    latency: Latency | None = None
    note: str = ""
    more: Facts = field(default_factory=dict)


@dataclass(frozen=True)
class About:
    """What the figures of an export depend on.

    Attributes:
        options: of the command.
        size: (H, W) of the network's input.
        threads: CPU threads.
        folder: where the files are.
    """

    options: ExportOptions
    size: tuple[int, int]
    threads: int
    folder: Path


def write_cards(made: Sequence[Made], torch_score: Score | None, facts: Facts, about: About) -> None:
    """A card for each file, `facts` being the network's."""
    for each in made:
        measured: Facts = {"format": each.title, **each.more}
        if each.difference is not None:
            measured |= {
                "difference": each.difference.absolute,
                "difference_measure": each.difference.measure,
                "difference_on": each.difference.where,
            }
        if each.score is not None and torch_score is not None:
            measured["scores"] = {
                "data": data_name(about.options.data),
                "split": about.options.split,
                **each.score.as_dict(),
                **{f"torch_{name}": value for name, value in torch_score.as_dict().items()},
            }
        if each.latency is not None and each.net is not None:
            measured["latency"] = {
                "median_ms": each.latency.median_ms,
                "ratio_to_torch": each.latency.ratio_to_first,
                "cpu_ms": each.latency.cpu_ms,
                "cpu_ratio_to_torch": each.latency.cpu_ratio,
                "runtime": getattr(each.net, "runtime", "torch"),
                "threads": about.threads,
                "machine": processor(),
                "load_average": load_average(),
            }
        write_card(each.path, each.description, facts, measured)


def tell(rows: Sequence[Made], about: About) -> None:
    """Print the table and its footnotes; the first row is PyTorch's."""
    lines = []
    for row in rows:
        score, latency = row.score, row.latency
        lines.append(
            [
                row.title,
                row.path.name,
                f"{megabytes(row.path):.2f}",
                "-" if row.difference is None else f"{row.difference.absolute:.1e}",
                "-" if score is None else f"{score.map50_95:.4f}",
                "-" if score is None else f"{score.map50:.4f}",
                "-" if latency is None else f"{latency.median_ms:.2f}",
                "-" if latency is None else f"{latency.ratio_to_first:.2f}",
                "-" if latency is None else f"{latency.cpu_ms:.2f}",
            ]
        )
    heading = ["format", "file", "MB", "difference", "mAP50-95", "mAP50", "latency ms", "ratio", "CPU ms"]
    print(table(heading, lines, left=2))
    print("\n".join(_footnotes(rows, about)))


def _footnotes(rows: Sequence[Made], about: About) -> list[str]:
    options = about.options
    where = f"mAP on {options.split} of {options.data}" if options.data else "--data would measure mAP"
    notes = [f"input {about.size[1]}x{about.size[0]}; {where}"]
    compared = dict.fromkeys(
        f"{each.measure} to PyTorch's {each.what}, {each.where}" for row in rows if (each := row.difference) is not None
    )
    notes += [f"difference: {each}" for each in compared]
    if options.data and options.outputs == "boxes" and any(not row.description.spec.one_to_one for row in rows):
        notes.append(
            f"mAP of boxes: of those above --conf {options.conf:g} only, at most {options.max_det} of a class; "
            "PyTorch's counts all down to .001 and so is higher: compare these files with each other"
        )
    if any(row.latency for row in rows):
        words = "1 thread" if about.threads == 1 else f"{about.threads} threads"
        notes.append(f"latency, CPU: a picture, median of {ROUNDS} interleaved rounds, {words} (thinyolo latency)")
        notes += filter(None, [busy(about.threads)])
    notes += [f"{row.path.name}: {row.note}" for row in rows if row.note]
    if len(rows) > 1:
        notes.append(f"files and model cards: {about.folder}")
    return notes
