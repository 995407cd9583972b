"""Pruning: channel identities, selection, surgery, folding, shortcut blocks, sparsity training.

No architecture is named here: what may go is read off the traced graph.
"""

from typing import TYPE_CHECKING

from common.lazy import lazily

if TYPE_CHECKING:
    from prune.auto import AutoSparsity
    from prune.blocks import Block, find_blocks
    from prune.border import border_error
    from prune.budgets import BUDGETS
    from prune.criteria import CRITERIA
    from prune.identities import ChannelGraph
    from prune.plan import STRATEGIES, CutPlan
    from prune.pruning import PruneResult, channels, prune, shortcuts, thin
    from prune.reconstruct import Reconstruction, reconstruct, reconstruct_if_better
    from prune.reestimate import reestimate
    from prune.report import PruneReport
    from prune.search import MaxDrop, max_drop
    from prune.sparsity import Sparsity, gamma_metrics, idle_channels, settle_ema
    from prune.tracing import trace

__all__ = [
    "AutoSparsity",
    "BUDGETS",
    "Block",
    "CRITERIA",
    "ChannelGraph",
    "CutPlan",
    "MaxDrop",
    "PruneReport",
    "PruneResult",
    "Reconstruction",
    "STRATEGIES",
    "Sparsity",
    "border_error",
    "channels",
    "find_blocks",
    "gamma_metrics",
    "idle_channels",
    "max_drop",
    "prune",
    "reconstruct",
    "reconstruct_if_better",
    "reestimate",
    "settle_ema",
    "shortcuts",
    "thin",
    "trace",
]

lazily(__name__)
