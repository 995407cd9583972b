"""`thinyolo train`, `prune`, `distill` and `ablate`; `train_prune.py` and `finetune_kd.py` are the second and third."""

from __future__ import annotations

from collections.abc import Callable

from common.command_line import Command
from common.rundir import go_on
from distill.modes import describe_modes
from engine.config import TrainConfig
from pipeline.distil_options import AblateAll, AblateConfig
from pipeline.prune_options import PruneConfig


def _train() -> Callable[[TrainConfig], None]:
    from pipeline.commands import train

    return train


def _prune(config: PruneConfig) -> None:
    if config.list_modes:
        print(describe_modes())
        return
    from pipeline.commands import prune

    prune(config)


def _distil(config: AblateConfig) -> int:
    if config.list_modes:
        print(describe_modes())
        return 0
    from pipeline.commands import distil

    return distil(config)


TRAIN = Command(
    "train",
    "train a detector",
    TrainConfig,
    _train,
    description="Train a detector on a data set: the first stage of `thinyolo prune`, alone.",
    epilog="""\
examples:
  %(prog)s --cfg yolov5n --weights yolov5n.pt --data bccd.yaml --imgsz 320
  %(prog)s --cfg yolov3-tiny --data mine.yaml --hyp scratch
  %(prog)s --resume runs/train/exp                        go on where it was stopped""",
    after_stop=go_on,
)
PRUNE = Command(
    "prune",
    "train, pull idle channels to zero, cut the network thin (train_prune.py)",
    PruneConfig,
    lambda: _prune,
    description="""\
Train a detector, pull its idle channels to zero, and cut it thin.

Three stages in one resumable run: *baseline* (ordinary training), *sparse* (training with a pull on every prunable
BatchNorm gamma) and *prune* (channels and shortcut blocks removed). With --then-kd a fourth, *student*, fine-tunes the
thin network with the baseline as its teacher and ends with a verdict.""",
    epilog="""\
examples:
  %(prog)s --cfg yolov5n --weights yolov5n.pt --data bccd.yaml --imgsz 320 --prune params=0.25 --then-kd
  %(prog)s --weights yolov8n.pt --data mine.yaml --prune flops=0.4 --then-kd
  %(prog)s --weights mine.pt --data mine.yaml --shortcuts 8    start from your own trained network
  %(prog)s --weights sparse.pt --data mine.yaml --stages prune --max-drop 0.01     as deep as mAP allows
  %(prog)s --weights mine.pt --data mine.yaml --prune latency=0.5 --shortcuts auto --then-kd
  %(prog)s --weights mine.pt --data mine.yaml --prune flops=0.25 --deploy-to int8 --then-kd    to widths that are fast
  %(prog)s --resume runs/train_prune/exp                        go on in whichever stage it stopped""",
    after_stop=go_on,
)
_EXAMPLES = """\
examples:
  %(prog)s --cfg thin.cfg --weights thin.weights --t_cfg fat.cfg --t_weights fat.weights --data hand.yaml
  %(prog)s --weights pruned.pt --t_weights baseline.pt --data hand.yaml --kd hinton:1,bounded:0.5
  %(prog)s --weights pruned.pt --data hand.yaml --kd none       plain fine-tuning, to compare with
  %(prog)s --weights pruned.pt --t_weights a.pt+b.pt ...        two teachers, averaged
  %(prog)s --weights pruned.pt --t_weights fat.pt,middle.pt ... middle.pt learns from fat.pt, then teaches
  %(prog)s --weights pruned.pt --t_weights baseline.pt --data hand.yaml --ablate "none; hinton; bounded"
                                                                             compare modes, 5 seeds each
  %(prog)s --resume runs/finetune_kd/exp                        go on where it was stopped"""
DISTILL = Command(
    "distill",
    "fine-tune a thin student under its fat teacher (finetune_kd.py)",
    AblateConfig,
    lambda: _distil,
    description="""\
Fine-tune a thin student under a fat teacher, or compare the ways of doing so.

The student learns from the labels as always; the teacher's terms (--kd) are added to the detection loss. The teacher's
mAP is measured and printed before the first step, the student's beside it after every epoch. With --ablate, modes are
trained with equal budgets and several seeds each, and compared in one table.""",
    epilog=_EXAMPLES,
    after_stop=go_on,
)
ABLATE = Command(
    "ablate",
    "compare the ways of learning from the teacher, several seeds each (distill --ablate)",
    AblateAll,
    lambda: _distil,
    description="""\
Train a student once per KD mode and seed, with equal budgets, and compare the modes in one table with intervals.""",
    epilog="""\
examples:
  %(prog)s --weights pruned.pt --t_weights baseline.pt --data hand.yaml --modes "none; hinton; bounded" --seeds 5
  %(prog)s --resume runs/ablate/exp                        go on where it was stopped, or add seeds to it""",
    after_stop=go_on,
)
