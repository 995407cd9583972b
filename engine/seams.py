"""The two objects through which pruning and distillation enter training, and nothing else.

`Objective` says what is minimised; `Hooks` may touch the network around a step. The trainer knows both only by
these faces, so `engine` never imports `prune` or `distill`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from data.batch import Batch
from models.network import Network

Losses = dict[str, Tensor]
Metrics = dict[str, Tensor]


class Objective(nn.Module):
    """Holds the student and whatever else is trained (adapters, balancers); DDP wraps it as a whole.

    A teacher is *not* a registered sub-module: keep it in a plain container, so that neither the optimiser, DDP,
    the EMA nor the checkpoint ever sees it.

    Attributes:
        network: the network being trained; the only part that goes into its checkpoint.
        weights: name of a loss term -> its weight. The trainer multiplies and sums in one place;
            a term without an entry weighs 1.
        teachers: networks that only answer; mixed precision has to know them.
    """

    network: Network
    weights: dict[str, float]
    teachers: tuple[nn.Module, ...] = ()

    def begin_step(self, batches: Sequence[Batch]) -> None:
        """Called before an optimiser step with all the batches it accumulates, on the device, in their final size."""

    def forward(self, batch: Batch, progress: float) -> tuple[Losses, Metrics]:
        """One batch (already on the device, floats in 0..1), `progress` in 0..1 of the planned training.

        Returns:
            losses: named unweighted scalar terms, each with its gradient.
            metrics: named scalars that are only logged (gate rate).
            The names are the ones in the progress bar, `results.csv` and W&B.
        """
        raise NotImplementedError


class Hooks:
    """Called around every optimiser step and after every epoch; what it keeps between calls is in its state."""

    def before_step(self, network: Network, progress: float) -> None:
        """Gradients are unscaled, averaged over ranks, accumulated and already clipped."""

    def after_step(self, network: Network, lr: float, progress: float) -> None:
        """The optimiser has stepped; `lr` is the learning rate the gammas were stepped with."""

    def after_validation(
        self, network: Network, averaged: Network, score: Callable[[Network], dict[str, float]]
    ) -> dict[str, float]:
        """Called on rank 0 alone, before `after_epoch`, in the epochs that are validated.

        Args:
            network, averaged: the live and the averaged weights; neither may be changed.
            score: evaluates any network on the validation pictures, as the trainer does: "mAP50-95", "mAP50", ...

        Returns:
            Further metrics, by their full names; every rank's `after_epoch` is told them.
        """
        return {}

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        """`metrics` of the epoch so far, the validation of the EMA weights included; returns further ones to log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors from which `load_state_dict` restores the hook bit for bit."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`."""
