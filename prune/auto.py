"""Sparsity training without a strength to choose: a share of channels is asked for, and a controller gets there.

One strength s for all gammas has to be guessed, and it lowers important and unimportant gammas alike: under AdamW every
gamma moves by about the learning rate a step, so a soft threshold of lr * s beats any gradient once s > 1 and decides
nothing while s << 1. Here three questions are answered separately.

**Which?** Whole groups of tied identities, because only whole groups can be cut. The importance of group G is a running
mean, over optimiser steps, of the squared first-order change of the loss when its gammas go to 0, per gamma::

    I_G  <-  (1 - a) I_G + a (sum_{m in G} gamma_m dL/dgamma_m)^2 / |G|

(Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, equation 8, on BatchNorm scales.) The
least important groups are *called*, as many as the target curve asks for, within the floors and equal slices that the
cut will have to respect. They are ranked anew about a hundred times a training; a called group that turns out to matter
before it has reached 0 is let go.

**When?** The share of prunable gammas at zero follows, at progress p of the training (Zhu and Gupta, "To prune, or not
to prune", 2017, equation 1)::

    c(p) = target * (1 - (1 - u)^3),    u = (p - START) / (END - START) in 0..1

Fast at first, while the learning rate is high and the rest can adapt; nothing changes in the last part, which
recovers. A group is called WINDOW before the curve needs it at zero. Instead of a share of gammas the target may be the
budget of the cut to come ("params=0.25"): the curve is then about the share of the parameters (channels, FLOPs) that
would go with what is at zero, and in the end the cut takes just that. I_G is then not divided by |G| but by the price
of the group, the parameters (channels, FLOPs) that go with it: what the loss minds for each unit that is saved. Where
FLOPs are counted, a channel of the first layers has to be worth as much as dozens of the last ones.

**How hard?** A called gamma has a deadline. After each optimiser step it is shrunk by the soft threshold |gamma| / n, n
being the optimiser steps left to its deadline::

    gamma  <-  gamma * (1 - 1 / n)

which is a straight line to exactly 0 where no gradient objects, and exactly 0 at n = 1 whatever the gradient and the
optimiser do. There is nothing to tune, under SGD and AdamW alike. No other gamma is touched.

**Blocks.** Where the cut is to take shortcut blocks (``shortcuts=4``), they are called along the same curve, the least
important first, and fade to exactly nothing (`prune.fading`); the share of the target is then that of a network
without them.

**Backing off.** Where the validation mAP50-95 falls below (1 - tolerance) times the best of this training, the curve
stands still and called groups not yet at zero are let go, until the mAP is back; the rest of the curve then starts
anew from there and may end as late as LATEST, if that is still a WINDOW away. What stays below the target is said, with
the reason (`conclusion`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from common.log import log
from engine import distributed
from engine.evaluate import Score
from models.network import Network
from prune.budgets import COMPUTED, Budget
from prune.cost import Cost
from prune.fading import FadingBlocks
from prune.identities import ChannelGraph, Mask
from prune.layers import held_layers
from prune.plan import CutPlan
from prune.schedules import USUAL_TARGET
from prune.select import Selector
from prune.sparsity import NEAR_ZERO, Sparsity
from prune.surgery import layer_number

WATCHED = "val/mAP50-95"

# All in shares of the training.
START, END, LATEST = 0.15, 0.6, 0.85
WINDOW = 0.1
MEMORY = 0.05  # of the running mean of the importance
EVERY = 0.01  # between two rankings


class AutoSparsity(Sparsity):
    """Drives the share of prunable gammas at zero to `target`; see the module's text for the formulas.

    Args:
        net: the network that will be trained.
        target: the share of prunable gammas that are to be at exactly 0 at the end, with their whole tied group. None:
            as far as the plan goes: what its budget ("params=0.25") does not keep, or its ratio; 0.7 without either,
            or if it keeps all.
        tolerance: the share of the best validation mAP50-95 of this training that may be lost for a while.
        plan: the cut to come. Its floor per layer, rounding and strategy are respected already: under "conservative"
            what an add ties is left alone.
        graph: the identities of `net`, if already traced; what it calls fixed (excluded layers) is left alone.
        options: those of a `CutPlan` that differ from `plan`.

    Raises:
        UserError: a target or tolerance that is no share, or a budget that has to be measured.

    Attributes:
        target: the share that is to go: of the prunable gammas, or 1 - the budget.
        share: how much of it has gone: is at exactly 0 when last ranked or at the end of an epoch.
        blocks: the shortcut blocks that fade.
        obstacle: why the network's structure does not allow the target; "" where it does.
    """

    def __init__(
        self,
        net: Network,
        target: float | None = None,
        tolerance: float = 0.1,
        plan: CutPlan | None = None,
        graph: ChannelGraph | None = None,
        **options: Any,
    ):
        self.plan = CutPlan.of(plan, options)
        kept = self.plan.kept if target is None else None
        kept = kept if kept and kept[1] < 1 else None
        if target is None:
            target = USUAL_TARGET if self.plan.ratio is None else self.plan.ratio
        if not 0 < target < 1:
            raise UserError(f"sparsity target {target} is not a share", todo="give a number between 0 and 1, as 0.7")
        if not 0 < tolerance <= 1:
            raise UserError(f"tolerance {tolerance} is not a share of the mAP", todo="give a number in 0..1, as 0.1")
        super().__init__(net, 0.0, form="proximal", graph=graph)
        self.schedule = "auto"
        self.target, self.tolerance = float(target), float(tolerance)
        count = len(self.graph.root)
        roots = [self.graph.root[self.graph.norms[name]] for name in self.masks]
        # The group of every channel of the participating BatchNorms, one after the other, prunable or not.
        self.channels = torch.from_numpy(np.concatenate(roots)) if roots else torch.zeros(0, dtype=torch.int64)
        self.sizes = torch.bincount(self.groups, minlength=count).float()  # (N,) prunable gammas of each group
        self.prices = self.sizes.clamp(min=1)  # (N,) what each group's importance is divided by
        self.importance = torch.zeros(count)  # (N,) at the groups' own numbers, like the next one
        self.deadline = torch.full((count,), math.inf)  # progress by which a group is at 0; infinite: not called
        protected = {layer_number(name) for name in held_layers(self.graph, self.plan.include, self.plan.exclude)}
        fading = self.plan.shortcuts if isinstance(self.plan.shortcuts, int) else 0
        self.blocks = FadingBlocks(net, self.graph, fading, protected)
        self._cost: Cost | None = None  # where the target is a budget, called `_what`
        self._what = ""
        self.goal = f"{target:.0%} of the prunable channels"
        if kept:
            self._aim_at(net, *kept)
        self.share, self.obstacle = 0.0, ""
        self._course = (START, 0.0, END)  # the curve: from where, from what share, until when
        self._wanted = 0.0  # the share that has been called for
        self._at, self._pace, self._ranked = -1.0, 0.0, -1.0  # progress now, per step, and at the last ranking
        self._best, self._held, self._said = -1.0, False, ""
        self._limits = self.graph  # in which frozen gammas are fixed as well, and called blocks are gone
        self.begin(net)

    def begin(self, network: Network) -> None:
        super().begin(network)
        self.blocks.begin(network)
        self._reachable()
        self._strike(self.blocks.called.numpy())

    def _strike(self, gone: np.ndarray) -> None:
        """From now on everything is about the network without these blocks, ``(B,)`` bool."""
        lost = self.blocks.modules_gone(gone)
        frozen = [name for name, (gamma, _) in zip(self.masks, self._gammas) if not gamma.requires_grad]
        # A group with a frozen gamma cannot go: fix all of it.
        graph = self.graph.fixing(self.graph.norms[name] for name in frozen) if frozen else self.graph
        self._limits = graph.lacking(lost) if lost else graph
        left = [self.graph.root[self.graph.norms[name][mask]] for name, mask in self.masks.items() if name not in lost]
        groups = np.concatenate([*left, np.zeros(0, np.int64)])
        self._sizes_left = np.bincount(groups, minlength=len(self.graph.root)).astype(float)
        self._cost_left = self._cost.without(lost) if self._cost and lost else self._cost

    def _aim_at(self, net: Network, budget: Budget, kept: float) -> None:
        if budget.price is None:
            raise UserError(
                f"budget='{budget.name}={kept:g}' has to be measured: sparsity cannot aim at it",
                todo=f"give one of {', '.join(COMPUTED)}, or a target share of channels",
            )
        cost = self._cost = Cost(net, self.graph, self.plan.size or net.image_size)
        self._what, self.target, self.goal = budget.name, 1 - kept, f"{1 - kept:.0%} of the {budget.name}"
        prices = np.bincount(self.graph.root, budget.price(cost), len(self.graph.root))
        self.prices = torch.from_numpy(prices / cost.whole[budget.name]).float().clamp(min=1e-9)

    # -- around a step -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def before_step(self, network: Network, progress: float) -> None:
        """Note the pace, and how much the loss minds each group."""
        if 0 <= self._at < progress:
            self._pace = progress - self._at
        self._at = progress
        share = min(1.0, self._pace / MEMORY) if self._pace else 1.0
        self.blocks.note(share)
        gammas = [gamma for gamma, _ in self._gammas]
        if not gammas:
            return
        device = gammas[0].device
        changes = [(gamma * gamma.grad if gamma.grad is not None else torch.zeros_like(gamma)) for gamma in gammas]
        change = torch.zeros(len(self.importance), device=device)
        change.index_add_(0, self._on(device, "channels"), torch.cat(changes).float())
        fresh = change.square() / self._on(device, "prices")
        self._on(device, "importance").lerp_(fresh, share)

    @torch.no_grad()
    def after_step(self, network: Network, lr: float, progress: float) -> None:
        """Call groups if it is time to, and shrink the gammas of those that are called."""
        gammas = [gamma for gamma, _ in self._gammas]
        if not self._pace or not gammas:
            return
        if not self._held and progress - self._ranked >= EVERY - 1e-9:
            self._rank(network, progress)
        if not self._wanted:
            return
        device = gammas[0].device
        left = ((self._on(device, "deadline") - progress) / self._pace).round().clamp(min=1)
        factors = (1 - 1 / left)[self._on(device, "channels")]  # 1 for all that are not called
        for gamma, factor in zip(gammas, factors.split([len(gamma) for gamma in gammas])):
            if gamma.requires_grad:
                gamma.mul_(factor.to(gamma.dtype))
        self.blocks.fade(progress, self._pace)

    def _on(self, device: torch.device, name: str) -> Tensor:
        """The tensor attribute, moved to the device once."""
        tensor = getattr(self, name)
        if tensor.device != device:
            setattr(self, name, tensor := tensor.to(device))
        return tensor

    # -- which groups --------------------------------------------------------------------------------------------------

    def curve(self, progress: float) -> float:
        """The share that should be at zero by then."""
        begin, share, until = self._course
        u = min(1.0, max(0.0, (progress - begin) / max(until - begin, 1e-9)))
        return share + (self.target - share) * (1 - (1 - u) ** 3)

    def _rank(self, network: Network, progress: float) -> None:
        """Call the least important groups, as many as the curve wants at zero one window from now."""
        self._ranked = progress
        wanted = self.curve(progress + WINDOW)
        if wanted <= self._wanted:  # the end of the curve: what is called stays called
            return
        self._wanted = wanted
        blocks = distributed.broadcast(self.blocks.wanted(wanted / self.target))
        if blocks.any():
            self.blocks.call(blocks, progress + WINDOW)
            self._strike(blocks)
        at_zero = self._at_zero(network)
        importance = self.importance.double().cpu()
        importance[at_zero] = -1.0
        chosen = torch.from_numpy(distributed.broadcast(self._lowest(importance.numpy(), wanted)))
        deadline = self.deadline.cpu()
        called = deadline < math.inf
        deadline[chosen & ~called] = progress + WINDOW
        deadline[called & ~chosen & ~at_zero] = math.inf
        self.deadline = deadline

    def _lowest(self, importance: np.ndarray, wanted: float) -> np.ndarray:
        """``(N,)`` bool over groups: the least important ones that make up the share, or as many as may go."""
        graph = self._limits
        scores = {name: importance[graph.root[graph.norms[name]]] for name in self.masks if name in graph.norms}
        selector = Selector(graph, scores, self.plan.layer_keep, self.plan.round_to, self.plan.strategy)
        selection = selector.least()
        if self._measure(selection.keep) < 1 - wanted:
            selection = selector.settle(selector.cut_at_budget(1 - wanted + 1e-9, self._measure, "sparsity"))
        return ~selection.keep & (self._sizes_left > 0)

    def _measure(self, keep: Mask) -> float:
        """The share of the budget, or of the prunable gammas, that stays with the ``(N,)`` keep mask."""
        if self._cost_left is not None:
            return self._cost_left.share(keep, self._what)
        sizes = self._sizes_left
        return float(sizes[keep].sum() / max(sizes.sum(), 1.0))

    def _reachable(self) -> None:
        """Set `obstacle` where not even the largest cut leaves the target share at zero, and say it once."""
        self._strike(self.blocks.lowest())
        gone = self._lowest(np.zeros(len(self.importance)), 1.0)
        most = self._gone_share(gone)
        said, self.obstacle = self.obstacle, ""
        if most < self.target - 1e-9:
            self.obstacle = (
                f"at most {most:.1%} may go: what is fixed, ties, equal slices, rounding and the floor of "
                f"{self.plan.layer_keep:g} per layer hold the rest"
            )
        if self.obstacle and self.obstacle != said:
            log.warning("auto sparsity: %s is out of reach: %s", self.goal, self.obstacle)

    def _gone_share(self, gone: np.ndarray) -> float:
        """What goes with the groups: ``(N,)`` bool at the groups' own numbers."""
        return 1 - self._measure(~gone[self.graph.root])

    def _at_zero(self, network: nn.Module) -> Tensor:
        """``(N,)`` bool over groups: every prunable gamma is exactly 0."""
        found = (self.largest(self.values(network)) == 0) & (self.sizes.cpu() > 0)
        self.share = self._gone_share(found.numpy())
        return found

    # -- after an epoch ------------------------------------------------------------------------------------------------

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        """As `Sparsity`, and with a validation in the metrics decide whether to stand still."""
        found = super().after_epoch(metrics)
        if not found:
            return found
        at_zero = self._at_zero(self.network)
        if WATCHED in metrics:
            self._watch(metrics[WATCHED], int(metrics.get("epoch", 0)), at_zero)
        wanted = self.share if self._held else self.curve(self._at + self._pace)
        found |= {"sparsity/at_zero": self.share, "sparsity/wanted": wanted, "sparsity/held": float(self._held)}
        if self.blocks.remove:
            found["sparsity/blocks"] = float(self.blocks.silent.sum())
        return found

    def _watch(self, score: float, epoch: int, at_zero: Tensor) -> None:
        self._best = max(self._best, score)
        allowed = (1 - self.tolerance) * self._best
        if self._complete(at_zero):
            return
        if score < allowed:
            self._said = (
                f"val mAP50-95 {score:.3f} of epoch {epoch} is more than {self.tolerance:.0%} below the "
                f"best, {self._best:.3f}"
            )
            if not self._held:
                log.info("auto sparsity holds at %.1f %%: %s", 100 * self.share, self._said)
            self._held, self._wanted = True, self.share
            self.deadline = torch.where(at_zero, self.deadline.cpu(), math.inf)
            self.blocks.release()
            self._strike(self.blocks.called.numpy())
        elif self._held and self._at < LATEST - WINDOW:  # later there would be no time to recover
            # What is left of the curve, at the pace it would have had, as far as there is time.
            begin, _, until = self._course
            part = (self.target - self.share) / self.target
            self._course = (self._at, self.share, min(LATEST, max(until, self._at + part * (END - START))))
            self._held = False
            log.info("auto sparsity goes on at %.1f %%: val mAP50-95 is back at %.3f", 100 * self.share, score)

    def _complete(self, at_zero: Tensor) -> bool:
        """The curve has called for all of the target, and all that was called is at zero: ``(N,)`` bool over groups."""
        done = bool(at_zero[self.deadline.cpu() < math.inf].all()) and self.blocks.complete
        return self._wanted >= self.target and done

    def after_validation(
        self, network: Network, averaged: Network, score: Score, evaluate: Callable[[Network], Score]
    ) -> dict[str, float]:
        """How much of what is at zero is near zero in the averaged weights too, which follow the live ones slowly."""
        at_zero, values = self._at_zero(network), self.values(averaged)
        alive = values[~at_zero[self.groups.cpu()]]
        edge = NEAR_ZERO * float(alive.median()) if len(alive) else math.inf
        return {"sparsity/averaged": self._gone_share((at_zero & (self.largest(values) <= edge)).numpy())}

    def may_be_best(self, metrics: dict[str, float], is_last: bool) -> bool:
        """Epochs at the target, in the averaged weights as well: one before would be cut through live channels."""
        at_zero = self._at_zero(self.network)
        return self._complete(at_zero) and metrics.get("sparsity/averaged", -1.0) >= self.share - 1e-9

    def conclusion(self) -> str:
        """One sentence for the end of the training: the target reached, or why not."""
        reached = f"{self.share:.1%} of the {self._what or 'channels that may go'} can be cut without loss (at gamma 0)"
        if self.blocks.remove:
            reached += f", {int(self.blocks.silent.sum())} of {self.blocks.remove} shortcut blocks silent"
        if self.share >= self.target - 1e-9:
            return f"{reached}; the target of {self.goal} is reached"
        if self.obstacle:
            why = self.obstacle
        elif self._said:
            why = f"it stood still because {self._said}; train longer, or allow a larger --tolerance"
        else:
            why = "the training ended before its curve did; train for more optimiser steps"
        return f"{reached}, short of the target of {self.goal}: {why}"

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "target": self.target,
            "tolerance": self.tolerance,
            "importance": self.importance.cpu().clone(),
            "deadline": self.deadline.cpu().clone(),
            "share": self.share,
            "plan": list(self._course),
            "wanted": self._wanted,
            "place": [self._at, self._pace, self._ranked],
            "best": self._best,
            "held": self._held,
            "said": self._said,
            "blocks": self.blocks.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "deadline" not in state:
            raise UserError(
                "the checkpoint is of a training with a given strength, not of --sparsity auto",
                todo="resume with the options the run was started with",
            )
        super().load_state_dict(state)
        self.target, self.tolerance = state["target"], state["tolerance"]
        self.importance, self.deadline = state["importance"].clone(), state["deadline"].clone()
        begin, share, until = state["plan"]
        self.share, self._course, self._wanted = state["share"], (begin, share, until), state["wanted"]
        self._at, self._pace, self._ranked = state["place"]
        self._best, self._held, self._said = state["best"], state["held"], state["said"]
        if len(state.get("blocks", {}).get("deadline", ())) == len(self.blocks.blocks):
            self.blocks.load_state_dict(state["blocks"])
            self._strike(self.blocks.called.numpy())
