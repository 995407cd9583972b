"""Criteria: how much a channel matters. A criterion gives every norm one score per channel; low scores go first."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from prune.identities import ChannelGraph
from prune.select import Scores


def gamma(net: nn.Module, graph: ChannelGraph) -> Scores:
    """|gamma| of the BatchNorm (Network Slimming, ICCV 2017). Comparable across layers as it is."""
    modules = dict(net.named_modules())
    found = {}
    for name in graph.norms:
        weight = modules[name].weight
        if isinstance(weight, Tensor):
            found[name] = np.abs(weight.detach().double().cpu().numpy())
    return found


CRITERIA = {"gamma": gamma}
