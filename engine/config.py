"""Every option of a training, with what each one trades; `common.options` makes flags and YAML keys of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from common.errors import UserError
from common.options import option
from common.saved import save_config
from data.options import BATCH, AugmentConfig
from models.options import LossConfig
from models.resize import AUTO, RESIZE

DATA, TRAINING, OPTIMISER = "network and data", "training", "optimiser"
AUGMENTATION, LOSS, PRECISION, RUN = "augmentation", "loss", "precision", "run"
USUAL_SIZE = "416"


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of the network input that ``--imgsz`` means: "416", or "1280x800" (WIDTHxHEIGHT)."""
    found = re.fullmatch(r"\s*([0-9]{1,5})(?:\s*[xX,]\s*([0-9]{1,5}))?\s*", text)
    if not found or not all(0 < int(side) <= 8192 for side in found.groups() if side):
        raise UserError(f"--imgsz {text!r} is no picture size", todo="give one number (416) or WIDTHxHEIGHT (1280x800)")
    width = int(found[1])
    return int(found[2] or width), width


@dataclass
class TrainConfig:
    """What a training needs to know; flags, `--hyp` keys and `args.yaml` are made from these fields."""

    RUNS: ClassVar[tuple[str, ...]] = ("train",)
    """Whose runs a command goes on with (`common.rundir.COMMANDS`)."""

    # --- network and data
    cfg: str = option(
        "",
        "the network: a Darknet .cfg, or the name of one that is here; a .pt brings its own",
        group=DATA,
        metavar="FILE",
        main=True,
    )
    weights: str = option(
        "",
        "start from these: a .pt of ours or of YOLOv5, 8, 11, 26, or Darknet .weights; without: random",
        group=DATA,
        metavar="FILE",
        main=True,
    )
    data: str = option(
        "",
        "the data set: a .yaml (train, val, test, names) or a Darknet .data",
        group=DATA,
        metavar="FILE",
        main=True,
    )
    hyp: str = option(
        "",
        "YAML of options, or the name of one in cfg/hyp (scratch, finetune; to prune also sparse); the command line "
        "overrides it",
        group=DATA,
        metavar="FILE",
        main=True,
    )
    imgsz: str = option(
        "",
        f"network input in pixels, {USUAL_SIZE} or WIDTHxHEIGHT such as 1280x800: larger finds smaller objects and "
        f"costs its square in time; without: what the .pt of --weights was trained for, else {USUAL_SIZE}",
        group=DATA,
        metavar="SIZE",
        main=True,
    )
    resize: str = option(
        AUTO,
        "how pictures are brought to --imgsz: letterbox keeps their aspect and fills the rest with grey; stretch does "
        "not, as Darknet unless its cfg says letter_box=1; auto: as the network says, else letterbox",
        group=DATA,
        choices=(AUTO, *RESIZE),
    )
    single_cls: bool = option(False, "treat all classes as one: where an object is, not what", group=DATA)
    cache: str = option(
        "off",
        "keep decoded pictures in RAM or as files on disk: faster epochs for memory or disk space",
        group=DATA,
        choices=("off", "ram", "disk"),
        resumable=True,
    )
    workers: int = option(
        4,
        "processes that load pictures, at most as many as there are cores; 0 loads in the training process; the result "
        "is the same",
        group=DATA,
        low=0,
        high=1024,
        resumable=True,
    )
    anchors: str = option(
        "auto",
        "auto re-fits the anchors where they suit the data badly and the network is not trained for it yet, keep never "
        "does, fit always does",
        group=DATA,
        choices=("auto", "keep", "fit"),
    )

    # --- training
    epochs: int = option(
        100,
        "times each picture is seen: the main dial between time and accuracy",
        group=TRAINING,
        low=1,
        main=True,
        high=1_000_000,
    )
    batch_size: int = option(
        BATCH,
        "pictures per forward pass over all processes; -1 takes what memory holds. The gradient is that of "
        "--nominal-batch either way",
        group=TRAINING,
        low=-1,
        flags=("--batch",),
        main=True,
        high=65_536,
    )
    nominal_batch: int = option(
        0,
        "pictures per optimiser step, accumulated from batches; larger is smoother with fewer steps an epoch, "
        "1 steps on every batch. 0 looks at the data: 64, halved down to --batch-size until an epoch has 25 steps",
        group=TRAINING,
        low=0,
        high=1_000_000,
    )
    multi_scale: float = option(
        0.0,
        "draw the input size of every step from 1 +- this share (bare flag: 0.5): scale-robust, slower to converge",
        group=TRAINING,
        low=0,
        high=0.9,
        const=0.5,
    )
    close_mosaic: int = option(
        10,
        "epochs at the end without mosaic and mixup, so that training ends on natural pictures",
        group=TRAINING,
        low=0,
        high=1_000_000,
    )
    patience: int = option(
        0,
        "stop after so many epochs without a better val mAP50-95; 0 never stops early (and lets the learning "
        "rate reach its end)",
        group=TRAINING,
        low=0,
        high=1_000_000,
    )
    freeze: str = option(
        "",
        "do not train the first N layers (10) or these (0,1,5): faster and safer on few pictures, but the "
        "backbone cannot adapt",
        group=TRAINING,
        metavar="N|LIST",
    )
    freeze_bn: bool = option(
        False,
        "keep BatchNorm statistics as they are: for batches too small to estimate them",
        group=TRAINING,
    )
    val_every: int = option(
        1, "epochs between validations; the last epoch is always validated", group=TRAINING, low=1, high=1_000_000
    )

    # --- optimiser
    optimizer: str = option(
        "sgd",
        "sgd (Nesterov) generalises better and is what sparsity training needs; adamw needs less tuning on "
        "short trainings",
        group=OPTIMISER,
        choices=("sgd", "adamw"),
    )
    lr0: float = option(
        0.01,
        "peak learning rate per step of --nominal-batch pictures: about .01 for sgd, .001 for adamw; a tenth "
        "to keep what trained weights know, several times as much to repair a deep cut",
        group=OPTIMISER,
        low=1e-9,
        main=True,
        high=10,
    )
    lrf: float = option(0.01, "last learning rate as a share of --lr0", group=OPTIMISER, low=0, high=1)
    momentum: float = option(0.937, "SGD momentum, or AdamW's beta1", group=OPTIMISER, low=0, high=0.9999)
    weight_decay: float = option(
        5e-4,
        "pull on convolution weights (never on gammas, betas and biases): less overfitting, weaker fit",
        group=OPTIMISER,
        low=0,
        high=10,
    )
    warmup_epochs: float = option(
        3.0,
        "epochs in which the learning rate rises from nearly 0: more is safer from random weights",
        group=OPTIMISER,
        low=0,
        high=1_000_000,
    )
    ema_decay: float = option(
        0.9998,
        "memory of the averaged weights that are validated and saved; rises to this from 0 over the first steps",
        group=OPTIMISER,
        low=0,
        high=0.99999,
    )
    clip: float = option(
        10.0,
        "largest global gradient norm; 0 never clips: a guard against rare bad batches",
        group=OPTIMISER,
        low=0,
        high=1e9,
    )

    # --- augmentation and loss: declared where they are used
    augment: AugmentConfig = field(default_factory=AugmentConfig, metadata={"group": AUGMENTATION})
    loss: LossConfig = field(default_factory=LossConfig, metadata={"group": LOSS})

    # --- precision
    amp: str = option(
        "auto",
        "mixed precision: auto is Apex if installed, else torch.amp, on a GPU and FP32 on a CPU; native is "
        "torch.amp; off is FP32",
        group=PRECISION,
        choices=("auto", "apex", "native", "off"),
    )
    opt_level: str = option(
        "O1",
        "Apex only: O0 FP32, O1 mixed (safe), O2 and O3 cast the weights (fastest, least exact)",
        group=PRECISION,
        choices=("O0", "O1", "O2", "O3"),
    )

    # --- run
    project: str = option("runs", "folder of all runs", group=RUN, metavar="FOLDER")
    name: str = option("exp", "the run's folder; a number is appended when it exists", group=RUN, main=True)
    exist_ok: bool = option(False, "write into an existing folder instead of numbering", group=RUN)
    resume: str = option(
        "",
        "go on with this run (its folder; the bare flag: this command's newest unfinished) where it was stopped",
        group=RUN,
        const="latest",
        metavar="RUN",
        main=True,
    )
    seed: int = option(
        0,
        "of every random choice: same seed, same numbers (on one machine, with equal --threads)",
        group=RUN,
        low=0,
        high=2**32 - 1,
    )
    device: str = option(
        "",
        "cpu, cuda or a GPU's number; without: the first GPU if there is one. Several GPUs: torchrun",
        group=RUN,
        resumable=True,
        main=True,
    )
    threads: int = option(
        0,
        "CPU threads of torch; 0 leaves torch's choice. Sums, and so last digits, depend on it",
        group=RUN,
        low=0,
        high=1024,
        resumable=True,
        main=True,
    )
    save_every: int = option(
        0,
        "also write last.pt every so many steps, not only each epoch: less is lost when killed, more is written",
        group=RUN,
        low=0,
        resumable=True,
        high=1_000_000_000,
    )
    wandb: str = option(
        "auto",
        "Weights & Biases: auto is online when logged in, else offline (wandb sync sends it later)",
        group=RUN,
        choices=("auto", "online", "offline", "off"),
        resumable=True,
    )
    wandb_tags: tuple[str, ...] = option(
        (), "tags of this run's W&B runs, to find them by", group=RUN, resumable=True, metavar="TAG,..."
    )
    files: str = option(
        "auto",
        "formats (as thinyolo export --to) in which a network that was cut or taught is left at the end of the run, "
        "each scored and timed for the report. auto: onnx,int8 where ONNX Runtime is installed; none saves a minute",
        group=RUN,
        resumable=True,
        metavar="F,...|none",
    )
    tensorboard: bool = option(
        False,
        "also record for TensorBoard (`tensorboard --logdir runs`); takes the package tensorboard",
        group=RUN,
        resumable=True,
    )

    def __post_init__(self) -> None:
        if self.batch_size == 0:
            raise UserError("--batch-size 0 trains on nothing", todo="give a number, or -1 for what memory holds")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network input."""
        return parse_size(self.imgsz or USUAL_SIZE)

    @property
    def scoring_batch(self) -> int:
        """Pictures at a time where nothing is trained: `batch_size`, where that is a number."""
        return self.batch_size if self.batch_size > 0 else BATCH

    def frozen_layers(self, layers: int) -> frozenset[int]:
        """The layer numbers `--freeze` names in a network of so many layers."""
        text = self.freeze.strip().strip("[]()")
        if not text or text.lower() in ("none", "off"):
            return frozenset()
        try:
            numbers = [int(part) for part in text.replace(" ", "").strip(",").split(",")]
        except ValueError:
            raise UserError(
                f"--freeze {self.freeze!r} is neither a number nor a list of layer numbers", todo="10, or 0,1,5"
            ) from None
        first_n = len(numbers) == 1 and "," not in text
        frozen = frozenset(range(numbers[0]) if first_n else numbers)
        if not all(0 <= number < layers for number in frozen) or (first_n and numbers[0] < 0):
            raise UserError(
                f"--freeze {self.freeze}: the network has layers 0 to {layers - 1}", todo="freeze fewer, or these"
            )
        return frozen

    def save(self, path: str | Path) -> None:
        """Write the resolved options as YAML; `load_config` and ``--hyp`` read it back. See `save_config`."""
        save_config(self, path)
