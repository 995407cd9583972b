"""What of a network a cut can be asked to keep a share of.

A kind is one record in `BUDGETS`: parsing "params=0.25", the search for the cut that meets it, the price by which auto
sparsity ranks channels, the rounds of a deep cut and the help read it there. Nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from models.network import Network
    from prune.cost import Cost
    from prune.identities import Mask


@dataclass(frozen=True)
class Budget:
    """One kind of budget.

    Attributes:
        name: as in "params=0.25".
        help: what is counted, for the help.
        cost: (table, keep mask over identities) -> the figure of that candidate, without building it. None: candidates
            have to be measured, and whoever asks for the cut hands in what measures them.
        price: table -> ``(N,)`` over identities, what each would save if it were the first to go, in units of the cost;
            None where candidates are measured.
    """

    name: str
    help: str
    cost: Callable[[Cost, Mask], float] | None = None
    price: Callable[[Cost], np.ndarray] | None = None

    @property
    def measured(self) -> bool:
        return self.cost is None

    def of(self, net: Network, size: tuple[int, int]) -> float:
        """The figure of a whole network at an input of (H, W); not of a kind that is measured."""
        from prune.cost import Cost
        from prune.tracing import trace

        return Cost(net, trace(net), size).whole[self.name]


BUDGETS = {
    each.name: each
    for each in (
        Budget(
            "channels",
            "output channels of convolutions",
            lambda table, keep: table.channels(keep),
            lambda table: table.channel_price(),
        ),
        Budget(
            "params",
            "parameters",
            lambda table, keep: table.parameters(keep),
            lambda table: table.parameter_price(),
        ),
        Budget(
            "flops",
            "multiply-adds at the input size",
            lambda table, keep: table.macs(keep),
            lambda table: table.mac_price(),
        ),
        Budget("latency", "time on this machine, measured"),
    )
}

COMPUTED = tuple(name for name, each in BUDGETS.items() if not each.measured)


ALIASES = {"parameters": "params", "param": "params", "channel": "channels", "filters": "channels", "time": "latency"}
ALIASES |= dict.fromkeys(("macs", "mac", "flop", "gflops", "multiply-adds"), "flops")
"""What people call a budget, and what it is called here."""
_WRITTEN = re.compile(r"\s*([\w-]+)\s*[=:]\s*([\d.eE+-]+)\s*(%?)\s*")


def parse_budget(text: str) -> tuple[Budget, float]:
    """ "params=0.1", also written "Parameters: 10%" -> (the record of "params", 0.1).

    Raises:
        UserError: anything else.
    """
    written = _WRITTEN.fullmatch(text)
    what = written[1].lower() if written else ""
    what = ALIASES.get(what, what)
    try:
        share = float(written[2]) / (100 if written[3] else 1) if written else -1.0
    except ValueError:
        share = -1.0
    if what not in BUDGETS or not 0 < share <= 1:
        raise UserError(
            f"budget={text!r} is not a kept share",
            todo=f"write one of {', '.join(BUDGETS)} and a number in 0..1, as params=0.1",
        )
    return BUDGETS[what], share
