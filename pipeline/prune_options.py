"""Every option of the whole line: sparsity training, pruning, the student."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from common.errors import UserError
from common.options import like, option
from export.formats import FORMATS
from models.heads import ONE_TO_MANY, ONE_TO_ONE
from pipeline.distil_options import DistilConfig
from prune.budgets import BUDGETS, COMPUTED, parse_budget
from prune.criteria import CRITERIA
from prune.plan import PLANNED, CutPlan
from prune.schedules import FORMS, SCHEDULES, USUAL_TARGET

STAGES = ("baseline", "sparse", "prune", "student")
USUAL_STRENGTH = 1e-3
USUAL_BUDGET = "params=0.25"
SPARSE, PRUNING, STUDENT = "sparsity training", "pruning", "student"


@dataclass
class PruneConfig(DistilConfig):
    """Every option of the whole line; those of the fine-tune (`--kd`, ...) count with --then-kd."""

    RUNS: ClassVar[tuple[str, ...]] = ("train_prune",)

    stages: str = option(
        "auto",
        "some of baseline,sparse,prune,student; auto is all (student with --then-kd), without the baseline where "
        "--weights is a whole network with the data set's classes",
        group=PRUNING,
        metavar="LIST",
        main=True,
    )
    sparsity: str = option(
        "",
        "auto drives the least important channels to zero until --target is reached, no strength to choose; constant, "
        "global-decay (a hundredth in the second half) and local-decay (that for the largest 15 % of the gammas only) "
        "pull on all with --s. Without: auto, or constant where --s is given",
        group=SPARSE,
        choices=("auto", *SCHEDULES),
        flags=("-sr", "--sr"),
        const="constant",
        main=True,
    )
    target: float = option(
        0.0,
        "auto: the share of prunable channels to be at zero by the end: more leaves a thinner network and costs mAP. "
        f"0: as many as --prune will cut, no more and no fewer, where that can be computed ({', '.join(COMPUTED)}, "
        f"ratio), and {USUAL_TARGET:g} where the cut is found by measuring (latency, --max-drop) or takes no channels",
        group=SPARSE,
        low=0,
        high=0.95,
    )
    tolerance: float = option(
        0.1,
        "auto: the share of the best val mAP50-95 that may be lost on the way; past it no further channels go until it "
        "is back, and the target may be missed",
        group=SPARSE,
        low=0.01,
        high=1,
    )
    s: float = option(
        0.0,
        "pull on every prunable gamma per optimiser step (not with auto): too little never sparsifies, too much costs "
        "mAP; 0: the usual 0.001 (under torchrun, whose own --s... options get in the way, spell it --strength)",
        group=SPARSE,
        low=0,
        flags=("--strength",),
        main=True,
        high=10,
    )
    sparse_form: str = option(
        "auto",
        "how --s pulls: subgradient adds s x sign(gamma) to the gradient (SGD only); proximal shrinks by rate x s "
        "after the step and reaches exactly 0; auto is the first under sgd, the second under adamw",
        group=SPARSE,
        choices=("auto", *FORMS),
    )
    sparse_epochs: int = option(0, "epochs of this stage; 0: those of --epochs", group=SPARSE, low=0, high=1_000_000)
    sparse_lr0: float = option(0.0, "peak learning rate of this stage; 0: that of --lr0", group=SPARSE, low=0, high=10)
    drop_heads: str = option(
        "",
        "heads to cut off before the baseline, with all that only they read: auto takes those whose scale holds less "
        "than 1 % of the boxes, 8,32 those of these strides; the other heads' anchors are fitted anew (not with "
        f"--anchors keep). {ONE_TO_MANY} or {ONE_TO_ONE}: those of this kind, where there are both (YOLO26)",
        group=PRUNING,
        metavar="auto|STRIDES|KIND",
        const="auto",
    )
    prune: str = option(
        "auto",
        "what to keep of the whole network: "
        + ", ".join(f"{name}=SHARE ({each.help})" for name, each in BUDGETS.items())
        + "; ratio=SHARE lets that share of the prunable scores go instead; none cuts no channels, only --shortcuts; "
        f"auto is {USUAL_BUDGET}, or what --max-drop finds",
        group=PRUNING,
        metavar="WHAT=SHARE",
        main=True,
    )
    max_drop: float = option(
        0.0,
        "instead of a budget: the most val mAP50-95 the cut may cost before any fine-tuning (0.01 is a point), with "
        "its layers solved where that helps (with --no-reconstruct: BatchNorm re-estimated); the deepest such cut is "
        "searched for. 0 does not search",
        group=PRUNING,
        low=0,
        high=1,
        main=True,
    )
    shortcuts: str = option(
        "0",
        "remove so many shortcut blocks, the least used first; auto takes blocks and channels by one order until the "
        "budget is met",
        group=PRUNING,
        metavar="N|auto",
        main=True,
    )
    criterion: str = like(CutPlan, "criterion", group=PRUNING)
    strategy: str = like(CutPlan, "strategy", group=PRUNING)
    layer_keep: float = like(CutPlan, "layer_keep", group=PRUNING)
    deploy_to: str = option(
        "",
        "where the pruned network will run: layers keep multiples of the channels that are computed at once there ("
        + ", ".join(f"{name} {each.round_to}" for name, each in FORMATS.items())
        + "), and --prune latency=SHARE is measured there, in place of ONNX Runtime",
        group=PRUNING,
        choices=("", *FORMATS),
        metavar="|".join(FORMATS),
        main=True,
    )
    round_to: int = like(
        CutPlan,
        "round_to",
        group=PRUNING,
        default=0,
        low=0,
        help="keep multiples of so many channels, rounded up, the budget still met; 1 rounds nothing. 0: as "
        "--deploy-to says, else 1",
    )
    include: tuple[str, ...] = like(CutPlan, "include", group=PRUNING)
    exclude: tuple[str, ...] = like(CutPlan, "exclude", group=PRUNING)
    fold: bool = like(CutPlan, "fold", group=PRUNING)
    reestimate_bn: bool = option(
        False,
        "measure BatchNorm statistics anew on training pictures after the cut: mAP before fine-tuning rises where live "
        "channels were cut, and can fall where only idle ones were",
        group=PRUNING,
    )
    reconstruct: bool = option(
        True,
        "leave the layers as cut. By default each is solved, by least squares on 200 training pictures (no labels), "
        "for what the uncut network says in the channels that are kept; not where only idle channels went, and kept "
        "only where val mAP50-95 rises. It costs some seconds to a minute, for every candidate of --max-drop too",
        group=PRUNING,
    )
    rounds: int = like(CutPlan, "rounds", group=PRUNING)
    round_epochs: int = option(
        0,
        "epochs of the training between two cuts; 0: a tenth of --epochs, at least one",
        group=PRUNING,
        low=0,
        high=1_000_000,
    )
    then_kd: bool = option(False, "go on to the student, with the baseline as its teacher", group=STUDENT, main=True)
    compare_plain: bool = option(
        False,
        "also fine-tune without the teacher for as long, to show what the teacher adds; where nobody teaches, the "
        "student is that network, and nothing is trained twice",
        group=STUDENT,
    )
    equal_baseline: bool = option(
        False,
        "also train the baseline on, for as many epochs as all stages after it have, so that the student is compared "
        "with one that was trained as long: a row of its own; about as much time again as these stages take, or more",
        group=STUDENT,
    )
    finetune_epochs: int = option(
        0, "epochs of the fine-tune; 0: those of --epochs", group=STUDENT, low=0, high=1_000_000
    )
    finetune_lr0: float = option(
        0.0,
        "peak learning rate of the fine-tune; 0: that of --lr0. A cut through channels in use wants a higher one if "
        "the steps are few: adamw .0025 rather than .001",
        group=STUDENT,
        low=0,
        high=10,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sparsity = self.sparsity or ("constant" if self.s else "auto")
        if self.sparsity != "auto":
            self.s = self.s or USUAL_STRENGTH
        self._check_pruning()

    def _check_pruning(self) -> None:
        self.shortcuts = str(self.shortcuts).strip().lower()
        if self.shortcuts != "auto" and not re.fullmatch(r"[0-9]{1,6}", self.shortcuts):
            raise UserError(f"--shortcuts {self.shortcuts} is neither a number nor auto", todo="--shortcuts 8")
        if self.prune in ("0", "1", "2"):
            raise UserError(
                f"--prune {self.prune}: which gammas are pulled is not chosen here, it is found by tracing",
                todo="leave it out; --prune says what to keep: params=.25 (docs/migrating.md)",
            )
        depth = self._depth
        if not depth and self.shortcuts in ("0", "auto") and "prune" in self.stages.replace("auto", "prune"):
            raise UserError(
                f"--prune {self.prune} and --shortcuts {self.shortcuts} leave nothing to prune",
                todo="give a budget, or a number of blocks",
            )
        if "budget" in depth and self.shortcuts in ("0", "auto") and parse_budget(self.budget)[1] == 1:
            raise UserError(
                f"--prune {self.prune} keeps everything",
                todo=f"a share below 1, as {USUAL_BUDGET}; none cuts no channels",
            )
        if self.max_drop and "max_drop" not in depth:
            raise UserError(
                f"--max-drop {self.max_drop:g} finds the budget itself, and --prune {self.prune} gives one",
                todo="leave one of the two out (--prune auto undoes that of a --hyp file)",
            )
        if self.rounds > 1 and depth and "budget" not in depth:
            raise UserError(
                f"--rounds {self.rounds} needs a budget to share out among its cuts",
                todo=f"give --prune {USUAL_BUDGET}, or another share of {', '.join(BUDGETS)}",
            )
        _ = self.head_strides  # refuses what is no list

    def for_stage(self, epochs: int, lr0: float) -> PruneConfig:
        """The options of a stage with its own length and learning rate, where given."""
        epochs, lr0 = epochs or self.epochs, lr0 or self.lr0
        return replace(self, epochs=epochs, lr0=lr0, warmup_epochs=min(self.warmup_epochs, epochs / 10))

    @property
    def recovery_epochs(self) -> int:
        """Epochs of the training between two cuts."""
        return self.round_epochs or max(1, self.epochs // 10)

    @property
    def budget(self) -> str:
        """What `--prune` asks for, "auto" resolved; empty where --max-drop looks for it."""
        if self.prune.strip().lower() != "auto":
            with suppress(UserError):
                what, share = parse_budget(self.prune)
                return f"{what.name}={share:g}"
            return self.prune.strip()
        return "" if self.max_drop else USUAL_BUDGET

    @property
    def _depth(self) -> dict[str, Any]:
        """How deep channels are cut: one of the plan's `budget`, `ratio` and `max_drop`; none if only blocks go."""
        if not self.budget and self.max_drop:
            return {"max_drop": self.max_drop}
        if self.budget.lower() in ("none", "off"):
            return {}
        if self.budget.partition("=")[0].strip().lower() == "ratio":
            return {"ratio": _share(self.budget)}
        try:
            parse_budget(self.budget)
        except UserError:
            raise UserError(
                f"--prune {self.prune} is not a share to keep of anything",
                todo=f"write one of {', '.join(BUDGETS)} and a number in 0..1, as {USUAL_BUDGET}; or ratio=0.7, the "
                "share of the scores that goes",
            ) from None
        return {"budget": self.budget}

    @property
    def plan(self) -> CutPlan:
        """The cut that is asked for."""
        return CutPlan(
            **{name: getattr(self, name) for name in PLANNED} | {"round_to": self._rounding},
            **self._depth,
            shortcuts="auto" if self.shortcuts == "auto" else int(self.shortcuts),
            size=self.input_size,
            seed=self.seed if CRITERIA[self.criterion].needs == "seed" else CutPlan.seed,
        )

    @property
    def _rounding(self) -> int:
        """The multiple of channels that layers keep: what is given, else the target's."""
        target = FORMATS[self.deploy_to].round_to if self.deploy_to else CutPlan.round_to
        return self.round_to or target

    @property
    def head_strides(self) -> str | tuple[int, ...]:
        """What `--drop-heads` names: "auto", a kind of heads, or strides; none of them: ()."""
        text = self.drop_heads.strip().lower()
        if text in ("", "none", "off"):
            return ()
        if text in ("auto", ONE_TO_MANY, ONE_TO_ONE):
            return text
        try:
            return tuple(int(part) for part in text.split(",") if part.strip())
        except ValueError:
            raise UserError(
                f"--drop-heads {self.drop_heads} is no list of strides",
                todo=f"auto, the strides of the heads, as 8,32, or {ONE_TO_MANY} or {ONE_TO_ONE}",
            ) from None


def _share(text: str) -> float:
    """The number of "ratio=0.85"."""
    try:
        share = float(text.partition("=")[2])
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UserError(f"--prune {text} names no share", todo="as ratio=0.85: that share of the scores goes")
    return share
