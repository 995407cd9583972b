"""A training small enough to be killed, in this process or as one: ``python -m tests.engine.job RUN [flags]``.

$THINYOLO_KILL_AT=N ends it with SIGKILL in the middle of optimiser step N; $THINYOLO_FOOTAGE is a folder of pictures
without labels; $THINYOLO_NET=free takes heads without anchors.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

import data
import models
from common.command_line import parse_config
from common.rundir import LAST, MARK
from data.footage import scan_footage
from engine import distributed
from engine.config import TrainConfig
from engine.objective import DetectionObjective
from engine.seams import Hooks, Terms
from engine.trainer import Trainer
from tests.alive import alive
from tests.nets import RESIDUAL, dual

COMMON = ["--imgsz=64", "--epochs=3", "--batch-size=4", "--nominal-batch=4", "--workers=0", "--threads=1"]
COMMON += ["--device=cpu", "--seed=3", "--warmup-epochs=1", "--close-mosaic=1", "--ema-decay=0.9", "--lr0=0.02"]


def make_pictures(folder: Path, train: int = 22, val: int = 6) -> Path:
    """A data set of coloured boxes on noise; returns its yaml."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture = rng.integers(0, 90, (64, 64, 3), dtype=np.uint8)
            lines = []
            for _ in range(int(rng.integers(0, 4))):
                label, (w, h) = int(rng.integers(0, 3)), rng.integers(8, 30, 2)
                x, y = int(rng.integers(0, 64 - w)), int(rng.integers(0, 64 - h))
                picture[y : y + h, x : x + w] = 100
                picture[y : y + h, x : x + w, label] = 255
                lines.append(f"{label} {(x + w / 2) / 64:.6f} {(y + h / 2) / 64:.6f} {w / 64:.6f} {h / 64:.6f}")
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), picture)
            (folder / "labels" / split / f"{number}.txt").write_text("\n".join(lines))
    path = folder / "data.yaml"
    path.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [blue, green, red]\n")
    return path


def make_network(living: bool = False) -> models.Network:
    """With initial weights, or (`living`) ones of which every layer gets gradients from the first step on."""
    torch.manual_seed(0)
    text = dual() if os.environ.get("THINYOLO_NET") == "free" else RESIDUAL
    network = models.Network(models.parse_cfg(text, source="tiny.cfg"), ["blue", "green", "red"])
    return alive(network) if living else models.init_weights(network)


class AdaptedObjective(DetectionObjective):
    """With a trained part that is not the network, a random number per step, and a metric."""

    def __init__(self, network: models.Network, config: Any = None):
        super().__init__(network, config)
        self.adapter = nn.Linear(3, 1)

    def forward(self, batch: data.Batch, progress: float) -> Terms:
        terms = super().forward(batch, progress)
        noise = torch.randn(len(batch.images), 3)  # has to be the same after a resume
        colour = self.adapter(batch.images.mean(dim=(2, 3)) + 0.1 * noise)
        added = (colour - 0.5).square().mean()
        return terms | Terms({"colour": added}, {"colour": 0.1}, {"redness": colour.detach().mean()})


class PullingHook(Hooks):
    """Pulls on the gammas with a strength that depends on everything that has happened before."""

    def __init__(self, kill_at: int = -1):
        self.steps, self.strength, self.kill_at = 0, torch.tensor(1e-3), kill_at

    def before_step(self, network: models.Network, progress: float) -> None:
        self.steps += 1
        if self.steps == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.strength = self.strength * 0.9 + 1e-4 * torch.rand(())
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight") and parameter.grad is not None:
                parameter.grad += self.strength * parameter.detach().sign()

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        return {"strength": float(self.strength)}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "strength": self.strength}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.strength = state["steps"], state["strength"]


def make_trainer(
    run: Path,
    flags: list[str],
    kill_at: int = -1,
    plain: bool = False,
    resume: str | Path = "",
    unlabelled: Path | None = None,
) -> Trainer:
    """With an adapter and a hook, or (`plain`) a living network and nothing else."""
    config = replace(parse_config(TrainConfig, [*COMMON, *flags]), resume=str(resume))
    torch.manual_seed(0)
    objective = (DetectionObjective if plain else AdaptedObjective)(make_network(living=plain), config.loss)
    hooks = [] if plain else [PullingHook(kill_at)]
    footage = data.Footage(scan_footage(sorted(unlabelled.iterdir())), 1.5) if unlabelled else None
    return Trainer(objective, data.load_spec(config.data), config, run, hooks=hooks, kind="tiny", footage=footage)


def state(run: Path) -> dict[str, Any]:
    """All tensors and numbers of a run's `last.pt` that may not depend on kills, by a flat name."""
    content = models.read_checkpoint(run / LAST)
    flat: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{name}.{key}", inner)
        elif isinstance(value, (list, tuple)):
            for number, inner in enumerate(value):
                walk(f"{name}.{number}", inner)
        elif name.rpartition(".")[2] not in ("seconds", "memory_gb") and not name.startswith(f".extra.{MARK}."):
            flat[name] = value

    walk("", {key: content[key] for key in ("state", "meta", "extra")})
    return flat


if __name__ == "__main__":
    trainer = make_trainer(
        Path(sys.argv[1]),
        sys.argv[2:],
        int(os.environ.get("THINYOLO_KILL_AT", "-1")),
        "THINYOLO_PLAIN" in os.environ,
        unlabelled=Path(os.environ["THINYOLO_FOOTAGE"]) if "THINYOLO_FOOTAGE" in os.environ else None,
    )
    trainer.resume()
    trainer.fit()
    distributed.finish()
