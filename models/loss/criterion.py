"""What the training of a set of heads needs of their family: assignment and loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from models.heads import FAMILIES, HeadSpec
from models.options import LossConfig
from models.spec import Matches


class Criterion(ABC):
    """The loss of a set of heads of one family.

    Args:
        specs: one per head.
        config: gains and options.
    """

    def __init__(self, specs: Sequence[HeadSpec], config: LossConfig | None = None):
        self.specs = tuple(specs)
        self.config = config or LossConfig()

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """Name of a term -> its gain."""

    @abstractmethod
    def amount(self, size: tuple[int, int], targets: Tensor) -> Tensor:
        """What a batch counts among those that an optimiser step accumulates: a scalar, averaged over nothing.

        It has to be known before the network has seen the batch. See `Matches.count` for what is made of it.

        Args:
            size: (H, W) of the pictures.
            targets: ``(T, 6)`` picture in the batch, class, cx, cy, w, h in pixels of the network input.
        """

    @abstractmethod
    def assign(
        self, heads: Sequence[Tensor], targets: Tensor, mean_over_ranks: Callable[[Tensor], Tensor] | None = None
    ) -> Matches:
        """Which places of `heads`, one ``(B, A, H, W, K)`` tensor of logits per spec, answer for which of `targets`.

        No gradient flows through it. `mean_over_ranks` is handed on to `Matches`.
        """

    @abstractmethod
    def __call__(self, heads: Sequence[Tensor], matches: Matches) -> dict[str, Tensor]:
        """The *unweighted* terms, scalars by name, of heads and what `assign` made of them."""


def criterion(specs: Sequence[HeadSpec], config: LossConfig | None = None) -> Criterion:
    """The criterion of the family that `specs` are of."""
    return FAMILIES[specs[0].family].criterion()(specs, config)
