"""What every stage of a run shares: its folder, the network it begins with, its W&B run, its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

import models
from common.errors import UserError
from common.options import to_dict
from common.rundir import ARGS, find_run, make_run_dir
from data import DataSpec, Footage, check
from engine import Tracker, checkpoints, distributed
from engine.config import TrainConfig
from engine.objective import DetectionObjective
from engine.seams import Hooks
from engine.trainer import Trainer
from models.network import Network
from models.resize import with_resize


def start_run(config: TrainConfig, kind: str) -> Path:
    """The run's folder with its `args.yaml`: a new one, or the one `--resume` names. Joins a distributed run first."""
    distributed.start(config.device)
    if config.resume:
        return find_run(config.resume, config.project)
    run = None
    if distributed.is_main():
        run = make_run_dir(config.project, kind, config.name, exist_ok=config.exist_ok)
        config.save(run / ARGS)
    return distributed.broadcast(run)


def load_network(config: TrainConfig, names: Sequence[str] | None) -> Network:
    """The network of ``--cfg`` and ``--weights``; a `.pt` may stand for both.

    Args:
        names: class names its heads are made for; None leaves them as they are.
    """
    torch.manual_seed(config.seed)  # whatever no file fills is drawn
    if not config.cfg and not config.weights:
        raise UserError("there is no network", todo="--weights thin.pt, or --cfg thin.cfg --weights thin.weights")
    if config.cfg:
        network = models.load(config.cfg, weights=config.weights or None, names=names)
    else:
        network = models.load(config.weights, names=names)
    return with_resize(network.for_pictures(), config.resize, config.weights)


def check_test(spec: DataSpec) -> None:
    """Read the test split's labels now: nobody else does before the last scores, hours later.

    Raises:
        UserError: they have errors.
    """
    if spec.splits.get("test"):
        check(spec, ["test"]).announce()


def train_network(
    network: Network,
    spec: DataSpec,
    config: TrainConfig,
    run: Path,
    *,
    kind: str,
    objective: DetectionObjective | None = None,
    hooks: Sequence[Hooks] = (),
    tracker: Tracker | None = None,
    footage: Footage | None = None,
    folds: int = 1,
) -> Network:
    """Train one stage in its own folder, or go on with it where it stopped; the best network by val mAP50-95."""
    done = checkpoints.finished(run) if config.resume else None
    objective = objective or DetectionObjective(network, config.loss)
    if done is None:
        trainer = Trainer(
            objective, spec, config, run, hooks=hooks, tracker=tracker, kind=kind, footage=footage, folds=folds
        )
        if config.resume:
            trainer.resume()
        done = trainer.fit()
    elif training := checkpoints.read_last(run):  # what the objective has told of itself
        objective.load_state_dict(training["adapters"], strict=False)
    distributed.barrier()
    return models.load(done.best)


def stage_tracker(config: TrainConfig, folder: Path, kind: str, group: str = "", name: str = "") -> Tracker:
    """The W&B run of a stage; the stages of a run share its name as their group. Rank 0 records for all."""
    name = name or (f"{group}-{kind}" if group else folder.name)
    mode = config.wandb if distributed.is_main() else "off"
    return Tracker(folder, to_dict(config), mode, group=group or None, name=name, kind=kind)
