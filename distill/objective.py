"""What a student minimises: the detection loss against the ground truth and the KD terms against a teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError
from data.batch import Batch
from distill.balance import Balance
from distill.config import KDConfig
from distill.mode import METRIC
from distill.modes import MODES
from distill.pairs import FeaturePair
from distill.teacher import Teacher
from distill.watch import Watch
from engine.distributed import mean_over_ranks
from engine.objective import DetectionObjective
from engine.seams import Terms
from models.heads import HeadReader, at_least_fp32
from models.network import Network
from models.options import LossConfig
from models.spec import Matches, Outputs


class KDObjective(DetectionObjective):
    """The detection loss and KD terms of one batch, on one assignment of the ground truth.

    Term names and their weights: those of the detection loss, and for each mode the entries its function returns
    (``hinton_obj``, ``hinton_cls``, ``bounded``), weighted by the mode's weight times the gain of the detection term it
    joins (`Mode.gain`), the ramp, and the balance where it is asked for. ``share_NAME`` among the metrics is a term's
    share of the batch's total. KD arithmetic is FP32 or wider under every kind of mixed precision.

    Args:
        network: the student.
        teacher: made for this student; None is plain fine-tuning.
        config: gains and options of the detection loss.
        kd: which terms, their weights and options.

    Attributes:
        adapters: modules that a mode trains beside the student, by the mode's name. They are optimised, synchronised
            and resumed with it, and left out of its checkpoint.
        pairs: mode -> the layers it compares; empty for response modes.

    Raises:
        UserError: a mode needs what this pair of networks lacks.
    """

    def __init__(
        self,
        network: Network,
        teacher: Teacher | None = None,
        config: LossConfig | None = None,
        kd: KDConfig | None = None,
    ):
        super().__init__(network, config)
        self.kd = kd or KDConfig()
        self.modes = self.kd.modes() if teacher is not None else {}
        self.teacher = teacher
        self.adapters = nn.ModuleDict()
        self.pairs: dict[str, list[FeaturePair]] = {}
        if teacher is not None:
            _check_needs(network, teacher, self.modes)
            self._add_pairs(teacher)
        every = [pair for pairs in self.pairs.values() for pair in pairs]
        self._layers = frozenset(pair.student_layer for pair in every)
        self._teacher_layers = frozenset(pair.teacher_layer for pair in every)
        if self.modes:
            self.watch = Watch()
        share, limit = self.kd.kd_balance or self.kd.kd_limit, not self.kd.kd_balance
        self.balance = Balance(list(self.modes), share, mean_over_ranks, limit) if self.modes and share else None

    def _add_pairs(self, teacher: Teacher) -> None:
        for name in self.modes:
            pairs = self.kd.pairs(name, self.network, teacher.members[0], teacher.alignment.heads)
            self.pairs[name] = pairs
            if (adapter := self.kd.mode(name).adapter(pairs)) is not None:
                self.adapters[name] = adapter

    def begin_step(self, batches: Sequence[Batch]) -> None:
        super().begin_step(batches)
        if self.balance is not None:
            self.balance.begin_step()

    def forward(self, batch: Batch, progress: float) -> Terms:
        # Not asking the teacher where nothing is learnt from it saves its time. It answers first: the memory it works
        # in is free again when the student's graph is built, which saves a CPU 5 to 8 % of the step.
        asked = self.teacher if self.modes and not self._is_off(progress) else None
        taught = asked(batch.images, self._teacher_layers, batch.indices) if asked is not None else None
        if self._layers:
            heads, features = self.network.forward_features(batch.images, self._layers)
        else:
            heads, features = self.network(batch.images), {}
        matches = self.matched(batch, heads)
        detection = self.detected(batch, heads, matches)
        if taught is None:
            return self._untaught(detection) if self.modes else detection
        with torch.autocast(batch.images.device.type, enabled=False):
            student = _fp32(heads, self.network.specs, features)
            teacher = _fp32(taught.heads, taught.specs, taught.features)
            values, metrics, modes = self._answers(student, teacher, matches)
            stuck: set[str] = set()
            if self.training and torch.is_grad_enabled():
                bad, stuck = self.watch.check(values, modes, [*student.heads, *student.features.values()])
                values = {name: self._nothing(value) if name in bad else value for name, value in values.items()}
                broken = {modes[name] for name in bad}  # what such a mode wants logged is no number either
                metrics = {
                    name: torch.zeros_like(value) if modes[name] in broken else value for name, value in metrics.items()
                }
                self._rebalance(detection, values, modes)
            weights = {name: 0.0 if name in stuck else self._weight(modes[name], name, progress) for name in values}
            terms = detection | Terms(values, weights, metrics)
            shares = terms.shares()
        return terms | Terms({}, metrics={f"share_{name}": shares[name] for name in values})

    def _answers(
        self, student: Outputs, teacher: Outputs, matches: Matches
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str]]:
        """All KD terms by name, what the modes only want logged, and the mode that each of both comes from."""
        values: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}
        modes: dict[str, str] = {}
        adapters = dict(self.adapters.items())
        for mode in self.modes:
            pictures = matches.pictures if MODES[mode].needs_truth else None
            ours, theirs = (first_pictures(each, pictures) for each in (student, teacher))
            found = self.kd.mode(mode)(ours, theirs, matches, self.pairs[mode], adapters.get(mode))
            for name, value in found.items():
                logged = name.removeprefix(METRIC)
                (values if logged == name else metrics)[logged], modes[logged] = value, mode
        return values, metrics, modes

    def _is_off(self, progress: float) -> bool:
        return self.kd.kd_off > 0 and progress >= 1 - self.kd.kd_off

    def _weight(self, mode: str, term: str, progress: float) -> float:
        ramp = min(1.0, progress / self.kd.kd_ramp) if self.kd.kd_ramp else 1.0
        relative = self.modes[mode] / MODES[mode].weight
        scale = self.balance.scale(mode, relative) if self.balance is not None else 1.0
        return self.modes[mode] * self._gain(mode, term) * ramp * scale

    def _gain(self, mode: str, term: str) -> float:
        return self.detection.weights[MODES[mode].gain(term)]

    def _untaught(self, detection: Terms) -> Terms:
        """The same: DDP wants every parameter in the graph, also where the teacher was not asked."""
        box = detection.values["box"]
        return detection | Terms({"box": box + self._nothing(box)})

    def _nothing(self, like: Tensor) -> Tensor:
        """0, connected to every adapter."""
        zero = torch.zeros((), dtype=torch.float32, device=like.device)
        for parameter in self.adapters.parameters():
            zero = zero + 0 * parameter.float().sum()
        return zero

    def _rebalance(self, detection: Terms, values: dict[str, Tensor], modes: dict[str, str]) -> None:
        if self.balance is None or not self.balance.due:
            return
        usual = Terms(values, {name: MODES[modes[name]].weight * self._gain(modes[name], name) for name in values})
        names: dict[str, list[str]] = {}
        for name in values:
            names.setdefault(modes[name], []).append(name)
        totals = {mode: usual.total(own) for mode, own in names.items()}
        trained = [each for each in self.network.parameters() if each.requires_grad]
        self.balance.measure(detection.total(), totals, trained)


def first_pictures(outputs: Outputs, count: int | None) -> Outputs:
    """What was said of the first `count` pictures of a batch; None: of all."""
    if count is None or count == len(outputs.heads[0]):
        return outputs
    features = {layer: each[:count] for layer, each in outputs.features.items()}
    return Outputs([head[:count] for head in outputs.heads], outputs.specs, features)


def _fp32(heads: Sequence[Tensor], specs: Sequence[HeadReader], features: dict[int, Tensor]) -> Outputs:
    return Outputs(
        [at_least_fp32(head) for head in heads],
        tuple(specs),
        {layer: at_least_fp32(feature) for layer, feature in features.items()},
    )


def _check_needs(student: Network, teacher: Teacher, modes: dict[str, float]) -> None:
    for mode in modes:
        if teacher.alignment.across and not MODES[mode].across:
            heads = [net.specs[0].describe_places(net.specs) for net in (student, teacher.members[0])]
            able = [
                name for name, each in MODES.items() if each.across and not (each.features and len(teacher.members) > 1)
            ]
            raise UserError(
                f"--kd {mode} compares heads of one family; the student has heads {heads[0]}, the teacher heads "
                f"{heads[1]}",
                todo=f"these work between families: --kd {','.join(able)}",
            )
        if MODES[mode].same_places and not teacher.alignment.same_places:
            ours, theirs = ([list(spec.anchors) for spec in specs] for specs in (student.specs, teacher.specs))
            others = [name for name, each in MODES.items() if not each.same_places and not each.features]
            raise UserError(
                f"--kd {mode} compares anchor with anchor, but the student has {ours}, the teacher {theirs}",
                todo=f"--kd {','.join(others)}, or --anchors keep with a student that has the teacher's anchors",
            )
        if MODES[mode].distributions:
            bins = [[spec.bins for spec in specs] for specs in (student.specs, teacher.specs)]
            if min(bins[0]) < 2 or bins[0] != bins[1]:
                raise UserError(
                    f"--kd {mode} compares distributions of the sides; those of the student are over {bins[0]} "
                    f"distances, the teacher's over {bins[1]} (1: a side is one number)",
                    todo="--kd gap or bounded, which compare boxes",
                )
        if MODES[mode].features and len(teacher.members) > 1:
            raise UserError(
                f"--kd {mode} compares feature maps, and the average of {len(teacher.members)} teachers has none",
                todo="use one teacher, or modes that look at the heads: --kd "
                + ",".join(name for name, each in MODES.items() if not each.features),
            )
