"""Every option of a fine-tune under a teacher, and of comparing the ways of doing so."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.options import like, option
from distill.config import KDConfig
from engine.config import TrainConfig
from pipeline.ablate_grid import ALL
from pipeline.executor import EXECUTORS

DISTILLATION, ABLATION = "distillation", "ablation"


@dataclass
class DistilConfig(TrainConfig):
    """Every option of a fine-tune under a teacher."""

    t_cfg: str = option(
        "",
        "the teacher's .cfg; a .pt of ours brings its own",
        group=DISTILLATION,
        metavar="FILE",
        flags=("--t_cfg",),
        main=True,
    )
    t_weights: str = option(
        "",
        "the teacher's trained weights: .pt, Darknet .weights or a YOLOv5 .pt. a.pt+b.pt averages two; a.pt,b.pt is a "
        "chain: b is fine-tuned under a first, and teaches then",
        group=DISTILLATION,
        metavar="FILE",
        flags=("--t_weights",),
        main=True,
    )
    list_modes: bool = option(
        False, "show the KD terms, their papers and weights, and exit", group=DISTILLATION, main=True
    )
    distil: KDConfig = field(default_factory=KDConfig, metadata={"group": DISTILLATION})

    def __post_init__(self) -> None:
        self.distil.modes()  # refuses a term that nobody knows


@dataclass
class AblateConfig(DistilConfig):
    """Every option of `finetune_kd.py`."""

    ablate: str = option(
        "",
        "compare: one entry a mode or combination, as for --kd, separated by ';'; options may follow one: "
        '"none; hinton; hinton,bounded:1; hinton kd_temperature=4". all, or the bare flag, is every mode alone',
        group=ABLATION,
        metavar="MODES",
        flags=("--modes",),
        const=ALL,
        resumable=True,
        main=True,
    )
    seeds: str = option(
        "5",
        "seeds of each entry: 5 is 0-4; 5-9; 0,3,7. Intervals need several: at 2 they are of no use, 5 is a start",
        group=ABLATION,
        metavar="N|LIST",
        resumable=True,
        main=True,
    )
    executor: str = option(
        "local",
        "local runs cell after cell; ray runs them on a Ray cluster that shares the files ($RAY_ADDRESS, else this "
        "machine), --threads CPUs or one GPU a cell",
        group=ABLATION,
        choices=EXECUTORS,
        resumable=True,
    )


@dataclass
class AblateAll(AblateConfig):
    """The same where a comparison is what was asked for: of every mode, if none is named."""

    ablate: str = like(AblateConfig, "ablate", default=ALL)
