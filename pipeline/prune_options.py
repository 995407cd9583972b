"""Every option of the whole line: sparsity training, pruning, the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from common.errors import UserError
from engine.config import option
from pipeline.finetune import DistilConfig
from prune.pruning import STRATEGIES, parse_budget
from prune.sparsity import SCHEDULES

STAGES = ("baseline", "sparse", "prune", "student")
SPARSE, PRUNING, STUDENT = "sparsity training", "pruning", "student"


@dataclass
class PruneConfig(DistilConfig):
    """Every option of the whole line; those of the fine-tune (`--kd`, ...) count with --then-kd."""

    stages: str = option(
        "auto",
        "some of baseline,sparse,prune,student; auto is all (student with --then-kd), without the baseline where "
        "--weights is a whole network with the data set's classes",
        group=PRUNING, metavar="LIST",
    )
    sparsity: str = option(
        "constant",
        "the pull over the stage: constant; global-decay (a hundredth in the second half); local-decay (that for the "
        "largest 15 % of the gammas only)",
        group=SPARSE, choices=SCHEDULES, flags=("-sr", "--sr"), const="constant",
    )
    s: float = option(
        1e-3,
        "pull on every prunable gamma per optimiser step: too little never sparsifies, too much costs mAP (under "
        "torchrun, whose own --s... options get in the way, spell it --strength)",
        group=SPARSE, low=0, flags=("--strength",),
    )
    sparse_epochs: int = option(0, "epochs of this stage; 0: those of --epochs", group=SPARSE, low=0)
    sparse_lr0: float = option(0.0, "peak learning rate of this stage; 0: that of --lr0", group=SPARSE, low=0)
    prune: str = option(
        "params=0.25",
        "what to keep of the whole network: channels=SHARE, params=SHARE or flops=SHARE; none cuts no channels, only "
        "--shortcuts",
        group=PRUNING,
    )
    shortcuts: int = option(0, "remove so many shortcut blocks, the least used first", group=PRUNING, low=0)
    strategy: str = option(
        "union", "union: channels tied by an add go only if every layer of the tie lets them go",
        group=PRUNING, choices=STRATEGIES,
    )
    layer_keep: float = option(
        0.05, "share of its channels every layer keeps, whatever the threshold says", group=PRUNING, low=0, high=1
    )
    round_to: int = option(1, "keep multiples of so many channels; 8 suits most runtimes", group=PRUNING, low=1)
    then_kd: bool = option(False, "go on to the student, with the baseline as its teacher", group=STUDENT)
    compare_plain: bool = option(
        False, "also fine-tune without the teacher for as long, to show what the teacher adds", group=STUDENT
    )
    finetune_epochs: int = option(0, "epochs of the fine-tune; 0: those of --epochs", group=STUDENT, low=0)
    finetune_lr0: float = option(0.0, "peak learning rate of the fine-tune; 0: that of --lr0", group=STUDENT, low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cuts_channels:
            parse_budget(self.prune)
        elif not self.shortcuts and "prune" in self.stages.replace("auto", "prune"):
            raise UserError("--prune none and --shortcuts 0 leave nothing to prune", todo="give one of the two")

    def for_stage(self, epochs: int, lr0: float) -> PruneConfig:
        """The options of a stage with its own length and learning rate, where given."""
        epochs, lr0 = epochs or self.epochs, lr0 or self.lr0
        return replace(self, epochs=epochs, lr0=lr0, warmup_epochs=min(self.warmup_epochs, epochs / 10))

    @property
    def cuts_channels(self) -> bool:
        return self.prune.strip().lower() not in ("none", "off", "")

    @property
    def pruning(self) -> dict[str, Any]:
        """The options of `prune.prune`."""
        if not self.cuts_channels:
            return {"shortcuts": self.shortcuts}
        return {
            "budget": self.prune,
            "strategy": self.strategy,
            "layer_keep": self.layer_keep,
            "round_to": self.round_to,
            "size": self.input_size,
            "shortcuts": self.shortcuts,
        }
