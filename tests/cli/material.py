"""A tiny data set, and the ways to run an entry script on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import run_cleanly
from common.log import log
from models.network import Network
from tests.data.made import line, write_set

ROOT = Path(__file__).parents[2]
NAMES = ("red", "blue")
# Two epochs of two steps on the CPU, without augmentation that small pictures do not survive.
QUICK = (
    *("--epochs", "2", "--batch-size", "4", "--nominal-batch", "4", "--imgsz", "64", "--lr0", "0.002", "--mosaic", "0"),
    *("--warmup-epochs", "0", "--device", "cpu", "--threads", "1", "--workers", "0", "--wandb", "off"),
    *("--files", "none"),
)


def make_set(folder: Path) -> Path:
    """`data.yaml` and its pictures of 64 x 64 pixels: 8 to train on, 3 to validate, 2 to test, a rectangle each."""
    rng = np.random.default_rng(0)

    def pictures(count: int) -> list[tuple[np.ndarray, str | None]]:
        made: list[tuple[np.ndarray, str | None]] = []
        for number in range(count):
            x, y = rng.integers(0, 40, 2).tolist()
            box = (x, y, x + 20, y + 16)
            image = rng.integers(0, 60, (64, 64, 3)).astype(np.uint8)
            image[box[1] : box[3], box[0] : box[2]] = (40, 40, 230) if number % 2 else (230, 40, 40)
            made.append((image, line((64, 64), box, number % 2)))
        return made

    write_set(folder, {"train": pictures(8), "val": pictures(3), "test": pictures(2)}, names=f"[{', '.join(NAMES)}]")
    return folder


def surroundings(folder: Path) -> dict[str, str]:
    """The environment of a command: one thread, the checkout's modules, nobody logged in to W&B.

    WANDB_SERVICE names the client's process of a run tracked here: a command that shared it could end before all of its
    own run is written.
    """
    unset = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DISABLED", "NETRC", "WANDB_PROJECT", "WANDB_SERVICE")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HOME": str(folder)}


def job(code: str, folder: Path, timeout: int) -> subprocess.CompletedProcess[str]:
    """`code`, given `folder`, in a process of its own: one with other tests' threads is not to be forked."""
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def command(script: str, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """An entry script in a process of its own, in `folder`."""
    line = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, env=surroundings(folder))


def two_processes(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """An entry script under torchrun, in `folder`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    line = [*launcher, "-m", "tests.cli.entry", str(ROOT / script), *arguments]
    return subprocess.run(line, cwd=folder, env=surroundings(folder), capture_output=True, text=True, timeout=200)


def in_process(main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    """An entry script's `main` in this process, which saves importing torch anew; its exit status."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{main.__module__}.py", *arguments])
    try:
        return run_cleanly(main)
    finally:  # its handler writes to this test's stderr, which the next test does not have
        log.handlers.clear()
        log.propagate = True


def killed(script: str, folder: Path, stage: str, step: int, *arguments: str, after: str = "_step") -> None:
    """An entry script that dies by `kill -9` after optimiser step `step` (from 1) in the folder called `stage`.

    Args:
        after: the first method of the trainer to return after that step is its last.
    """
    line = [sys.executable, "-m", "tests.cli.entry", str(ROOT / script), *arguments]
    environment = {**surroundings(folder), "THINYOLO_KILL_AT": f"{stage}:{step}:{after}"}
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


@torch.no_grad()
def way(one: Network, other: Network) -> float:
    """How far the filters of two networks of one structure are apart, by the first one's norm."""
    first, second = (torch.cat([conv.weight.flatten() for conv in net.conv_modules.values()]) for net in (one, other))
    return float((first - second).norm() / first.norm())
