"""By what a channel's worth can be judged. A criterion is one record here and its function in `prune.importance`.

Nothing heavy is imported: options and their help read the records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.select import Scores


@dataclass(frozen=True)
class Criterion:
    """One criterion.

    Attributes:
        name: its function in `prune.importance` has the same name, with underscores.
        help: what is looked at.
        needs: what the function takes beside the network and its graph: "losses" (`prune.importance.Losses`: gradients
            on pictures) or "seed"; "" if nothing.
        comparable: its scores compare across layers as they are; those of all others are divided by their layer's mean
            (a 1x1 filter has fewer weights than a 3x3 one).
        rehearsal: the criterion that takes its place where there are no pictures yet. It scores the same layers.
    """

    name: str
    help: str
    needs: str = ""
    comparable: bool = False
    rehearsal: str = ""

    def load(self) -> Callable[..., Scores]:
        """The function: (network, graph, and what it needs, by keyword) -> scores, low ones go first."""
        from prune import importance

        return getattr(importance, self.name.replace("-", "_"))


CRITERIA = {
    each.name: each
    for each in (
        Criterion("gamma", "its BatchNorm scale, what sparsity training prepares", comparable=True),
        Criterion("gamma-reader", "that times the weights that read it"),
        Criterion("l1", "its filter's sum of |weights|"),
        Criterion("l2", "its filter's norm"),
        Criterion("taylor", "its gradient on training pictures", needs="losses", rehearsal="l1"),
        Criterion("fpgm", "how far its filter is from the layer's others"),
        Criterion("random", "a random number: the control", needs="seed"),
    )
}
