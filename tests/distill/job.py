"""Distillation as one of several processes: ``torchrun ... -m tests.distill.job FOLDER DATA``.

Each leaves what it has at the end of three trainings in ``FOLDER/NAME-RANK.pt``: "whole" and "resumed", with adapters,
the second given up after three steps and begun again; and "heads", of modes that train nothing beside the student.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import data
from common.command_line import parse_config
from distill import KDConfig, KDObjective, Teacher
from engine import distributed
from engine.config import TrainConfig
from engine.trainer import Trainer
from tests.alive import alive
from tests.distill.material import tiny_network
from tests.engine.job import COMMON

ADAPTERS, HEADS = "fitnets,mgd,fgd,imitation", "hinton,bounded,scaled,gap"
# BatchNorm is held: its statistics are those of a process's own pictures.
FLAGS = [*COMMON, "--epochs=2", "--nominal-batch=8", "--freeze-bn", "--save-every=1", "--lr0=0.01", "--mosaic=0"]


class GivenUp(Exception):
    """In the middle of a training."""


def make_trainer(run: Path, pictures: str, modes: str, balance: float = 0.0) -> Trainer:
    config = parse_config(TrainConfig, [*FLAGS, f"--data={pictures}"])
    student, fat = (alive(tiny_network(width, classes=3, seed=width)) for width in (8, 16))
    for network in (student, fat):
        network.names = ["blue", "green", "red"]
    torch.manual_seed(distributed.rank())  # the processes draw their adapters apart: DDP has to make them one
    kd = KDConfig(kd=modes, kd_balance=balance)
    objective = KDObjective(student, Teacher(fat, student), config.loss, kd)
    return Trainer(objective, data.load_spec(config.data), config, run, kind="student")


def train(run: Path, pictures: str, modes: str, balance: float = 0.0, give_up_at: int = -1) -> dict[str, torch.Tensor]:
    """Train, or go on; everything the objective holds in the end."""
    trainer = make_trainer(run, pictures, modes, balance)
    trainer.resume()
    step = trainer._step

    def limited(batches: list[data.Batch]) -> None:
        if trainer.progress.step == give_up_at:
            raise GivenUp
        step(batches)

    trainer._step = limited  # type: ignore[method-assign, assignment]
    trainer.fit()
    return trainer.objective.state_dict()


def main(folder: Path, pictures: str) -> None:
    distributed.start("cpu")
    number = distributed.rank()
    whole = train(folder / "whole", pictures, ADAPTERS, 0.3)
    try:
        train(folder / "resumed", pictures, ADAPTERS, 0.3, give_up_at=3)
    except GivenUp:
        distributed.barrier()  # rank 0 has written the checkpoint
    resumed = train(folder / "resumed", pictures, ADAPTERS, 0.3)
    heads = train(folder / "heads", pictures, HEADS)
    for name, state in (("whole", whole), ("resumed", resumed), ("heads", heads)):
        torch.save(state, folder / f"{name}-{number}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
    distributed.finish()
