"""What a run shows of its networks beside their scores: channels layer by layer, gammas, predictions side by side."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import prune
from common.files import whole_file
from data import Dataset, DataSpec
from engine import Hooks, Tracker
from export.predict import compare
from models.layers import Conv
from models.network import Network
from prune.sparsity import LOG10_EDGES

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


def layer_rows(network: Network, report: prune.PruneReport) -> list[LayerRow]:
    """A row a convolution of the uncut `network`: its kind, its channels before and after, the share that is left."""
    heads = set(network.head_convolutions)
    return [
        {
            "layer": number,
            "kind": _kind(network.convolutions[number], number in heads),
            "channels before": before,
            "channels after": after,
            "share": round(after / before, 4),
        }
        for number, (before, after) in report.layers.items()
    ]


def _kind(layer: Conv, head: bool) -> str:
    """A convolution in a few words: "3x3 stride 2", "3x3 depthwise", "1x1 head"."""
    conv = layer.conv
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
    found = compare(networks, Dataset(spec, split, size))
    return [(f"{name}: {columns}", picture) for name, picture in found]


def quantiles(
    history: Sequence[dict[str, float]], histograms: Sequence[Sequence[int]] = ()
) -> list[dict[str, Any]]:
    """The history and the histograms of `prune.Sparsity` in the form the report draws."""
    prefix = "gamma/q"
    rows: list[dict[str, Any]] = [
        {"epoch": epoch, "quantiles": {int(name.removeprefix(prefix)) / 100: value for name, value in row.items()
                                       if name.startswith(prefix)}}
        for epoch, row in enumerate(history)
    ]  # fmt: skip
    for row, counts in zip(rows, histograms):
        row["histogram"] = {"log10_edges": LOG10_EDGES, "counts": counts}
    return rows
