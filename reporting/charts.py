"""Where the marks of a page's figures lie: accuracy beside latency, the difference of each class, curves, boxes.

All in pixels of an SVG, x to the right and y downwards; a template draws them. Nothing here is markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reporting.html import short, width_of

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""
LETTER = 12.0
"""Pixels of a label's letters."""


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * step) <= most)
    return [
        round(number * step, 10) for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]


def overlapping(one: Box, other: Box) -> bool:
    """Whether two boxes share any area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def beside(points: Sequence[tuple[float, float]], labels: Sequence[str], room: Box, radius: float = 7) -> list[Box]:
    """A place for each point's label near it, over no point and no other label, as far as `room` allows."""
    taken: list[Box] = [(x - radius, y - radius, x + radius, y + radius) for x, y in points]
    found = []
    for (x, y), label in zip(points, labels):
        wide, high = width_of(label, LETTER) + 4, LETTER + 4
        options = []
        for far in (radius + 3, 2.2 * radius, 4 * radius, 6 * radius):
            for left, top in (
                (x + far, y - high / 2),
                (x - far - wide, y - high / 2),
                (x - wide / 2, y - far - high),
                (x - wide / 2, y + far),
                (x + far, y - far - high / 2),
                (x + far, y + far - high / 2),
                (x - far - wide, y - far - high / 2),
                (x - far - wide, y + far - high / 2),
            ):
                options.append((left, top, left + wide, top + high))
        inside = [each for each in options if _within(each, room)] or options
        free = [each for each in inside if not any(overlapping(each, other) for other in taken)]
        chosen = (free or inside)[0]
        taken.append(chosen)
        found.append(chosen)
    return found


def _within(box: Box, room: Box) -> bool:
    return box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights as near to the wanted ones as lets them lie `gap` apart, in their order, from `low` to `high`."""
    order = np.argsort(wanted, kind="stable")
    placed = np.array(wanted, dtype=float)[order]
    for number in range(len(placed)):
        placed[number] = max(placed[number], low if number == 0 else placed[number - 1] + gap)
    for number in reversed(range(len(placed))):
        limit = high if number == len(placed) - 1 else placed[number + 1] - gap
        placed[number] = min(placed[number], limit)
    found = np.zeros(len(placed))
    found[order] = placed
    return [float(each) for each in found]


@dataclass(frozen=True)
class Axis:
    """A straight or logarithmic scale from numbers to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / ((high - low) or 1) * (self.end - self.start)

    def marks(self) -> list[tuple[float, str]]:
        """(pixel, text) of the ticks."""
        if not self.log:
            return [(self(each), f"{each:g}") for each in ticks(self.low, self.high)]
        steps = [factor * 10.0**power for power in range(-4, 7) for factor in (1, 2, 5)]
        return [(self(each), f"{each:g}") for each in steps if self.low <= each <= self.high]


WIDE, HIGH = 620, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 16, 14, 46


def accuracy_and_cost(points: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The figure of accuracy beside milliseconds, or beside multiply-adds where times are withheld; None without two
    networks to compare."""
    cost, unit = "ms", "milliseconds a picture"
    if any(each["ms"] is None for each in points):
        cost, unit = "macs", "multiply-adds a picture (G)"
        points = [each for each in points if each["kind"] != "file"]  # as many multiply-adds as the network
    points = [each for each in points if each[cost] and each["map50_95"] is not None]
    if len(points) < 2:
        return None
    costs = [each[cost] / (1e9 if cost == "macs" else 1) for each in points]
    scores = [each["map50_95"] for each in points]
    log = max(costs) > 6 * min(costs)
    low, high = (min(costs) / 1.5, max(costs) * 1.5) if log else (0, max(costs) * 1.12)
    across = Axis(low, high, _LEFT, WIDE - _RIGHT, log)
    margin = max(0.02, 0.15 * (max(scores) - min(scores)))
    up = Axis(max(0.0, min(scores) - margin), min(1.0, max(scores) + margin), HIGH - _BOTTOM, _TOP)
    places = [(across(x), up(y)) for x, y in zip(costs, scores)]
    labels = [short(each["name"], 34) for each in points]
    rooms = beside(places, labels, (_LEFT, 0, WIDE, HIGH - _BOTTOM))
    marks = [
        {"x": x, "y": y, "kind": each["kind"], "label": label, "at": room, "tip": _tip(each), "far": _far(x, y, room)}
        for (x, y), each, label, room in zip(places, points, labels, rooms)
    ]
    rival = sorted((mark for mark in marks if mark["kind"] == "smaller"), key=lambda mark: mark["x"])
    rival += [mark for mark in marks if mark["kind"] == "fat"][:1]
    return {
        "width": WIDE,
        "height": HIGH,
        "left": _LEFT,
        "right": WIDE - _RIGHT,
        "top": _TOP,
        "bottom": HIGH - _BOTTOM,
        "x": across.marks(),
        "y": up.marks(),
        "x_name": unit + (" (each step of the axis is a factor)" if log else ""),
        "marks": marks,
        "rival": " ".join(f"{mark['x']:.1f},{mark['y']:.1f}" for mark in rival) if len(rival) > 1 else "",
    }


def _far(x: float, y: float, room: Box) -> bool:
    """Whether a label needs a line to its point."""
    near = min(max(x, room[0]), room[2]), min(max(y, room[1]), room[3])
    return math.dist((x, y), near) > 14


def _tip(point: Mapping[str, Any]) -> str:
    height, width = point["size"]
    said = [f"{short(point['name'])}: mAP50-95 {point['map50_95']:.3f}", f"input {width}x{height}"]
    if point["ms"] is not None:
        said.append(f"{point['ms']:.2f} ms in {short(point['runtime'])}")
    if point["macs"]:
        said.append(f"{point['macs'] / 1e9:.3f} G multiply-adds")
    if point["megabytes"]:
        said.append(f"{point['megabytes']:.2f} MB")
    return ", ".join(said)


FOREST = 150


def forest(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scale of the differences of all classes, and a mark each: low, middle, high in pixels; None: not known."""
    ends = [0.02]
    for row in rows:
        against = row["against"] or {}
        ends += [
            abs(value) for value in (against.get(name) for name in ("difference", "low", "high")) if value is not None
        ]
    most = max(ends) * 1.08
    scale = Axis(-most, most, 6, FOREST - 6)
    marks = []
    for row in rows:
        against = row["against"] or {}
        low, middle, high = (against.get(name) for name in ("low", "difference", "high"))
        marks.append([None if value is None else scale(value) for value in (low, middle, high)])
    return {"width": FOREST, "zero": scale(0), "most": most, "marks": marks}


PANEL = {"width": 254, "height": 168, "left": 36, "right": 176, "top": 10, "bottom": 138}
HOVERED = 60
"""Points of a line that answer to the mouse."""


def panel(title: str, x: np.ndarray, lines: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """One panel of a training's curves: a line a quantity, its name where it ends, outside the data.

    Args:
        x: epochs.
        lines: name -> value by epoch, NaN where there is none.
    """
    lines = {name: values for name, values in lines.items() if np.isfinite(values).any()}
    if not lines:
        return None
    every = np.concatenate([values[np.isfinite(values)] for values in lines.values()])
    low, high = (0.0 if every.min() >= 0 else float(every.min())), float(every.max())
    across = Axis(float(x[0]), float(max(x[-1], x[0] + 1)), PANEL["left"], PANEL["right"])
    up = Axis(low, high + 0.05 * (high - low) or 1.0, PANEL["bottom"], PANEL["top"])
    drawn: list[dict[str, Any]] = []
    for number, (name, values) in enumerate(lines.items()):
        shown = np.flatnonzero(np.isfinite(values))
        places = [(across(float(x[each])), up(float(values[each]))) for each in shown]
        if name.startswith("teacher/"):  # it does not change: a line right across, however often it was written
            places = [(edge, places[-1][1]) for edge in (PANEL["left"], PANEL["right"])]
            shown = shown[[0, -1]]
        some = np.unique(np.linspace(0, len(places) - 1, min(len(places), HOVERED)).round().astype(int))
        drawn.append(
            {
                "name": name,
                "label": _line_name(name),
                "teacher": name.startswith("teacher/"),
                "number": number,
                "path": " ".join(f"{left:.1f},{top:.1f}" for left, top in places),
                "dots": [(*places[each], _said(name, x[shown[each]], values[shown[each]])) for each in some],
                "end": places[-1],
            }
        )
    rows = spread([line["end"][1] for line in drawn], 13, PANEL["top"] + 4, PANEL["bottom"])
    for line, row in zip(drawn, rows):
        line["row"] = row
    many = len(drawn) > 4 or "gamma" in title
    marks = [(place, text) for place, text in across.marks() if float(text) == round(float(text))]
    return {**PANEL, "title": title, "lines": drawn, "x": marks, "y": up.marks(), "graded": many}


def _line_name(name: str) -> str:
    source, _, quantity = name.rpartition("/")
    if quantity.startswith("q") and quantity[1:].isdigit() and source == "gamma":
        share = int(quantity[1:])
        return "median" if share == 50 else f"{share} % below"
    return short(quantity.removeprefix("share_") if quantity.startswith("share_") else source or quantity, 16)


def _said(name: str, epoch: float, value: float) -> str:
    return f"{name}, epoch {epoch:g}: {value:.4g}"


GUTTER, LINE = 24, 17
"""Pixels beside a picture for the lines to its labels, and of a label's line."""
LABEL = 32
"""Letters of a label."""
WIDEST = 700
"""Pixels of a picture in the page; a larger one is shown smaller until it is clicked."""
SMALLEST = 240
MOST_LABELS = 14


def annotated(picture: Mapping[str, Any], names: Sequence[str], first: str, second: str) -> dict[str, Any]:
    """A picture with the boxes of two networks, and labels in a margin beside it, where they cover nothing.

    Boxes are "both", "first", "second" (who has found the object), "neither", or "false-first" and "false-second".
    """
    high, wide = picture["size"]
    zoom = max(1, math.ceil(SMALLEST / min(high, wide))) if max(high, wide) < WIDEST else 1
    zoom = min(zoom, max(1, WIDEST // max(wide, 1)))
    scale = min(zoom, WIDEST / wide)
    boxes = [_found(each, names, first, second) for each in picture["objects"]]
    boxes += [_alarm(each, names, first, second) for each in picture["false"]]
    for box in boxes:
        box["box"] = [side * scale for side in box["box"]]
    boxes.sort(key=lambda box: _ORDER.index(box["kind"]))
    told = [box for box in boxes if box["kind"] != "both"][:MOST_LABELS]
    height = max(high * scale, len(told) * LINE)
    for box, row in zip(told, spread([(b["box"][1] + b["box"][3]) / 2 for b in told], LINE, 9, height - 6)):
        box["row"] = row
    return {
        "file": picture["file"],
        "name": picture["name"],
        "pixels": (wide, high),
        "zoom": scale,
        "width": wide * scale,
        "height": high * scale,
        "whole": (wide * scale + GUTTER + max((width_of(box["label"], LETTER) for box in told), default=0.0), height),
        "boxes": list(reversed(boxes)),  # the most telling lies on top
        "untold": sum("row" not in box and box["kind"] != "both" for box in boxes),
        "lost": sum(box["kind"] == "first" for box in boxes),
    }


_ORDER = ("first", "second", "false-second", "false-first", "neither", "both")


def _name(names: Sequence[str], label: int, most: int = 14) -> str:
    return short(names[label], most) if 0 <= label < len(names) else str(label)


def _found(each: Mapping[str, Any], names: Sequence[str], first: str, second: str) -> dict[str, Any]:
    one, other = each["first"], each["second"]
    kind = {(True, True): "both", (True, False): "first", (False, True): "second"}.get(
        (one is not None, other is not None), "neither"
    )
    said = [
        f"{who} {score:.2f}" if score is not None else f"{who} nothing"
        for who, score in ((first, one), (second, other))
    ]
    text = {"first": f"only {first} {one}", "second": f"only {second} {other}", "neither": "not found"}.get(kind, "")
    return {
        "box": each["box"],
        "kind": kind,
        "label": short(f"{_name(names, each['label'])}: {text}", LABEL),
        "tip": f"{_name(names, each['label'], 60)}: {', '.join(said)}",
    }


def _alarm(each: Mapping[str, Any], names: Sequence[str], first: str, second: str) -> dict[str, Any]:
    who = first if each["by"] == "first" else second
    return {
        "box": each["box"],
        "kind": f"false-{each['by']}",
        "label": short(f"{_name(names, each['label'])}? {who} {each['confidence']}", LABEL),
        "tip": f"no such object: {_name(names, each['label'], 60)} says {who} with {each['confidence']:.2f}",
    }
