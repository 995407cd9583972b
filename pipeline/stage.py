"""What every stage of a run shares: its folder, the network it begins with, its W&B run, its training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

import models
from common.errors import UserError
from common.files import need_space
from common.lock import hold
from common.log import log
from common.options import to_dict
from common.rundir import ARGS, LAST, REPORT, begun, find_run, make_run_dir
from data import DataSpec, Footage, check
from engine import Tracker, checkpoints, distributed
from engine.config import USUAL_SIZE, TrainConfig
from engine.objective import DetectionObjective
from engine.precision import Precision
from engine.seams import Hooks
from engine.tracking import need_tensorboard
from engine.trainer import Trainer, need_multiple
from export.opening import names_beside
from models.classes import take_names
from models.content import size_text
from models.network import Network
from models.resize import with_resize
from pipeline.measured import wanted_files

Config = TypeVar("Config", bound=TrainConfig)

PAGES = 20_000_000  # bytes for the report with its pictures, figures and tables


def with_size(config: Config) -> Config:
    """`config` with an ``--imgsz``: where nobody gave one, what the `.pt` it starts from was trained for."""
    if config.imgsz or config.resume:
        return config
    size = USUAL_SIZE
    if config.weights and not config.cfg:
        with suppress(UserError):  # it is told when the network is loaded to be trained
            size = size_text(models.load(config.weights).image_size)
            log.info("--imgsz %s: what %s was trained for", size, config.weights)
    return replace(config, imgsz=size)


def start_run(config: TrainConfig, kind: str) -> Path:
    """The run's folder with its `args.yaml`: a new one, or the one `--resume` names. Joins a distributed run first.

    It is this process's alone until `no_trace_if_refused` gives it back.
    """
    if config.tensorboard:
        need_tensorboard()
    wanted_files(config)
    distributed.start(config.device)
    run = None
    if distributed.is_main():
        if config.resume:
            run = find_run(config.resume, config.project)
            hold(run)
        else:
            run = make_run_dir(config.project, kind, config.name, exist_ok=config.exist_ok)
            hold(run)
            for older in (REPORT, ARGS):  # of another run in a reused folder: its report, its identity
                (run / older).unlink(missing_ok=True)
            config.save(run / ARGS)
        begun.append(run)
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
        beside = names_beside(Path(config.weights)) if names else None
        if names and beside and len(beside) == len(names):
            take_names(network, names, beside, config.weights)
        if theirs := [key for key in ("learning_rate", "burn_in", "max_batches") if key in network.cfg.net.options]:
            log.info("%s: %s and the like say nothing here: --lr0, --epochs, ... do", config.cfg, ", ".join(theirs))
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
    training = checkpoints.read_last(run) if config.resume else None
    if config.resume and training is None:
        checkpoints.check_begun(run)
    if training is not None:
        checkpoints.check_pictures(training.get("pictures"), spec, run / LAST)
    done = checkpoints.ended(run, training)
    objective = objective or DetectionObjective(network, config.loss)
    if done is None:
        trainer = Trainer(
            objective, spec, config, run, hooks=hooks, tracker=tracker, kind=kind, footage=footage, folds=folds
        )
        if config.resume:
            trainer.resume()
        done = trainer.fit()
    elif training is not None:  # what the objective has told of itself
        objective.load_state_dict(training["adapters"], strict=False)
    distributed.barrier()
    return checkpoints.own_network(done.best, checkpoints.anew(run))


def check_options(network: Network, config: TrainConfig) -> None:
    """Refuse what a training of `network` would refuse, before anything is scored, trained or cut.

    Raises:
        UserError: `--freeze` names layers that are not there, `--imgsz` does not fit, or Apex cannot be used.
    """
    need_multiple(config, network)
    config.frozen_layers(len(network.layers))
    if config.amp == "apex":
        Precision(config.amp, config.opt_level, distributed.start(config.device))


def check_space(network: Network, config: TrainConfig, run: Path, trainings: int) -> None:
    """Refuse a run whose checkpoints will not fit on the disk, before it has worked for hours.

    Args:
        network: the largest that is trained.
        trainings: how many leave their `last.pt` and `best.pt`.

    Raises:
        UserError: with the space that is free and what the run takes.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    moments = 2 if config.optimizer == "adamw" else 1
    last = (2 + moments) * weights  # live and averaged weights, and the optimiser's
    what = f"a run of {trainings} training{'s' * (trainings != 1)} of {models.parameters(network):,} parameters"
    # Of the last.pt that is replaced there are two for a moment.
    need_space(run, trainings * (last + weights) + last + weights + PAGES, last, what)


def stage_tracker(config: TrainConfig, folder: Path, kind: str, group: str = "", name: str = "") -> Tracker:
    """The W&B run of a stage; the stages of a run share its name as their group. Rank 0 records for all."""
    name = name or (f"{group}-{kind}" if group else folder.name)
    main = distributed.is_main()
    return Tracker(
        folder,
        to_dict(config),
        config.wandb if main else "off",
        group=group or None,
        name=name,
        kind=kind,
        tags=config.wandb_tags,
        tensorboard=config.tensorboard and main,
    )
