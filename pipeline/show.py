"""What a run shows of its networks beside their scores: channels layer by layer, gammas, predictions side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import models
import prune
from common.files import whole_file
from data import Dataset, DataSpec
from data.labels import scan
from engine import Hooks, Tracker
from engine.plots import plot_labels
from models.keys import conv_key
from models.network import Network
from prune.select import LayerHeld
from prune.sparsity import LOG10_EDGES
from reporting.predict import compare

LayerRow = dict[str, Any]


class GammaHistograms(Hooks):
    """The distribution of |gamma| over the prunable channels, in W&B with every epoch.

    Args:
        sparsity: knows which gammas count.
        network: the network being trained.
        tracker: the stage's W&B run.
    """

    def __init__(self, sparsity: prune.Sparsity, network: Network, tracker: Tracker):
        self.sparsity, self.network, self.tracker = sparsity, network, tracker

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        if self.tracker.active:
            self.tracker.log_histogram("gammas", self.sparsity.values(self.network))
        return {}


def layer_rows(
    uncut: Network, thin: Network, size: tuple[int, int], held: Mapping[str, LayerHeld] | None = None
) -> list[LayerRow]:
    """A row a convolution of `uncut`: its kind, and what it has and costs in `uncut` and in `thin`, its descendant.

    Args:
        size: (H, W) at which MACs are counted.
        held: what kept channels, by module name of `uncut`, where `thin` was cut from it in one go.
    """
    heads, origin = set(uncut.head_convolutions), thin.lineage[len(uncut.lineage)]["layers"]
    now = {row["layer"]: int(number) for number, row in origin.items() if isinstance(row["layer"], int)}
    before, after = ({row.index: row for row in models.layer_table(network, size)} for network in (uncut, thin))
    why = {conv_key(name): _words(row) for name, row in (held or {}).items()}
    rows = []
    for number, layer in uncut.convolutions.items():
        old, new = before[number], after.get(now.get(number, -1))
        left = new.outputs if new else 0
        rows.append(
            {
                "layer": number,
                "kind": _kind(layer.conv, number in heads),
                "channels before": old.outputs,
                "channels after": left,
                "share": round(left / old.outputs, 4),
                "parameters before": old.parameters,
                "parameters after": new.parameters if new else 0,
                "MACs before": old.macs,
                "MACs after": new.macs if new else 0,
                "held back": why.get(number, "" if new else "block removed"),
            }
        )
    return _backbone_rows(uncut, thin, size, held or {}) + rows


def _backbone_rows(
    uncut: Network, thin: Network, size: tuple[int, int], held: Mapping[str, LayerHeld]
) -> list[LayerRow]:
    """The same for the convolutions inside `[timm]` sections, which have a name in the place of a number."""
    if not uncut.backbones:
        return []
    origin = thin.lineage[len(uncut.lineage)]["layers"]
    now = {row["layer"]: key for key, row in origin.items() if isinstance(row["layer"], str)}
    (before, pixels), (after, fewer) = ((net.conv_modules, net.conv_sizes(size)) for net in (uncut, thin))
    why = {conv_key(name): _words(row) for name, row in held.items()}
    rows = []
    for key, conv in before.items():
        if isinstance(key, str) and key in now:
            left = after[now[key]]
            rows.append(
                {
                    "layer": key,
                    "kind": _kind(conv, False),
                    "channels before": conv.out_channels,
                    "channels after": left.out_channels,
                    "share": round(left.out_channels / conv.out_channels, 4),
                    "parameters before": sum(tensor.numel() for tensor in conv.parameters()),
                    "parameters after": sum(tensor.numel() for tensor in left.parameters()),
                    "MACs before": conv.weight.numel() * prod(pixels[key]) if key in pixels else 0,
                    "MACs after": left.weight.numel() * prod(fewer[now[key]]) if key in pixels else 0,
                    "held back": why.get(key, ""),
                }
            )
    return rows


def channel_bars(rows: Sequence[LayerRow]) -> list[tuple[int | str, int, int]]:
    """(layer, channels before, channels after) of `layer_rows`, as the figure wants them."""
    return [(row["layer"], row["channels before"], row["channels after"]) for row in rows]


def _words(row: LayerHeld) -> str:
    """What kept a convolution's channels: "12 by ties, 3 by the floor"."""
    reasons = {
        "tied": "by ties",
        "carried": "by carriers",
        "floored": "by the floor",
        "equalised": "by equal slices",
        "rounded": "by rounding",
    }
    said = [f"{count} {words}" for name, words in reasons.items() if (count := getattr(row, name))]
    return ", ".join([f"{row.fixed} fixed ({', '.join(row.fixed_by)})", *said] if row.fixed else said)


def _kind(conv: nn.Conv2d, head: bool) -> str:
    """A convolution in a few words: "3x3 stride 2", "3x3 depthwise", "1x1 head"."""
    words = [f"{conv.kernel_size[0]}x{conv.kernel_size[1]}"]
    if conv.stride[0] > 1:
        words.append(f"stride {conv.stride[0]}")
    if conv.groups > 1:
        words.append("depthwise" if conv.groups == conv.in_channels else f"in {conv.groups} groups")
    return " ".join([*words, "head"] if head else words)


def write_rows(path: Path, rows: Sequence[LayerRow]) -> None:
    """Rows of equal keys as CSV."""
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def side_by_side(
    networks: Mapping[str, Network], spec: DataSpec, split: str, size: tuple[int, int]
) -> list[tuple[str, np.ndarray]]:
    """(caption, picture) for a few pictures of the split: the ground truth, then what each of `networks` finds."""
    columns = ", ".join(["ground truth", *networks])
    found = compare(networks, Dataset(spec, split, size, resize=next(iter(networks.values())).resize))
    return [(f"{name}: {columns}", picture) for name, picture in found]


def training_pictures(folder: Path, first: Path, spec: DataSpec) -> list[tuple[str, Path]]:
    """(caption, file): what the labels of the training split are like, drawn into `folder`, and the first batches.

    Args:
        first: the folder of the first training.
    """
    labels = plot_labels(scan(spec, "train").labels, spec.names, folder / "labels.png")
    found = [("training labels", labels)] if labels else []
    return found + [(f"first batches: {path.stem}", path) for path in sorted(first.glob("train_batch*.jpg"))]


def quantiles(history: Sequence[dict[str, float]], histograms: Sequence[Sequence[int]] = ()) -> list[dict[str, Any]]:
    """The history and the histograms of `prune.Sparsity` in the form the report draws."""
    prefix = "gamma/q"
    rows: list[dict[str, Any]] = [
        {
            "epoch": epoch,
            "quantiles": {
                int(name.removeprefix(prefix)) / 100: value for name, value in row.items() if name.startswith(prefix)
            },
        }
        for epoch, row in enumerate(history, start=1)
    ]
    for row, counts in zip(rows, histograms):
        row["histogram"] = {"log10_edges": LOG10_EDGES, "counts": counts}
    return rows
