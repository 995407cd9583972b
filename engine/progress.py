"""What a training shows while it runs: one line an epoch, and `results.csv`."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from common.files import whole_file

# Of the validation, what fits beside the losses; of the hooks' metrics, what people wait for.
HEADLINE = ("mAP50-95", "mAP50")
ASKED_FOR = {
    "teacher/mAP50-95": "teacher mAP50-95",
    "gap": "gap",
    "pruned/mAP50-95": "pruned mAP50-95",
    "pruned/mAP50": "pruned mAP50",
    "sparsity/share": "near zero",
}


class EpochBar:
    """The progress line of an epoch: losses and metrics so far, memory, and the time left in the whole training.

    Args:
        epoch, epochs: the epoch's number from 0, and how many there are.
        batches, done: batches in the epoch, and how many of them an earlier process did.
        show: only one process of a distributed run shows it.
    """

    def __init__(self, epoch: int, epochs: int, batches: int, done: int, *, show: bool):
        self.epochs_left = epochs - epoch - 1
        self.batches, self.done, self.here = batches, done, 0
        self.began = time.monotonic()
        self.bar = tqdm(
            total=batches,
            initial=done,
            desc=f"epoch {epoch + 1}/{epochs}",
            unit="batch",
            disable=not show,
            # A line that is not a terminal's is not overwritten: in a log file one every half minute is enough.
            mininterval=0.2 if sys.stderr.isatty() else 30.0,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def update(self, batches: int, values: Mapping[str, float], memory: float) -> None:
        """`values`: running means, by name; `memory` in GB."""
        self.done, self.here = self.done + batches, self.here + batches
        if self.bar.disable:
            return
        per_batch = (time.monotonic() - self.began) / self.here
        left = per_batch * (self.batches - self.done + self.epochs_left * self.batches)
        shown = {name.removeprefix("train/"): f"{value:.4g}" for name, value in values.items() if not _minor(name)}
        self.bar.set_postfix({**shown, "mem": f"{memory:.1f}G", "ETA": tqdm.format_interval(left)}, refresh=False)
        self.bar.update(batches)

    def close(self) -> None:
        self.bar.close()


def memory_used(device: torch.device) -> float:
    """GB this process holds at most so far: of the GPU's memory, or of RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 1e9
    try:
        import resource
    except ImportError:  # not on Windows
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def write_results(path: str | Path, history: Sequence[Mapping[str, float]]) -> None:
    """`results.csv`: one row an epoch; a column some epochs lack is empty there.

    Written anew from the history in the checkpoint, so that a resumed training leaves what an uninterrupted one does.
    """
    columns = list(dict.fromkeys(name for row in history for name in row))
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, restval="")
        writer.writeheader()
        for row in history:
            shown = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
            writer.writerow(shown)


def summary(row: Mapping[str, float], epochs: int) -> str:
    """The line that stays when an epoch is over."""
    losses = [
        f"{name.removeprefix('train/')} {value:.4g}"
        for name, value in row.items()
        if name.startswith("train/") and not _minor(name)
    ]
    scores = [f"{name} {row['val/' + name]:.4f}" for name in HEADLINE if f"val/{name}" in row]
    further = [f"{words} {row[name]:.4f}" for name, words in ASKED_FOR.items() if name in row]
    return f"epoch {int(row['epoch'])}/{epochs}: " + ", ".join([*losses, *scores, *further])


def _minor(name: str) -> bool:
    """A loss term's share of the total: in `results.csv`, but not worth its place on a line."""
    return name.startswith("train/share_")
