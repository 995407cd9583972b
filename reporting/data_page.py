"""The page of `thinyolo check --html`: a data set drawn, in one file that needs no other."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.errors import UserError
from common.reading import exists, why_no_file
from data.augment import fit, pixel_boxes
from data.labels import CheckReport, Scan
from data.pictures import read_picture
from data.problems import ERROR, remedy
from engine.lettering import drawable
from engine.pictures import draw_detections
from engine.plots import BESIDE, BLUE, GREY, LINES, new_figure, save_figure
from reporting.data_check import LARGE, SMALL, box_sizes, counts_table, pictures_per_class, sizes_lines
from reporting.html import embedded, rendered, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 8
"""Pictures of a split that are drawn."""
SIDE = 480
"""The longer side of a drawn picture."""
MOST_CLASSES = 40
"""Classes in the figure: the most frequent."""
EXAMPLES = 10
"""Places named of each kind of finding."""


def write_data_page(path: str | Path, report: CheckReport) -> Path:
    """Write the page of a data set that was checked: what was found, pictures with boxes, and what the boxes are like.

    Raises:
        UserError: it cannot be written there.
    """
    path = Path(path)
    _check_free(path)
    page = rendered(
        "data.html.j2",
        title=f"Data set {_shown(report.spec.source)}",
        verdict=_verdict(report),
        counts=counts_table(report),
        sizes=sizes_lines(report),
        findings=_findings(report),
        classes=_class_rows(report),
        splits=list(report.scans),
        figures=_figures(report),
        pictures={split: _samples(report, found) for split, found in report.scans.items()},
    )
    return write_page(path, page, "name another file for --html")


def _check_free(path: Path) -> None:
    """Refuse to write over anything but an earlier page: it may be a picture, or the data set's own description."""
    reason = "" if path.suffix.lower() in (".html", ".htm") else "does not end in .html"
    if not reason and exists(path) and not (reason := why_no_file(path)):
        with open(path, "rb") as handle:
            start = handle.read(15).lower()
        reason = "" if start == b"<!doctype html>" else "is there already, and is no such page"
    if reason:
        raise UserError(f"--html: {reason}", where=path, todo="name another file, such as data.html")


def _shown(path: Path) -> str:
    """A path as text: its name may hold bytes that are no UTF-8."""
    return str(path).encode(errors="replace").decode()


def _verdict(report: CheckReport) -> str:
    wrong, other = len(report.errors), len(report.warnings) + len(report.notes)
    if wrong:
        return f"{wrong} errors: no training would start on it. {other} things more to look at."
    return f"No errors; {other} things to look at." if other else "Nothing wrong was found."


def _findings(report: CheckReport) -> list[tuple[str, str, int, str, list[str]]]:
    """(severity, kind, how many, what to do, the first places), errors first."""
    groups: dict[tuple[str, str], list[str]] = {}
    todo: dict[tuple[str, str], str] = {}
    for problem in [*report.errors, *report.warnings, *report.notes]:
        key = (problem.severity, problem.kind)
        groups.setdefault(key, []).append(str(problem).encode(errors="replace").decode())
        todo.setdefault(key, remedy(problem))
    rows = [(*key, len(places), todo[key], places[:EXAMPLES]) for key, places in groups.items()]
    return sorted(rows, key=lambda row: (row[0] != ERROR, -row[2]))


def _class_rows(report: CheckReport) -> list[tuple[str, list[tuple[int, int]]]]:
    """(class, for each split boxes and pictures with any)."""
    classes = report.spec.classes
    columns = [(found.per_class(classes), pictures_per_class(found, classes)) for found in report.scans.values()]
    return [
        (name, [(int(boxes[number]), int(pictures[number])) for boxes, pictures in columns])
        for number, name in enumerate(report.spec.names)
    ]


def _figures(report: CheckReport) -> list[tuple[str, str]]:
    """(caption, picture) of each figure there is something to draw in."""
    if not any(found.boxes for found in report.scans.values()):
        return []
    captions: list[tuple[Callable[[CheckReport, Axes], None], str]] = [
        (_classes, "Boxes of each class. A class with few boxes is learnt badly; val and test need each of them too."),
        (_sizes, "Sizes of the boxes: the side of a square of the same area, in pixels of the picture."),
        (_shapes, "Width and height of the boxes as shares of the picture; darker: more boxes."),
        (_centres, "Where the centres of the boxes lie in the picture; darker: more boxes."),
        (_crowds, "How many boxes a picture has; 0 is background."),
        (_pictures, "Widths and heights of the pictures."),
    ]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for draw, caption in captions:
            height = max(3.2, 0.2 * min(report.spec.classes, MOST_CLASSES) + 1.2) if draw is _classes else 3.6
            figure, (axes,) = new_figure(width=5.6, height=height)
            draw(report, axes)
            figures.append((caption, embedded(save_figure(figure, Path(folder) / "figure.png"))))
    return figures


def _classes(report: CheckReport, axes: Axes) -> None:
    counts = {split: found.per_class(report.spec.classes) for split, found in report.scans.items()}
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")[:MOST_CLASSES][::-1]
    places, before = np.arange(len(order)), np.zeros(len(order))
    for (split, rows), colour in zip(counts.items(), LINES, strict=False):
        axes.barh(places, rows[order], left=before, color=colour, label=split)
        before = before + rows[order]
    shown = drawable(report.spec.names)
    names = [shown[number][:30] for number in order]
    axes.set_yticks(places, names, fontsize=8 if len(order) <= 20 else 6)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="boxes", title="Classes")
    axes.legend(**BESIDE)


def _sizes(report: CheckReport, axes: Axes) -> None:
    sides = {split: np.sqrt(box_sizes(found).prod(axis=1)) for split, found in report.scans.items()}
    every = np.concatenate(list(sides.values()))
    edges = np.geomspace(max(1.0, every.min() * 0.95), max(2.0, every.max() * 1.05), 40)
    _stacked(axes, sides, edges)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")  # its own are formulas, and texts are drawn as they are
    for bound in (SMALL, LARGE):
        axes.axvline(bound, color=GREY, linestyle="--", linewidth=1)
    axes.set(xlabel=f"pixels (dashed: {SMALL} and {LARGE}, COCO's small and large)", ylabel="boxes", title="Box sizes")


def _stacked(axes: Axes, values: dict[str, np.ndarray], edges: np.ndarray) -> None:
    colours = list(LINES[: len(values)])
    axes.hist(list(values.values()), bins=list(edges), stacked=True, color=colours, label=list(values))
    axes.legend(**BESIDE)


def _shares(report: CheckReport) -> np.ndarray:
    """(n, 4) cx, cy, w, h of all boxes as shares of their pictures."""
    return np.concatenate([labels[:, 1:] for found in report.scans.values() for labels in found.labels])


def _shapes(report: CheckReport, axes: Axes) -> None:
    boxes = _shares(report)
    axes.hist2d(boxes[:, 2], boxes[:, 3], bins=50, range=[[0, 1], [0, 1]], cmap="Blues", norm="symlog")
    axes.set(xlabel="width", ylabel="height", title="Box shapes", aspect="equal")


def _centres(report: CheckReport, axes: Axes) -> None:
    boxes = _shares(report)
    axes.hist2d(boxes[:, 0], boxes[:, 1], bins=50, range=[[0, 1], [0, 1]], cmap="Blues", norm="symlog")
    axes.invert_yaxis()  # as in the picture: y grows downwards
    axes.set(xlabel="left to right", ylabel="top to bottom", title="Centres", aspect="equal")


def _crowds(report: CheckReport, axes: Axes) -> None:
    counts = {split: np.array([len(labels) for labels in found.labels]) for split, found in report.scans.items()}
    most = max((int(rows.max()) for rows in counts.values() if len(rows)), default=0)
    step = max(1, -(-(most + 1) // 60))
    _stacked(axes, counts, np.arange(-0.5, most + step + 0.5, step))
    axes.set(xlabel="boxes in a picture", ylabel="pictures", title="Boxes a picture")


def _pictures(report: CheckReport, axes: Axes) -> None:
    shapes = np.concatenate([found.shapes for found in report.scans.values()])
    sizes, counts = np.unique(shapes, axis=0, return_counts=True)
    area = 20 + 180 * counts / counts.max()
    axes.scatter(sizes[:, 1], sizes[:, 0], s=area, color=BLUE, alpha=0.5, edgecolors="none")
    axes.set(xlim=(0, 1.1 * sizes[:, 1].max()), ylim=(0, 1.1 * sizes[:, 0].max()))
    axes.set(xlabel="width", ylabel="height", title="Picture sizes (larger: more pictures)", aspect="equal")


def _samples(report: CheckReport, found: Scan) -> list[tuple[str, str]]:
    """(caption, picture) of pictures with their boxes."""
    drawn = []
    for number in chosen(found, SHOWN):
        picture, labels = found.pictures[number], found.labels[number]
        try:
            image = read_picture(picture, report.spec.pixel_range)
        except UserError:
            continue  # changed since it was checked
        small = fit(image, (SIDE, SIDE)) if max(image.shape[:2]) > SIDE else image
        scale, origin = np.array(small.shape[1::-1], np.float32), np.zeros(2, np.float32)
        image = draw_detections(small, pixel_boxes(labels, scale, origin), report.spec.names, min_side=240)
        height, width = found.shapes[number]
        drawn.append((f"{_shown(Path(picture.name))}, {width} x {height}, {len(labels)} boxes", embedded(image)))
    return drawn


def chosen(found: Scan, count: int) -> Sequence[int]:
    """Numbers of pictures that show the split: one of each class, the rarest first, then evenly spaced ones."""
    chosen: dict[int, None] = {}
    per_class = found.per_class(1)
    for label in np.argsort(per_class, kind="stable"):
        holds = (number for number, labels in enumerate(found.labels) if (labels[:, 0] == label).any())
        if len(chosen) < count // 2 and (first := next(holds, None)) is not None:
            chosen[first] = None
    for number in np.linspace(0, len(found.pictures) - 1, min(count, len(found.pictures))).round().astype(int):
        if len(chosen) < count:
            chosen[int(number)] = None
    return sorted(chosen)
