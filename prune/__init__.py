"""Pruning: channel identities, selection, surgery, folding, shortcut blocks, sparsity training.

No architecture is named here: what may go is read off the traced graph.
"""

from prune.auto import AutoSparsity
from prune.blocks import Block, find_blocks
from prune.border import border_error
from prune.identities import ChannelGraph
from prune.importance import CRITERIA, taylor
from prune.pruning import ChannelOptions, PruneResult, channels, prune, shortcuts, thin
from prune.reconstruct import Reconstruction, reconstruct, reconstruct_if_better
from prune.reestimate import reestimate
from prune.report import PruneReport
from prune.search import MaxDrop, max_drop
from prune.select import STRATEGIES
from prune.sparsity import Sparsity, gamma_metrics, settle_ema
from prune.tracing import trace

__all__ = [
    "AutoSparsity",
    "Block",
    "CRITERIA",
    "ChannelGraph",
    "ChannelOptions",
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
    "max_drop",
    "prune",
    "reconstruct",
    "reconstruct_if_better",
    "reestimate",
    "settle_ema",
    "shortcuts",
    "taylor",
    "thin",
    "trace",
]
