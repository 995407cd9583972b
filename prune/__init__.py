"""Pruning: channel identities, selection, surgery, folding, shortcut blocks, sparsity training.

No architecture is named here: what may go is read off the traced graph.
"""

from prune.blocks import Block, find_blocks
from prune.identities import ChannelGraph
from prune.pruning import ChannelOptions, PruneResult, channels, prune, shortcuts
from prune.report import PruneReport
from prune.sparsity import Sparsity, gamma_metrics, settle_ema
from prune.tracing import trace

__all__ = [
    "Block", "ChannelGraph", "ChannelOptions", "PruneReport", "PruneResult", "Sparsity", "channels", "find_blocks",
    "gamma_metrics", "prune", "settle_ema", "shortcuts", "trace",
]  # fmt: skip
