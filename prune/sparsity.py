"""Sparsity training: gammas of prunable channels are driven towards 0 while the network trains.

Source: Network Slimming (ICCV 2017), equation 1: an L1 penalty ``s * sum |gamma|`` whose sub-gradient
``s * sign(gamma)`` is added to the gammas' gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from engine.seams import Hooks
from models.network import Network
from prune.identities import ChannelGraph, Mask
from prune.schedules import FORMS, SCHEDULES
from prune.tracing import trace

# In the second half of the training global decay weakens s, and local decay weakens it for the largest gammas.
DECAYED = 0.01
SPARED_SHARE = 0.15
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

# Near zero: at most this share of what a large gamma is, the 95th percentile of |gamma|. It is the same for every way
# of making gammas small, and the same whether a network's gammas are around 1 or around 0.05.
NEAR_ZERO = 0.01
LARGE = 0.95

# Bins of the histogram over time: below 10^-4 (exact zeros among them), then a fifth of a decade each, up to 10.
LOG10_EDGES = tuple(round(-4 + 0.2 * step, 1) for step in range(26))


class Sparsity(Hooks):
    """Shrinks the gammas of every BatchNorm channel that the identity graph calls prunable.

    It acts once per optimiser step on unscaled, clipped gradients, so its strength does not depend on batch size,
    accumulation, clipping or loss scale.

    Args:
        net: the network that will be trained.
        s: strength of the penalty. The hard choice: too large collapses mAP, too small never sparsifies.
        schedule: "constant"; "global-decay": 0.01 s in the second half; "local-decay": in the second half the
            largest 15 % of the gammas get 0.01 s.
        form: "subgradient" adds s * sign(gamma) to the gradient (for SGD); "proximal" shrinks gamma by lr * s after
            the step, stopping at exactly 0 (for any optimiser).
        optimizer: name or object of the optimiser, to refuse a form that does not fit it.
        graph: the identities of `net`, if already traced.

    Raises:
        UserError: unknown schedule or form, negative s, or the sub-gradient form under an adaptive optimiser.
    """

    def __init__(
        self,
        net: Network,
        s: float,
        schedule: str = "constant",
        form: str = "subgradient",
        optimizer: str | torch.optim.Optimizer = "sgd",
        graph: ChannelGraph | None = None,
    ):
        if schedule not in SCHEDULES:
            raise UserError(f"sparsity schedule {schedule!r} is not known", todo=f"choose from {', '.join(SCHEDULES)}")
        if form not in FORMS:
            raise UserError(f"sparsity form {form!r} is not known", todo=f"choose from {', '.join(FORMS)}")
        if not s >= 0:
            raise UserError(f"sparsity strength s={s} has to be 0 or more", todo="0.001 is a usual start")
        name = optimizer if isinstance(optimizer, str) else type(optimizer).__name__
        if form == "subgradient" and "adam" in name.lower():
            raise UserError(
                f"the sub-gradient form of sparsity does not work under {name}: it divides every gradient "
                "by its own size, so s would mean nothing",
                todo="use form='proximal', or train with SGD",
            )
        self.s, self.schedule, self.form = float(s), schedule, form
        self.graph = graph or trace(net)
        masks = self.graph.participating()
        self.masks = {name: torch.from_numpy(mask) for name, mask in masks.items()}
        # (P,) for every prunable gamma, in the order of `values`, the number of its tied group.
        roots = [self.graph.root[self.graph.norms[name][mask]] for name, mask in masks.items()]
        self.groups = torch.from_numpy(np.concatenate(roots)) if roots else torch.zeros(0, dtype=torch.int64)
        self.history: list[dict[str, float]] = []
        self.histograms: list[list[int]] = []
        Sparsity.begin(self, net)

    def begin(self, network: Network) -> None:
        self.network, self._gammas = network, self.gammas(network)

    def gammas(self, network: nn.Module) -> list[tuple[nn.Parameter, Tensor]]:
        """(gamma, mask of its prunable channels) of each participating BatchNorm, on the gamma's device."""
        modules = dict(network.named_modules())
        return [(modules[name].weight, mask.to(modules[name].weight.device)) for name, mask in self.masks.items()]

    def values(self, network: nn.Module) -> Tensor:
        """|gamma| of all prunable channels, one after the other: ``(P,)`` float32 on the CPU."""
        parts = [gamma.detach().abs()[mask].float().cpu() for gamma, mask in self.gammas(network)]
        return torch.cat(parts) if parts else torch.zeros(0)

    def share_near_zero(self, network: nn.Module) -> float:
        """The share of prunable gammas that could go: near zero, and so is every gamma of their tied group."""
        values = self.values(network)
        if not len(values):
            return 0.0
        return float((self.largest(values) <= near_zero(values))[self.groups.cpu()].double().mean())

    def largest(self, values: Tensor) -> Tensor:
        """The largest of the ``(P,)`` `values` in each group: ``(N,)`` at the groups' own numbers, 0 elsewhere."""
        return torch.zeros(len(self.graph.root)).scatter_reduce(0, self.groups.cpu(), values, "amax")

    @torch.no_grad()
    def before_step(self, network: Network, progress: float) -> None:
        if self.form != "subgradient" or self.s == 0:
            return
        for gamma, push in self._pushes(progress):
            push = push * gamma.sign()
            if gamma.grad is None:
                if gamma.requires_grad:
                    gamma.grad = push.to(gamma.dtype)
            else:
                gamma.grad.add_(push.to(gamma.grad.dtype))

    @torch.no_grad()
    def after_step(self, network: Network, lr: float, progress: float) -> None:
        if self.form != "proximal" or self.s == 0:
            return
        for gamma, push in self._pushes(progress):
            if gamma.requires_grad:
                gamma.copy_(gamma.sign() * (gamma.abs() - lr * push).clamp(min=0))

    def _pushes(self, progress: float) -> list[tuple[nn.Parameter, Tensor]]:
        """(gamma, strength per channel) of each participating BatchNorm."""
        gammas = self._gammas
        second_half = progress >= 0.5
        s = self.s * (DECAYED if second_half and self.schedule == "global-decay" else 1.0)
        if not (second_half and self.schedule == "local-decay") or not gammas:
            return [(gamma, s * mask.to(gamma.dtype)) for gamma, mask in gammas]
        every = torch.cat([gamma.detach().abs()[mask] for gamma, mask in gammas])
        spared = max(1, round(SPARED_SHARE * len(every)))
        edge = every.topk(spared).values[-1]
        return [
            (gamma, torch.where(gamma.abs() >= edge, DECAYED * s, s) * mask.to(gamma.dtype)) for gamma, mask in gammas
        ]

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        """Quantiles of |gamma| and how many are small."""
        values = self.values(self.network)
        found = gamma_metrics(values)
        if found:
            found["sparsity/share"] = self.share_near_zero(self.network)
            self.histograms.append(histogram(values))
        self.history.append(found)
        return found

    def may_be_best(self, metrics: dict[str, float], is_last: bool) -> bool:
        """The last epoch: with a strength there is no target, and the best by mAP would be the least sparse."""
        return is_last

    def state_dict(self) -> dict[str, Any]:
        return {
            "s": self.s,
            "schedule": self.schedule,
            "form": self.form,
            "history": [dict(row) for row in self.history],
            "histograms": [list(row) for row in self.histograms],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.s, self.schedule, self.form = state["s"], state["schedule"], state["form"]
        self.history = [dict(row) for row in state["history"]]
        self.histograms = [list(row) for row in state.get("histograms", ())]


def idle_channels(network: Network) -> tuple[int, int]:
    """How many prunable channels are at exactly 0 with their whole tied group, and how many are prunable at all."""
    hook = Sparsity(network, 0.0, form="proximal")
    values = hook.values(network)
    return int((hook.largest(values)[hook.groups] == 0).sum()), len(values)


def alive_among(network: Network, graph: ChannelGraph, gone: Mask) -> tuple[float, tuple[int, int]]:
    """How much of the identities that a cut of `network` removes, ``(N,)`` `gone`, was in use.

    Returns:
        The |gamma| of those not near zero by that of all prunable channels; and (how many those are, how many went).
    """
    hook = Sparsity(network, 0.0, form="proximal", graph=graph)
    values = hook.values(network).double()
    if not len(values):
        return 0.0, (0, 0)
    went = torch.from_numpy(
        np.concatenate([gone[graph.norms[name][mask.numpy()]] for name, mask in hook.masks.items()])
    )
    alive = went & (values > near_zero(values))
    total = float(values.sum())
    return float(values[alive].sum()) / total if total else 0.0, (int(alive.sum()), int(went.sum()))


def near_zero(values: Tensor) -> float:
    """The |gamma| up to which one counts as near zero: 1 % of the 95th percentile of the ``(P,)`` `values`."""
    return NEAR_ZERO * float(values.sort().values[min(int(LARGE * len(values)), len(values) - 1)])


def histogram(values: Tensor) -> list[int]:
    """How many of the ``(P,)`` absolute gammas lie in each bin: below 10^-4, between the `LOG10_EDGES`, and above."""
    places = torch.bucketize(values.clamp(min=1e-30).log10(), torch.tensor(LOG10_EDGES), right=True)
    return torch.bincount(places, minlength=len(LOG10_EDGES) + 1).tolist()


def gamma_metrics(values: Tensor) -> dict[str, float]:
    """Named statistics of ``(P,)`` absolute gammas, for the log."""
    if not len(values):
        return {}
    ordered = values.sort().values
    places = [min(int(q * len(ordered)), len(ordered) - 1) for q in QUANTILES]
    found = {f"gamma/q{round(100 * q):02d}": float(ordered[place]) for q, place in zip(QUANTILES, places)}
    found["gamma/below_1e-2"] = float((values < 1e-2).float().mean())
    found["gamma/below_1e-3"] = float((values < 1e-3).float().mean())
    return found


@torch.no_grad()
def settle_ema(live: nn.Module, ema: nn.Module) -> int:
    """Set the EMA's gammas to 0 where the live ones are exactly 0; returns how many changed.

    An average never quite reaches 0. Sparsity is measured and cut on the EMA weights, so this closes the stage. A beta
    that went to 0 with its gamma, of a block that is to be cut, is set to 0 as well.
    """
    changed = 0
    twins = dict(ema.named_modules())
    for name, module in live.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
            gamma, beta = twins[name].weight, twins[name].bias
            assert isinstance(gamma, Tensor)
            assert isinstance(beta, Tensor)
            dead = (module.weight == 0).to(gamma.device)
            changed += int((dead & (gamma != 0)).sum())
            gamma.masked_fill_(dead, 0.0)
            beta.masked_fill_(dead & (module.bias == 0).to(beta.device), 0.0)
    return changed
