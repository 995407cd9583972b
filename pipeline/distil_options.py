"""Every option of a fine-tune under a teacher, and of comparing the ways of doing so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from common.errors import UserError
from common.options import like, option
from distill.config import KDConfig
from engine.config import TrainConfig
from pipeline.ablate_grid import ALL
from pipeline.executor import EXECUTORS

DISTILLATION, ABLATION = "distillation", "ablation"
KD, LABELS = "kd", "labels"
"""What ``--unlabelled-as`` may be."""

TEACHER = "teacher"
"""What the bare ``--reconstruct`` means."""

_YES_OR_NO = dict.fromkeys(("none", "off", "no", "false"), "") | dict.fromkeys(("on", "yes", "true"), TEACHER)


@dataclass
class DistilConfig(TrainConfig):
    """Every option of a fine-tune under a teacher."""

    t_cfg: str = option(
        "",
        "the teacher's .cfg; a .pt brings its own",
        group=DISTILLATION,
        metavar="FILE",
        flags=("--t_cfg",),
        main=True,
    )
    t_weights: str = option(
        "",
        "the teacher's trained weights: .pt (also of YOLOv5, 8, 11, 26) or Darknet .weights. a.pt+b.pt averages two; "
        "a.pt,b.pt is a chain: b is fine-tuned under a first, and teaches then",
        group=DISTILLATION,
        metavar="FILE",
        flags=("--t_weights",),
        main=True,
    )
    unlabelled: tuple[str, ...] = option(
        (),
        "pictures that nobody labelled, for the teacher to answer on beside the data set's: a folder (searched below), "
        "a list file, a video; several with commas. For where pictures are plenty and labels few",
        group=DISTILLATION,
        column=True,
        metavar="FOLDER|LIST|VIDEO",
        main=True,
    )
    unlabelled_every: int = option(
        10,
        "of a video one frame in so many: neighbouring frames show the same",
        group=DISTILLATION,
        column=True,
        low=1,
        high=1_000_000,
    )
    unlabelled_ratio: float = option(
        1.0,
        "so many pictures without labels beside each labelled one of a step; the steps stay as many, each takes longer",
        group=DISTILLATION,
        column=True,
        low=0.01,
        high=1000,
    )
    unlabelled_as: str = option(
        KD,
        "kd: the terms of --kd that do without labels go by the teacher alone there; labels: besides, what it detects "
        "there, above the confidence that is best on val, counts as labels",
        group=DISTILLATION,
        column=True,
        choices=(KD, LABELS),
    )
    cross_fit: int = option(
        0,
        "so many teachers (bare flag: 2), each trained without its share of the training pictures and taught from on "
        "that share alone: for a teacher that knows its pictures by heart. The student stage of train_prune.py trains "
        "them first, each as long as the baseline; finetune_kd.py takes them as --t_weights fold1.pt+fold2.pt",
        group=DISTILLATION,
        low=0,
        const=2,
        high=100,
    )
    list_modes: bool = option(
        False, "show the KD terms, their papers and weights, and exit", group=DISTILLATION, main=True
    )
    distil: KDConfig = field(default_factory=KDConfig, metadata={"group": DISTILLATION})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.distil.modes()  # refuses a term that nobody knows
        if self.cross_fit == 1:
            raise UserError("--cross-fit 1: a single teacher would be trained on nothing", todo="--cross-fit 2, or 0")


@dataclass
class AblateConfig(DistilConfig):
    """Every option of `finetune_kd.py`."""

    RUNS: ClassVar[tuple[str, ...]] = ("finetune_kd", "ablate")

    reconstruct: str = option(
        "",
        "before the first step solve each layer of the student, by least squares on training pictures (no labels), for "
        "what FILE says in the channels that are kept; FILE is a network it was cut from, best the very one that was "
        "cut (the sparse one). The bare flag: the teacher. Stays where val mAP50-95 rises",
        group=DISTILLATION,
        metavar="FILE",
        const=TEACHER,
        column=True,
        main=True,
    )
    ablate: str = option(
        "",
        "compare: one entry a mode or combination, as for --kd, separated by ';'; options may follow one: "
        '"none; hinton; hinton,bounded:1; hinton kd_temperature=4; none reconstruct=sparse.pt". all, or the bare flag, '
        "is every mode alone",
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reconstruct = _YES_OR_NO.get(self.reconstruct.strip().lower(), self.reconstruct)


@dataclass
class AblateAll(AblateConfig):
    """The same where a comparison is what was asked for: of every mode, if none is named."""

    RUNS: ClassVar[tuple[str, ...]] = ("ablate",)

    ablate: str = like(AblateConfig, "ablate", default=ALL)
