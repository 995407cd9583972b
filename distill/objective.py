"""What a student minimises: the detection loss against the ground truth and the KD terms against a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from common.errors import UserError
from data.batch import Batch
from distill.modes import METRIC, MODES, KDConfig
from distill.teacher import Teacher
from engine.distributed import mean_over_ranks
from engine.objective import DetectionObjective
from engine.seams import Losses, Metrics
from models.heads import at_least_fp32
from models.loss import LossConfig
from models.network import Network
from models.spec import Outputs


class KDObjective(DetectionObjective):
    """The detection loss and KD terms of one batch, on one assignment of the ground truth.

    Term names and their weights: those of the detection loss, and for each mode the entries its function returns
    (``hinton_obj``, ``hinton_cls``, ``bounded``), weighted by the mode's weight times the gain of the detection term it
    joins (`Mode.relative_to`). KD arithmetic is FP32 or wider under every kind of mixed precision.

    Args:
        network: the student.
        teacher: made for this student; None is plain fine-tuning.
        config: gains and options of the detection loss.
        kd: which terms, their weights and options.
        mean_over_ranks: averages a scalar over the processes of a distributed run.

    Attributes:
        adapters: modules that a term trains beside the student, by name. They are optimised, synchronised and resumed
            with it, and left out of its checkpoint.

    Raises:
        UserError: a mode needs what this pair of networks lacks.
    """

    def __init__(
        self,
        network: Network,
        teacher: Teacher | None = None,
        config: LossConfig | None = None,
        kd: KDConfig | None = None,
        mean_over_ranks: Callable[[Tensor], Tensor] = mean_over_ranks,
    ):
        super().__init__(network, config, mean_over_ranks)
        self.kd = kd or KDConfig()
        self.modes = self.kd.modes() if teacher is not None else {}
        self.teacher = teacher
        self.adapters = nn.ModuleDict()
        if teacher is not None:
            # In a tuple, a network is not registered as a part of this module.
            self.teachers = (teacher.network,)
            _check_needs(network, teacher, self.modes)

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        heads = self.network(batch.images)
        matches = self.matched(batch, heads)
        losses = self.detection(heads, matches)
        metrics: Metrics = {}
        if self.teacher is None or not self.modes:
            return losses, metrics
        taught = self.teacher(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            student = Outputs([at_least_fp32(head) for head in heads], self.network.specs)
            teacher = Outputs([at_least_fp32(head) for head in taught.heads], taught.specs)
            for mode, weight in self.modes.items():
                for name, value in MODES[mode].function(student, teacher, matches, **self.kd.options(mode)).items():
                    if name.startswith(METRIC):
                        metrics[name.removeprefix(METRIC)] = value
                    else:
                        losses[name] = value
                        self.weights[name] = self._weight(mode, weight, progress)
        return losses, metrics

    def _weight(self, mode: str, weight: float, progress: float) -> float:
        gain = self.detection.weights[MODES[mode].relative_to]
        ramp = min(1.0, progress / self.kd.kd_ramp) if self.kd.kd_ramp else 1.0
        return weight * gain * ramp


def _check_needs(student: Network, teacher: Teacher, modes: dict[str, float]) -> None:
    for mode in modes:
        if MODES[mode].same_anchors and not teacher.alignment.same_anchors:
            ours, theirs = ([list(spec.anchors) for spec in specs] for specs in (student.specs, teacher.specs))
            others = [name for name, each in MODES.items() if not each.same_anchors]
            raise UserError(
                f"--kd {mode} compares anchor with anchor, but the student has {ours}, the teacher {theirs}",
                todo=f"--kd {','.join(others)}, or --anchors keep with a student that has the teacher's anchors",
            )
