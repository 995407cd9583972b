"""The proof: a table and a verdict from measured numbers, and one self-contained HTML page per run."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.files import whole_file
from engine.plots import plot_channels, plot_gammas, plot_results

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Row:
    """One network in the table; None where something was not measured.

    Attributes:
        name: "baseline", "student", ...
        parameters: learned numbers.
        megabytes: size of the saved weights (10^6 bytes).
        macs: multiply-adds for one picture.
        cpu_ms: milliseconds of CPU time for one picture.
        map50, map50_95: mean average precision on the split the table names.
        epochs: of all the training in this run that stands behind it.
        note: anything worth a footnote in the row.
    """

    name: str
    parameters: int | None = None
    megabytes: float | None = None
    macs: float | None = None
    cpu_ms: float | None = None
    map50: float | None = None
    map50_95: float | None = None
    epochs: int | None = None
    note: str = ""


class Summary(TypedDict, total=False):
    """What a report is made of. Every part may be missing; its section is then left out.

    Keys:
        title, intro: the heading and a sentence below it.
        verdict: the verdict, a comparison a line.
        rows: the table; `split` the split it was scored on, `size` the (H, W) it was measured at, `measured_with` what
            its times are, `counted` which boxes its mAP counts, `baseline` the name of the row that others are compared
            with.
        pruning: (heading, text) of each cut: what was asked, what was removed, what held the rest.
        channels: (layer, channels before, channels after) in the network's order, for the figure.
        layers: the layer-by-layer table, a mapping a row, all with the same keys.
        gammas: see `engine.plots.plot_gammas`.
        results: stage -> its `results.csv`; `reference` horizontal lines in them.
        figures: (caption, PNG or JPEG file): PR curve, confusion matrix, ...
        pictures: (caption, file or RGB array): predictions.
        settings: stage -> its resolved options.
        lineage: one entry an ancestor: text or a mapping.
        commands: what was typed, or what to type next.
    """

    title: str
    intro: str
    verdict: str
    rows: Sequence[Row]
    split: str
    size: tuple[int, int]
    measured_with: str
    counted: str
    baseline: str
    pruning: Sequence[tuple[str, str]]
    channels: Sequence[tuple[Any, int, int]]
    layers: Sequence[Mapping[str, Any]]
    gammas: Sequence[Mapping[str, Any]]
    results: Mapping[str, str | Path]
    reference: Mapping[str, float]
    figures: Sequence[tuple[str, str | Path]]
    pictures: Sequence[tuple[str, Any]]
    settings: Mapping[str, Any]
    lineage: Sequence[Any]
    commands: Sequence[str]


def scored_on(split: str, pictures: int, size: tuple[int, int]) -> str:
    """A footnote of the table: what its mAP is of; `size` is (H, W)."""
    return f"mAP: on the {pictures} pictures of {split}, at {size[1]}x{size[0]}"


EPOCHS = "epochs: of all training in this run that stands behind a network"

# (heading, value of a row, how it is written)
COLUMNS = (
    ("parameters", "parameters", "{:,.0f}"),
    ("MB", "megabytes", "{:.2f}"),
    ("MACs (G)", "macs", "{:.3f}"),
    ("CPU (ms)", "cpu_ms", "{:.1f}"),
    ("epochs", "epochs", "{:,.0f}"),
    ("mAP50", "map50", "{:.3f}"),
    ("mAP50-95", "map50_95", "{:.3f}"),
)


def _cells(row: Row) -> list[str]:
    cells = []
    for _, name, form in COLUMNS:
        value = getattr(row, name)
        if value is not None and name == "macs":
            value /= 1e9
        cells.append("-" if value is None else form.format(value))
    return cells


def text_table(rows: Sequence[Row]) -> str:
    """The table for the terminal."""
    lines = [["network", *(heading for heading, _, _ in COLUMNS), ""]]
    lines += [[row.name, *_cells(row), row.note] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def text(line: list[str]) -> str:
        name, *numbers, note = line
        right = (cell.rjust(width) for cell, width in zip(numbers, widths[1:]))
        return "  ".join([name.ljust(widths[0]), *right, note]).rstrip()

    return "\n".join([text(lines[0]), "-" * len(text(lines[0])), *map(text, lines[1:])])


def write_report(run_dir: str | Path, summary: Summary) -> Path:
    """Write ``run_dir/report.html``, and the figures made for it as PNG files beside it.

    The page holds its pictures itself: it can be sent as one file and opened without a network.
    """
    unknown = set(summary) - set(Summary.__annotations__)
    assert not unknown, f"a report has no section for {sorted(unknown)}"
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    rows = list(summary.get("rows", ()))
    base = next((row for row in rows if row.name == summary.get("baseline", "baseline")), None)
    page = rendered(
        "report.html.j2",
        title=summary.get("title", run_dir.name),
        intro=summary.get("intro", ""),
        verdict=summary.get("verdict", ""),
        headings=[heading for heading, _, _ in COLUMNS],
        rows=[(row.name, list(zip(_cells(row), _relative(row, base))), row.note) for row in rows],
        notes=any(row.note for row in rows),
        base=base.name if base else "",
        table_caption=_table_caption(summary),
        pruning=list(summary.get("pruning", ())),
        channels=_embedded_plot(run_dir / "channels.png", plot_channels, summary.get("channels")),
        layers=_layer_table(summary.get("layers", ())),
        gammas=_embedded_plot(run_dir / "gammas.png", plot_gammas, summary.get("gammas")),
        curves=_stage_curves(run_dir, summary),
        figures=[(caption, embedded(path)) for caption, path in summary.get("figures", ()) if Path(path).exists()],
        pictures=[(caption, embedded(picture)) for caption, picture in summary.get("pictures", ())],
        settings={stage: _settings(options) for stage, options in summary.get("settings", {}).items()},
        lineage=[entry if isinstance(entry, str) else _one_line(entry) for entry in summary.get("lineage", ())],
        commands=list(summary.get("commands", ())),
    )
    path = run_dir / "report.html"
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def rendered(template: str, **values: Any) -> str:
    """One of the pages in `TEMPLATES`, with nothing of `values` taken for markup."""
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(**values)


def _table_caption(summary: Summary) -> str:
    parts = []
    if "split" in summary:
        parts.append(f"mAP on the {summary['split']} split")
    if "size" in summary:
        height, width = summary["size"]
        parts.append(f"MACs and CPU time at {height} x {width} pixels (H x W), one picture")
    if text := summary.get("measured_with"):
        parts.append(text)
    if text := summary.get("counted"):
        parts.append(text)
    if any(row.epochs is not None for row in summary.get("rows", ())):
        parts.append(EPOCHS)
    return "; ".join(parts)


def _relative(row: Row, base: Row | None) -> list[str]:
    """Beside each number what it is in terms of the baseline's: a share, a factor, a difference."""
    if base is None or row is base:
        return [""] * len(COLUMNS)
    out = []
    for _, name, _ in COLUMNS:
        mine, theirs = getattr(row, name), getattr(base, name)
        if mine is None or theirs is None or (not theirs and not name.startswith("map")) or name == "epochs":
            out.append("")
        elif name.startswith("map"):
            out.append(f"{round(mine, 3) - round(theirs, 3):+.3f}")
        else:
            out.append(f"{mine / theirs:.0%}")
    return out


def _embedded_plot(path: Path, plot: Any, values: Any) -> str:
    if not values:
        return ""
    plot(values, path)
    return embedded(path)


def _stage_curves(run_dir: Path, summary: Summary) -> list[tuple[str, str]]:
    curves = []
    for number, (stage, results) in enumerate(summary.get("results", {}).items()):
        if not Path(results).exists():
            continue
        path = plot_results(results, run_dir / f"curves-{number}.png", summary.get("reference"))
        if path is not None:
            curves.append((stage, embedded(path)))
            path.unlink()  # the stage's own folder has it as results.png
    return curves


def _layer_table(layers: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    if not layers:
        return [], []
    headings = list(layers[0])
    return headings, [[_shown(row.get(heading)) for heading in headings] for row in layers]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def _settings(options: Any) -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat.append((prefix, _shown(value)))

    walk("", options)
    return flat


def _one_line(entry: Any) -> str:
    """An ancestor in words: channel lists are long, so only their number is given."""
    if isinstance(entry, Mapping) and "sha256" in entry:
        layers = entry.get("layers", {})
        return f"{entry.get('kind', 'ancestor')}: sha256 {entry['sha256']} ({len(layers)} layers kept channels of it)"
    return json.dumps(entry, default=str)


def embedded(picture: str | Path | np.ndarray) -> str:
    """A picture (file, or RGB array, which becomes a JPEG) as a data URI."""
    if isinstance(picture, np.ndarray):
        good, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
        assert good, "OpenCV cannot encode a JPEG"
        return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    path = Path(picture)
    kind = "png" if path.suffix.lower() == ".png" else "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(path.read_bytes()).decode()
