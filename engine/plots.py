"""Figures as PNG files: curves of an evaluation, of a training, of the gammas, channels before and after pruning."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.files import whole_file
from common.reading import read_text
from engine.lettering import drawable, letter_by_letter
from engine.metrics import CONFIDENCES, Curves
from engine.pictures import class_colour, mosaic, save_picture, side_by_side

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from engine.evaluate import Score

BLUE, ORANGE, GREY, RED = "#2563a8", "#d9822b", "#b8bfc6", "#b3372f"
LINES = (BLUE, ORANGE, RED, "#4b8b3b", "#7a5195")
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "axes.axisbelow": True,
    "figure.dpi": 110,
}
NOT_DRAWN = ("epoch", "step", "time", "seconds", "memory_gb", "gap")  # columns of results.csv that are no result
NAMED_CLASSES = 12  # more lines than this are drawn thin and without a legend entry
BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "fontsize": 8, "frameon": False}
"""Where a legend hides no data."""
LEGEND_LINE = 0.1  # of a panel's height, that a line of its legend takes


def new_figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure that needs no display and no clean-up: matplotlib's pyplot is not involved."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def _whole_numbers(axes: Axes) -> None:
    """There is no epoch 2.5."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))


def save_figure(figure: Figure, path: str | Path) -> Path:
    with whole_file(path) as temporary, letter_by_letter(figure):
        figure.savefig(temporary, format="png")
    return Path(path)


def plot_score(score: Score, folder: str | Path) -> list[Path]:
    """All figures of an evaluation: PR and F1 curves, confusion matrix, and the kept pictures (truth | predictions)."""
    folder, names = Path(folder), list(score.per_class)
    paths = [
        plot_pr(score, folder / "PR_curve.png"),
        plot_f1(score.curves, names, folder / "F1_curve.png"),
        plot_confusion(score.confusion, names, folder / "confusion_matrix.png"),
    ]
    if score.samples:
        pairs = [
            side_by_side(sample.image, [("ground truth", sample.truth), ("predicted", sample.detections)], names)
            for sample in score.samples
        ]
        paths.append(save_picture(folder / "predictions.jpg", mosaic(pairs, columns=2 if len(pairs) > 2 else 1)))
    return paths


def plot_pr(score: Score, path: str | Path) -> Path:
    """Precision over recall at IoU .50, a line a class and their mean."""
    labels = [
        f"{name}: AP50 {row['ap50']:.3f}" if row["ap50"] is not None else ""
        for name, row in zip(drawable(score.per_class), score.per_class.values())
    ]
    figure, (axes,) = new_figure()
    recall = np.linspace(0, 1, score.curves.pr.shape[1])
    _class_lines(axes, recall, score.curves.pr, labels, f"all classes: mAP50 {score.map50:.3f}")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall at IoU 0.50")
    return save_figure(figure, path)


def plot_f1(curves: Curves, names: Sequence[str], path: str | Path) -> Path:
    """F1 over confidence at IoU .50, a line a class and their mean, the best confidence marked."""
    figure, (axes,) = new_figure()
    mean = np.nanmean(curves.f1, axis=0)
    best = curves.best
    label = f"all classes: {mean[best]:.3f} at confidence {CONFIDENCES[best]:.2f}"
    _class_lines(axes, CONFIDENCES, curves.f1, drawable(names), label)
    axes.axvline(CONFIDENCES[best], color=RED, linewidth=1, linestyle=":")
    axes.set(xlabel="confidence", ylabel="F1", title="F1 over confidence at IoU 0.50")
    return save_figure(figure, path)


def _class_lines(axes: Axes, x: np.ndarray, rows: np.ndarray, labels: Sequence[str], mean_label: str) -> None:
    few = len(rows) <= NAMED_CLASSES
    for number, (row, label) in enumerate(zip(rows, labels)):
        if np.isnan(row).any():  # no ground truth
            continue
        colour = tuple(value / 255 for value in class_colour(number)) if few else GREY
        axes.plot(x, row, color=colour, linewidth=1.2 if few else 0.6, label=label if few else None)
    axes.plot(x, np.nanmean(rows, axis=0), color=BLUE if not few else "black", linewidth=2.4, label=mean_label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(**BESIDE)


def plot_confusion(matrix: np.ndarray, names: Sequence[str], path: str | Path) -> Path:
    """The confusion matrix, each column as shares of what is truly there; counts are written where they fit."""
    labels = [*drawable(names), "background"]
    count = len(labels)
    side = min(14.0, 3.6 + 0.42 * count)
    figure, (axes,) = new_figure(width=side + 0.8, height=side)
    columns = matrix.sum(axis=0, keepdims=True)
    shares = matrix / np.maximum(columns, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    every = max(1, math.ceil(count / 40))
    ticks = list(range(0, count, every))
    slant: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if count > 4 else {}
    axes.set_xticks(ticks, [labels[tick] for tick in ticks], **slant)
    axes.set_yticks(ticks, [labels[tick] for tick in ticks])
    axes.set(xlabel="truly", ylabel="detected as", title="Confusion at confidence 0.25, IoU 0.45")
    if count <= 16:
        for row in range(count):
            for column in range(count):
                if matrix[row, column]:
                    ink = "white" if shares[row, column] > 0.55 else "black"
                    text = f"{matrix[row, column]}\n{shares[row, column]:.0%}"
                    axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axes, fraction=0.045, label="share of the column")
    return save_figure(figure, path)


def plot_labels(labels: Sequence[np.ndarray], names: Sequence[str], path: str | Path) -> Path | None:
    """What a split's labels are like: boxes of each class, where their centres lie, how wide and high they are.

    Args:
        labels: a picture each, ``(t, 5)``: class, cx, cy, w, h as shares of the picture.
        names: class names.

    Returns:
        `path`, or None where there is no box.
    """
    boxes = np.concatenate([each[:, :5] for each in labels]) if labels else np.zeros((0, 5))
    if not len(boxes):
        return None
    figure, (classes, centres, sizes) = new_figure(1, 3, width=15)
    counts = np.bincount(boxes[:, 0].astype(int), minlength=len(names))
    few = len(names) <= NAMED_CLASSES
    colours = [tuple(value / 255 for value in class_colour(number)) for number in range(len(counts))] if few else BLUE
    classes.bar(range(len(counts)), counts, color=colours)
    if few:
        classes.set_xticks(range(len(names)), drawable(names), rotation=30 if len(names) > 4 else 0)
    classes.set(ylabel="boxes", title=f"{len(boxes):,} boxes in {len(labels):,} pictures")
    spread = ((0, 1), (0, 1))
    for axes, (x, y), title in (
        (centres, (boxes[:, 1], boxes[:, 2]), "Centres of the boxes"),
        (sizes, (boxes[:, 3], boxes[:, 4]), "Width and height of the boxes"),
    ):
        axes.hist2d(x, y, bins=40, range=spread, cmap="Blues")
        axes.grid(False)
        axes.set(title=title, xlabel="share of the picture's width", ylabel="share of its height")
    centres.invert_yaxis()  # as in a picture, the top is up
    return save_figure(figure, path)


def plot_results(results: str | Path, path: str | Path) -> Path | None:
    """The training curves of a `results.csv`, a panel a quantity.

    ``train/box`` and ``val/box`` share a panel, and so do ``student/mAP50`` and ``teacher/mAP50``.

    Args:
        results: the file; a row an epoch.
        path: the PNG to write.

    Returns:
        `path`, or None where the file has no row yet.
    """
    columns = read_results(results)
    if not columns:
        return None
    x, panels = result_panels(columns)
    margin = max(0.5, 0.05 * len(x))
    across = min(4, max(1, len(panels)))
    down = max(1, math.ceil(len(panels) / across))
    figure, axes = new_figure(down, across, width=3.1 * across, height=2.3 * down)
    for panel, (title, names) in zip(axes, panels.items()):
        for number, name in enumerate(names):
            values = columns[name]
            shown = np.isfinite(values)
            colour = LINES[number % len(LINES)]
            marker = "o" if shown.sum() < 3 else None
            style = "--" if name.startswith("teacher/") else "-"
            panel.plot(x[shown], values[shown], style, color=colour, linewidth=1.6, marker=marker, label=name)
        panel.set_xlim(x[0] - margin, x[-1] + margin)  # all panels alike, however few epochs were validated
        lines = len(panel.get_legend_handles_labels()[0])
        panel.set(title=title if lines > 1 else names[0], xlabel="epoch")
        legend = min(0.6, LEGEND_LINE * lines) if lines > 1 else 0.0  # a share of the panel's height, above all lines
        low, high = panel.get_ylim()  # after all lines: what follows ends the automatic scale
        low = 0.0 if min(np.nanmin(columns[name]) for name in names) >= 0 else low
        panel.set_ylim(low, low + 1.05 * (high - low) / (1 - legend))
        _whole_numbers(panel)
        if legend:
            panel.legend(fontsize=7, framealpha=0.6, edgecolor="none", loc="upper left", borderaxespad=0.1)
    for panel in axes[len(panels) :]:
        panel.set_axis_off()
    return save_figure(figure, path)


def result_panels(columns: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, list[str]]]:
    """The epochs of a `results.csv`, and what of it is drawn: a panel's title -> the columns in it.

    Args:
        columns: from `read_results`.
    """
    epochs = columns.get("epoch", np.arange(len(next(iter(columns.values())))))
    panels: dict[str, list[str]] = {}
    for name, values in columns.items():
        source, _, quantity = name.rpartition("/")
        # with a teacher the student's score is val's under another name, and the gap is what the eye sees between lines
        repeated = source == "val" and f"student/{quantity}" in columns
        repeated |= name.count("/") > 1  # of a class: in the table and in W&B, but a panel a class is too many
        quantity = "share of the total" if quantity.startswith("share_") else quantity
        quantity = "quantiles of |gamma|" if name.startswith("gamma/q") else quantity
        if (
            quantity not in NOT_DRAWN
            and source not in ("gap", "unlabelled")
            and not repeated
            and np.isfinite(values).any()
        ):
            panels.setdefault(quantity, []).append(name)
    return epochs, panels


def plot_compared(results: Mapping[str, str | Path], quantity: str, path: str | Path) -> Path:
    """One quantity over the epochs of several trainings, a line each.

    Args:
        results: name in the legend -> its `results.csv`.
        quantity: a column of all of them, as ``val/mAP50``.
        path: the PNG to write.
    """
    figure, (axes,) = new_figure()
    for (name, file), colour in zip(results.items(), itertools.cycle(LINES)):
        columns = read_results(file)
        shown = np.isfinite(columns[quantity])
        last = columns[quantity][shown][-1]
        axes.plot(
            columns["epoch"][shown],
            columns[quantity][shown],
            "o-",
            color=colour,
            linewidth=1.6,
            markersize=3,
            label=f"{name}: {last:.3f} at the end",
        )
    axes.set(xlabel="epochs", ylabel=quantity, ylim=(0, None))
    axes.legend(**BESIDE)
    _whole_numbers(axes)
    return save_figure(figure, path)


def read_results(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a `results.csv`; NaN where a cell is empty or no number. Empty without rows.

    Raises:
        UserError: it cannot be read, or is no table.
    """
    try:
        rows = list(csv.DictReader(read_text(path).splitlines(), skipinitialspace=True))
    except csv.Error as error:
        raise UserError(f"is no table: {error}", where=path, todo="is it the results.csv of a training?") from None
    if not rows:
        return {}
    return {name.strip(): np.array([_number(row.get(name)) for row in rows]) for name in rows[0] if name}


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


def plot_channels(layers: Sequence[tuple[Any, int, int]], path: str | Path) -> Path:
    """Channels of every convolution before and after pruning.

    Args:
        layers: (layer, channels before, channels after) in the network's order; after = 0 for a removed layer.
    """
    figure, (axes,) = new_figure(width=max(6.4, min(18.0, 0.13 * len(layers) + 3)), height=3.6)
    place = np.arange(len(layers))
    before = np.array([row[1] for row in layers], dtype=float)
    after = np.array([row[2] for row in layers], dtype=float)
    axes.bar(place, before, color=GREY, width=0.85, label=f"before: {int(before.sum()):,} channels")
    axes.bar(place, after, color=BLUE, width=0.85, label=f"after: {int(after.sum()):,} channels")
    every = max(1, math.ceil(len(layers) / 40))
    numbers = [str(row[0]) for row in layers[::every]]
    axes.set_xticks(place[::every], numbers, rotation=90 if len(layers) > 15 else 0, fontsize=7)
    axes.grid(axis="x", visible=False)
    axes.set(xlabel="layer", ylabel="output channels", title="Channels before and after pruning")
    axes.margins(x=0.01)
    axes.legend(**BESIDE)
    return save_figure(figure, path)


def plot_gammas(history: Sequence[Mapping[str, Any]], path: str | Path) -> Path | None:
    """Quantiles of |gamma| over epochs, and beside them the whole histogram over epochs where there is one.

    Args:
        history: an entry an epoch: ``{"epoch": 3, "quantiles": {0.1: .002, 0.5: .3, 0.9: 1.1}}``; the keys of the
            quantiles are shares in 0..1 (numbers or text). With ``"histogram": {"log10_edges": [-4, -3.8, ...],
            "counts": [...]}`` (one more count than edges: the first is of what lies below all) also the histogram.

    Returns:
        `path`, or None for an empty history.
    """
    if not history:
        return None
    counted = [entry for entry in history if entry.get("histogram")]
    figure, (axes, *beside) = new_figure(1, 2 if counted else 1, width=12.4 if counted else 6.4)
    epochs = [entry["epoch"] for entry in history]
    shares = sorted(history[0]["quantiles"], key=float)
    for number, share in enumerate(shares):
        tint = 0.25 + 0.75 * (1 - abs(2 * number / max(1, len(shares) - 1) - 1))  # the median darkest
        values = [entry["quantiles"][share] for entry in history]
        marker = "o" if len(epochs) < 3 else None
        label = "median" if float(share) == 0.5 else f"{float(share):.0%} lie below"
        axes.plot(epochs, values, color=BLUE, alpha=tint, linewidth=1.6, marker=marker, label=label)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], **BESIDE)
    _whole_numbers(axes)
    axes.set(xlabel="epoch", ylabel="|gamma| (BatchNorm scale)", title="Gammas during sparsity training")
    axes.set_ylim(bottom=0)
    if counted:
        _gamma_map(beside[0], figure, counted)
    return save_figure(figure, path)


def _gamma_map(axes: Axes, figure: Figure, counted: Sequence[Mapping[str, Any]]) -> None:
    """A column an epoch: which share of the gammas has which size. The lowest row holds all that is smaller."""
    edges = np.asarray(counted[0]["histogram"]["log10_edges"], dtype=float)
    counts = np.array([entry["histogram"]["counts"] for entry in counted], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    step = edges[1] - edges[0]
    rows = np.concatenate([[edges[0] - 2 * step], edges, [edges[-1] + step]])
    epochs = np.array([entry["epoch"] for entry in counted], dtype=float)
    columns = np.append(epochs - 0.5, epochs[-1] + 0.5)
    # The root shows a few live gammas beside the many at zero.
    image = axes.pcolormesh(columns, rows, np.sqrt(shares.T), cmap="Blues", vmin=0, vmax=1)
    axes.grid(False)
    whole = list(range(math.ceil(edges[0]) + 1, math.floor(edges[-1]) + 1))
    axes.set_yticks([rows[0] + step, *whole], ["~ 0", *(f"{10.0**tick:g}" for tick in whole)])
    highest = int(np.flatnonzero(counts.sum(axis=0)[1:]).max(initial=0))
    axes.set_ylim(rows[0], max(edges[highest] + 2 * step, edges[0] + 1))
    _whole_numbers(axes)
    axes.set(xlabel="epoch", ylabel="|gamma|", title="Histogram of the gammas over time")
    ticks = (0.01, 0.1, 0.25, 0.5, 1.0)
    bar = figure.colorbar(image, ax=axes, fraction=0.045, label="share of the prunable gammas")
    bar.set_ticks([math.sqrt(tick) for tick in ticks], labels=[f"{tick:.0%}" for tick in ticks])
