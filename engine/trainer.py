"""The one training loop: baseline, sparsity training, fine-tuning and distillation all run through `Trainer`.

What differs enters as an `Objective` (what is minimised) and `Hooks` (what happens around a step). The way through:
`fit` -> `_train_epoch` -> `_step`, then `_close_epoch` -> `_validate`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import data as data_room
import models
from common.cores import usable_threads
from common.errors import UserError, stop_if_asked
from common.log import log
from common.memory import keep_freed_memory
from data.batch import Batch
from data.footage import Footage
from engine import checkpoints, distributed
from engine.checkpoints import Progress, TrainResult
from engine.config import TrainConfig
from engine.evaluate import Score, evaluate
from engine.feed import make_feed
from engine.first_batches import draw_first
from engine.optim import clip_gradients, freeze, make_ema, make_optimizer, make_schedule, set_train_mode
from engine.plots import plot_results
from engine.precision import Precision
from engine.progress import EpochBar, memory_used, summary, write_results
from engine.seams import Hooks, Objective
from engine.step import grouped, resized, step_seed, training_step
from models.network import Network

FITNESS = "val/mAP50-95"
_SIZE = 2  # keeps the random stream of a step's size apart from the step's own (`step_seed`)
SKIPS_ALLOWED = 20  # steps in a row with overflowing losses, while fp16's scale is found
SECONDS_BETWEEN_PLOTS = 120.0


def need_multiple(config: TrainConfig, network: Network) -> None:
    """Refuse an ``--imgsz`` whose maps would not fit together in `network`.

    Raises:
        UserError: with the next size that does.
    """
    step = network.max_stride
    if any(side % step for side in config.input_size):
        width, height = (math.ceil(side / step) * step for side in reversed(config.input_size))
        raise UserError(
            f"--imgsz {config.imgsz}: sides have to be multiples of {step} for this network",
            todo=f"--imgsz {width}x{height}",
        )


class Trainer:
    """Trains `objective.network` on the "train" split, validates its averaged weights on "val", keeps the best.

    - Batches are accumulated to `config.nominal_batch` pictures (0: by the data); the gradient is the one of a single
      batch of that size however it was split (but for BatchNorm's statistics), over batches and over processes.
    - Every random choice is a function of (seed, epoch, index) or (seed, step), and `last.pt` is written at step
      boundaries with all there is to know: a killed and resumed training ends with the same bits (on a CPU).
    - Losses are logged under the same names everywhere: ``train/NAME`` for the objective's terms, unweighted, its
      metrics and the weighted total, ``val/NAME`` for scores.

    Args:
        objective: holds the network; moved to the device.
        spec: the data set.
        config: the options.
        run_dir: where `weights/`, `results.csv` and `results.png` go.
        hooks: called around every optimiser step, in this order.
        tracker: `engine.Tracker` or None.
        kind: "baseline", "sparse", "student", ...: recorded in the checkpoints.
        footage: pictures that nobody labelled, to go beside those of the data set; the number of steps stays.
        folds: no sample mixes training pictures of two of them (`data.folds`).
    """

    def __init__(
        self,
        objective: Objective,
        spec: data_room.DataSpec,
        config: TrainConfig,
        run_dir: str | Path,
        *,
        hooks: Sequence[Hooks] = (),
        tracker: Any = None,
        kind: str = "baseline",
        footage: Footage | None = None,
        folds: int = 1,
    ):
        self.config, self.spec, self.run_dir, self.kind = config, spec, Path(run_dir), kind
        self.hooks, self.tracker = tuple(hooks), tracker
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(usable_threads(config.threads))
        self.device = distributed.start(config.device)
        # Channels last: the faster layout of convolutions on CPUs (10 to 20 % of a step) and in half precision on GPUs.
        self.objective = objective.to(self.device).to(memory_format=torch.channels_last)
        self.network = objective.network
        self._check()
        self.began_with = models.fingerprint(self.network)
        self.network.with_image_size(config.input_size)  # the checkpoints are used at the size they were trained for
        self.frozen = config.frozen_layers(len(self.network.layers))
        freeze(self.network, self.frozen)
        self.feed = make_feed(objective, spec, config, self.run_dir, footage, folds)
        self.config = config = self.feed.config
        self.batch, self.accumulate = self.feed.batch, self.feed.accumulate
        self.steps_per_epoch = self.feed.steps_per_epoch
        self.ema = make_ema(self.network, config)
        distributed.sync_batchnorm(self.network, self.device)
        self.optimizer = make_optimizer(objective, config)
        self.total_steps = max(1, config.epochs * self.steps_per_epoch)
        self.schedule = make_schedule(self.optimizer, config, self.total_steps, self.steps_per_epoch)
        self.precision = Precision(config.amp, config.opt_level, self.device)
        self.precision.prepare(self.network, self.optimizer)
        self.wrapped = distributed.wrap(objective, self.device)
        self.progress = Progress(seen=int(self.network.meta.get("seen", 0)))
        self._plotted = time.monotonic()

    def _check(self) -> None:
        if len(self.spec.names) != self.network.classes:
            raise UserError(
                f"the network has {self.network.classes} classes, the data set {len(self.spec.names)}",
                where=self.spec.source,
                todo=f"load the network with classes={len(self.spec.names)}",
            )
        if self.network.in_channels != 3:
            raise UserError(
                f"the network takes {self.network.in_channels} channels, pictures have 3",
                where=self.network.cfg.source,
                todo="write channels=3 in [net]",
            )
        need_multiple(self.config, self.network)

    def fit(self) -> TrainResult:
        """Train to the end; goes on from wherever `progress` stands."""
        log.info(
            "%s: %d epochs of %d steps; %d pictures a step in batches of %d%s; %s on %s",
            self.run_dir,
            self.config.epochs,
            self.steps_per_epoch,
            self.batch * distributed.world() * self.accumulate,
            self.batch * distributed.world(),
            f", {beside.ratio:g} from --unlabelled beside each" if (beside := self.feed.companions) else "",
            self.precision,
            self.device,
        )
        for hook in self.hooks:
            hook.begin(self.network)
        if distributed.is_main() and self.progress.best_score < 0:
            checkpoints.clear_older(self.run_dir, begins=not self.progress.step)
        try:
            while not self.progress.finished:
                began = time.monotonic()
                self._train_epoch()
                self._close_epoch(began)
        finally:
            self.feed.close()
        return checkpoints.result(self.run_dir, self.progress)

    def _train_epoch(self) -> None:
        """The rest of the current epoch."""
        progress, config = self.progress, self.config
        set_train_mode(self.objective, self.network, self.frozen, config.freeze_bn)
        loader = self.feed.batches(progress.epoch, progress.batch)
        bar = EpochBar(
            progress.epoch, config.epochs, progress.batch + len(loader), progress.batch, show=distributed.is_main()
        )
        for batches in grouped(loader, self.accumulate):
            draw_first(self.run_dir, batches, progress, self.spec.names)
            self._step(batches)
            stop_if_asked()
            bar.update(len(batches), progress.means(), memory_used(self.device))
            if config.save_every and progress.step % config.save_every == 0:
                self._save_last()
        bar.close()

    def _step(self, batches: Sequence[Batch]) -> None:
        """One optimiser step on the pictures of `batches`."""
        progress, config, precision = self.progress, self.config, self.precision
        done = progress.step / self.total_steps
        torch.manual_seed(step_seed(config.seed, progress.step, distributed.rank()))
        self.schedule.step_update(progress.step)
        size = self._input_size()
        batches = [resized(batch.prepared(self.device), size) for batch in batches]
        here = torch.tensor(float(sum(batch.labelled for batch in batches)), device=self.device)
        pictures = float(distributed.mean_over_ranks(here))

        logged: list[dict[str, Tensor]] = []
        each = training_step(
            self.objective, batches, done, autocast=precision.autocast, wrapped=self.wrapped, pictures=pictures
        )
        for number, (terms, share) in enumerate(each, start=1):
            total = terms.total()
            precision.backward(total * share, self.optimizer, last=number == len(batches))
            shown = {**terms.values, **terms.metrics, "total": total}
            logged.append({name: value.detach() * share for name, value in shown.items()})

        healthy = self._log(logged, pictures)
        precision.unscale(self.optimizer)
        norm = clip_gradients(self.optimizer, config.clip)
        if not precision.scales and healthy and not math.isfinite(norm):
            self._refuse("the gradient", norm)
        if math.isfinite(norm):  # else the loss scale was too large, and the step will be skipped
            for hook in self.hooks:
                hook.before_step(self.network, done)
        stepped = precision.step(self.optimizer)
        self.optimizer.zero_grad()  # without arguments: Apex puts in one of its own that takes none
        progress.step += 1
        progress.batch += len(batches)
        if stepped:
            for hook in self.hooks:
                hook.after_step(self.network, self.optimizer.param_groups[0]["lr"], done)
            self.ema.update(self.network, step=progress.step)

    def _input_size(self) -> tuple[int, int]:
        """(H, W) of this step: `--imgsz`, or under `--multi-scale` scaled by a factor drawn from (seed, step)."""
        height, width = self.config.input_size
        spread, step = self.config.multi_scale, self.network.max_stride
        if not spread:
            return height, width
        factor = np.random.default_rng((self.config.seed, self.progress.step, _SIZE)).uniform(1 - spread, 1 + spread)
        return max(step, round(height * factor / step) * step), max(step, round(width * factor / step) * step)

    def _log(self, logged: list[dict[str, Tensor]], pictures: float) -> bool:
        """Add the step's values to the epoch's sums; whether all were finite.

        Everything crosses from the GPU at once: one synchronisation a step.
        """
        names = sorted({name for values in logged for name in values})
        zero = torch.zeros((), device=self.device)
        sums = torch.stack([sum((values.get(name, zero).float() for values in logged), zero) for name in names])
        step_values = dict(zip(names, distributed.mean_over_ranks(sums).tolist()))
        bad = [name for name, value in step_values.items() if not math.isfinite(value)]
        if bad:
            self.progress.skipped += 1
            if not self.precision.scales or self.progress.skipped > SKIPS_ALLOWED:
                name = next((name for name in bad if name != "total"), bad[0])
                self._refuse(f"the term '{name}'", step_values[name])
            return False
        self.progress.skipped = 0
        everywhere = pictures * distributed.world()
        for name, value in step_values.items():
            key = f"train/{name}"
            self.progress.sums[key] = self.progress.sums.get(key, 0.0) + value * everywhere
        self.progress.pictures += everywhere
        self.progress.seen += round(everywhere)
        return True

    def _refuse(self, what: str, value: float) -> None:
        """Stop before a value that is not a number gets into the weights."""
        progress, config = self.progress, self.config
        kept = (self.run_dir / checkpoints.LAST).exists()
        raise UserError(
            f"{what} became {value} in epoch {progress.epoch + 1}, step {progress.step} (learning rate "
            f"{self.optimizer.param_groups[0]['lr']:.3g}, {self.precision}); the step was not taken",
            where=self.run_dir if kept else None,
            todo=f"start anew with a smaller --lr0 (now {config.lr0:g}), more --warmup-epochs (now "
            f"{config.warmup_epochs:g}), a smaller --clip (now {config.clip:g}) or --amp off"
            + ("; weights/last.pt is from before and sound" if kept else ""),
        )

    def _close_epoch(self, began: float) -> None:
        """Validate, ask the hooks, keep the best, write `results.csv` and `last.pt`, and decide whether to go on."""
        progress, config = self.progress, self.config
        row: dict[str, float] = {"epoch": progress.epoch + 1, "step": progress.step, **progress.means()}
        row["lr"] = self.optimizer.param_groups[0]["lr"]
        is_last = row["epoch"] >= config.epochs
        if is_last or row["epoch"] % config.val_every == 0:
            row.update(distributed.broadcast(self._validate()))
        for hook in self.hooks:
            row.update(hook.after_epoch(dict(row)))
        progress.seconds += time.monotonic() - began
        row |= {"memory_gb": memory_used(self.device), "seconds": progress.seconds}
        progress.history.append(row)

        counts = all(hook.may_be_best(dict(row), is_last) for hook in self.hooks)
        better = counts and FITNESS in row and row[FITNESS] > progress.best_score
        if better:
            progress.best_score, progress.best_epoch = row[FITNESS], progress.epoch
        elif not counts and progress.best_score < 0:
            progress.best_epoch = progress.epoch  # patience begins with the first epoch that counts
        waited = progress.epoch - progress.best_epoch
        if (out_of_patience := bool(config.patience) and waited >= config.patience) and not is_last:
            log.info("stopped early: no better val mAP50-95 in %d epochs (--patience)", waited)
        if distributed.is_main() and better:
            checkpoints.save_best(self.run_dir, self._averaged(), self.kind, progress, row)
        progress.finished = is_last or out_of_patience
        progress.epoch, progress.batch, progress.sums, progress.pictures = progress.epoch + 1, 0, {}, 0.0
        if distributed.is_main():
            self._publish()  # first: a training whose last.pt says that it is over is never looked at again
        self._save_last()
        if distributed.is_main():
            log.info("%s", summary(row, config.epochs))
            if self.tracker is not None:
                self.tracker.log_epoch(int(row["epoch"]), row)

    def _validate(self) -> dict[str, float]:
        """Scores of the averaged weights, ``val/...``, and what the hooks add; on rank 0, the others get them sent."""
        if not distributed.is_main():
            return {}
        score = self._evaluate(self.ema.module)
        found = {f"val/{name}": float(value) for name, value in score.as_dict().items()}
        for hook in self.hooks:
            found |= hook.after_validation(self.network, self.ema.module, score, self._evaluate)
        return found

    def _evaluate(self, network: Network) -> Score:
        return evaluate(
            network,
            self.spec,
            "val",
            batch_size=self.batch,
            device=self.device,
            workers=self.config.workers,
            dataset=self.feed.val_set,
        )

    def _publish(self) -> None:
        """`results.csv` and now and then its figure; an epoch that is not in `last.pt` yet is written over."""
        write_results(self.run_dir / checkpoints.RESULTS, self.progress.history)
        # Drawing takes seconds, which short epochs do not have.
        if self.progress.finished or time.monotonic() - self._plotted > SECONDS_BETWEEN_PLOTS:
            plot_results(self.run_dir / checkpoints.RESULTS, self.run_dir / "results.png")
            self._plotted = time.monotonic()

    def _averaged(self) -> Any:
        """The network that is validated and saved."""
        averaged = self.ema.module
        averaged.lineage = self.network.lineage
        said = checkpoints.read_with(self.spec, self.config.input_size)
        averaged.meta = {**self.network.meta, "seen": self.progress.seen, **said}
        return averaged

    @cached_property
    def _data(self) -> dict[str, Any]:
        """By what a resumed training knows its data and its start again; every `last.pt` holds it."""
        pictures, labels = checkpoints.pictures_of(self.spec), self.feed.train_set.scan.digest()
        return {"pictures": pictures, "labels": labels, "start": self.began_with}

    def _save_last(self) -> None:
        if not distributed.is_main():
            return
        averaged = self._averaged()
        state = {
            "batch": self.batch * distributed.world(),
            **self._data,
            # The same storage as the checkpoint's own weights, so it costs no space in the file.
            "ema": averaged.state_dict(),
            "network": self.network.state_dict(),
            "adapters": checkpoints.adapters_state(self.objective.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.precision.state_dict(),
            "hooks": [state for hook in self.hooks if (state := hook.state_dict())],
        }
        checkpoints.save_last(self.run_dir, averaged, self.kind, self.progress, state)

    def resume(self) -> bool:
        """Take over the state of this run's `last.pt`; False if there is none yet and the training starts from 0.

        The objective's network must have the checkpoint's structure: build it from `weights/last.pt` when anchors were
        fitted or channels pruned since the cfg was read.

        Raises:
            UserError: the checkpoint is of another run, start, network, objective or set of hooks, or of other labels.
        """
        training = checkpoints.read_last(self.run_dir)
        if training is None:
            return False
        where = self.run_dir / checkpoints.LAST
        checkpoints.check_labels(training.get("labels"), self._data["labels"], self.spec, where)
        checkpoints.check_start(training.get("start"), self.began_with, where)
        hooks = [hook for hook in self.hooks if hook.state_dict()]
        states = [state for state in training["hooks"] if state]
        if len(states) != len(hooks):
            raise UserError(
                f"was written with {len(states)} hooks, this training has {len(hooks)}",
                where=where,
                todo="resume with the options the run was started with",
            )
        checkpoints.check_weights(training, self.network, where)
        try:
            self.network.load_state_dict(training["network"])
            self.ema.module.load_state_dict(training["ema"])
            self.objective.load_state_dict(
                {
                    **{f"network.{name}": tensor for name, tensor in self.network.state_dict().items()},
                    **training["adapters"],
                }
            )
            self.optimizer.load_state_dict(training["optimizer"])
            self.precision.load_state_dict(training["precision"])
            for hook, state in zip(hooks, states):
                hook.load_state_dict(state)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"does not fit this training: {_said(error)}",
                where=where,
                todo=f"put a sound copy of it back; or {checkpoints.anew(self.run_dir)}",
            ) from None
        self.progress = Progress.of(training["progress"])
        log.info("%s: going on at epoch %d, step %d", self.run_dir, self.progress.epoch + 1, self.progress.step)
        return True


def _said(error: Exception) -> str:
    """What an error says of a state that does not fit; of a key that is absent, that it is."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
