"""The two objects through which pruning and distillation enter training, and nothing else.

`Objective` says what is minimised, as `Terms`; `Hooks` may touch the network around a step. The trainer knows both only
by these faces, so `engine` never imports `prune` or `distill`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from data.batch import Batch
from engine.evaluate import Score
from models.network import Network


@dataclass(frozen=True)
class Terms:
    """The loss of one batch, term by term: the only place where terms are weighted and summed.

    A plain dataclass, so that DDP finds the tensors in what its module returns. Names are those in the progress bar,
    `results.csv` and W&B (``train/NAME``).

    Attributes:
        values: name -> the unweighted term, a scalar with its gradient.
        weights: name -> weight; a term without an entry weighs 1.
        metrics: name -> a scalar that is only logged (gate rate).
    """

    values: Mapping[str, Tensor]
    weights: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def total(self, names: Iterable[str] | None = None) -> Tensor:
        """The weighted sum of the terms `names`, by default of all, in FP32."""
        chosen = self.values if names is None else names
        return torch.stack([self._weighted(name).float() for name in chosen]).sum()

    def shares(self) -> dict[str, Tensor]:
        """Name -> the weighted term's share of the total, without gradient."""
        with torch.no_grad():
            total = self.total().clamp(min=1e-12)
            return {name: self._weighted(name) / total for name in self.values}

    def _weighted(self, name: str) -> Tensor:
        return self.weights.get(name, 1.0) * self.values[name]

    def __or__(self, other: Terms) -> Terms:
        """Both; the other's entry counts where a name is in both."""
        return Terms(
            {**self.values, **other.values}, {**self.weights, **other.weights}, {**self.metrics, **other.metrics}
        )


class Objective(nn.Module):
    """Holds the student and whatever else is trained (adapters, balancers); DDP wraps it as a whole.

    A teacher is *not* a registered sub-module: keep it in what is no `nn.Module`, so that neither the optimiser, DDP,
    the EMA nor the checkpoint ever sees it.

    Attributes:
        network: the network being trained; the only part that goes into its checkpoint.
    """

    network: Network

    def begin_step(self, batches: Sequence[Batch]) -> None:
        """Called before an optimiser step with all the batches it accumulates, on the device, in their final size."""

    def forward(self, batch: Batch, progress: float) -> Terms:
        """The loss of one batch (already on the device, floats in 0..1), `progress` in 0..1 of the planned training."""
        raise NotImplementedError


class Hooks:
    """Called around every optimiser step and after every epoch; what it keeps between calls is in its state.

    A training may be killed and resumed between any two calls, so nothing may wait for a first step to be set up.
    """

    def begin(self, network: Network) -> None:
        """The training starts, or goes on after `load_state_dict`: `network`, on its device and with its frozen layers,
        is the one of every later call."""

    def before_step(self, network: Network, progress: float) -> None:
        """Gradients are unscaled, averaged over ranks, accumulated and already clipped."""

    def after_step(self, network: Network, lr: float, progress: float) -> None:
        """The optimiser has stepped; `lr` is the learning rate the gammas were stepped with."""

    def after_validation(
        self, network: Network, averaged: Network, score: Score, evaluate: Callable[[Network], Score]
    ) -> dict[str, float]:
        """Called on rank 0 alone, before `after_epoch`, in the epochs that are validated.

        Args:
            network, averaged: the live and the averaged weights; neither may be changed.
            score: what the averaged weights reached.
            evaluate: scores any other network on the validation pictures, as the trainer does.

        Returns:
            Further metrics, by their full names; every rank's `after_epoch` is told them.
        """
        return {}

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        """`metrics` of the epoch so far, the validation of the EMA weights included; returns further ones to log."""
        return {}

    def may_be_best(self, metrics: dict[str, float], is_last: bool) -> bool:
        """Whether this epoch's network is one to keep: only such epochs count for `best.pt` and ``--patience``.

        Args:
            metrics: of the epoch, those of every `after_epoch` included.
            is_last: no further epoch is planned.
        """
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors from which `load_state_dict` restores the hook bit for bit.

        A hook without a state may come or go when a run is resumed.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
