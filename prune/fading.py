"""Shortcut blocks that are to be cut are brought to exactly nothing while the network trains.

A block ``y = x + f(x)`` whose branch ends in ``act(gamma * n + beta)`` adds nothing once its gammas *and* betas are 0,
for activations with ``act(0) = 0``: then it can be taken out without changing any answer. Which blocks go is told
by the squared first-order change of the loss when the branch goes silent, a running mean over optimiser steps, as
for channels (Molchanov et al., CVPR 2019, equation 8, on the affine terms of the branch's last BatchNorm)::

    I_B  <-  (1 - a) I_B + a (sum_c gamma_c dL/dgamma_c + beta_c dL/dbeta_c)^2

The called ones shrink on a straight line to their deadline, ``v <- v * (1 - 1 / n)``, n being the steps that are left.
The gammas inside a branch that is silent are set to 0 with it: nothing reads what they scale.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.network import Network
from prune.blocks import Block, find_blocks
from prune.identities import ChannelGraph
from prune.surgery import modules_in


class FadingBlocks:
    """See the module.

    Args:
        net: the network that will be trained.
        graph: its identities.
        remove: how many blocks are to go.
        protected: layers that have to stay, and with them the blocks they belong to.

    Attributes:
        blocks: those that can fade; where fewer can than are to go, the rest is cut as it is.
        remove: how many of them are to fade.
        called: ``(B,)`` bool.
    """

    def __init__(self, net: Network, graph: ChannelGraph, remove: int, protected: Collection[int] = ()):
        self.graph = graph
        every = [block for block in find_blocks(net) if not block.obstacle and _silent_at_zero(net, block)]
        self.blocks = [block for block in every if set(protected).isdisjoint(block.branch)] if remove else []
        self.remove = min(remove, len(self.blocks))
        self.importance = torch.zeros(len(self.blocks))
        self.deadline = torch.full((len(self.blocks),), math.inf)  # progress by which a block is silent
        self.begin(net)

    def begin(self, network: Network) -> None:
        """What is trained from now on."""
        self._norms = [_norm(network, block) for block in self.blocks]
        self._inside = [_norms(network, block) for block in self.blocks]

    @property
    def called(self) -> Tensor:
        return self.deadline < math.inf

    @torch.no_grad()
    def note(self, share: float) -> None:
        """Before an optimiser step: how much the loss minds each block; `share` is that of the running mean."""
        changes = []
        for norm in self._norms:
            parts = [(each * each.grad).sum() for each in (norm.weight, norm.bias) if each.grad is not None]
            changes.append(torch.stack(parts).sum() if parts else norm.weight.new_zeros(()))
        if changes:
            self.importance.lerp_(torch.stack(changes).float().cpu().square(), share)

    def wanted(self, share: float) -> np.ndarray:
        """``(B,)`` bool: the blocks that make up this share of those to go; what is called comes first."""
        count = min(self.remove, math.floor(self.remove * share + 0.5))
        order = np.lexsort((self.importance.numpy(), ~self.called.numpy()))
        chosen = np.zeros(len(self.blocks), bool)
        chosen[order[: max(count, int(self.called.sum()))]] = True
        return chosen

    def call(self, chosen: np.ndarray, deadline: float) -> None:
        """Those of the ``(B,)`` bool that are not called yet have until `deadline`, a progress."""
        self.deadline[torch.from_numpy(chosen) & ~self.called] = deadline

    @torch.no_grad()
    def fade(self, progress: float, pace: float) -> None:
        """After an optimiser step: shrink what is called; `pace` is the progress of a step."""
        for norm, inside, deadline in zip(self._norms, self._inside, self.deadline.tolist()):
            if deadline < math.inf and norm.weight.requires_grad:
                left = max(1, round((deadline - progress) / pace))
                norm.weight.mul_(1 - 1 / left)
                norm.bias.mul_(1 - 1 / left)
                if left == 1:
                    for each in inside:
                        each.weight.zero_()

    @property
    def silent(self) -> Tensor:
        """``(B,)`` bool: which blocks add exactly nothing."""
        found = [not (norm.weight.any() or norm.bias.any()) for norm in self._norms]
        return torch.tensor(found, dtype=torch.bool)

    def release(self) -> None:
        """Let go what is called and not silent yet."""
        self.deadline = torch.where(self.silent, self.deadline, math.inf)

    @property
    def complete(self) -> bool:
        """All that are to fade are silent."""
        return int(self.silent.sum()) >= self.remove

    def modules_gone(self, chosen: np.ndarray) -> set[str]:
        """The convolutions and BatchNorms that go with the ``(B,)`` bool blocks."""
        layers = {layer for block, gone in zip(self.blocks, chosen) if gone for layer in block.branch}
        return modules_in(self.graph, layers)

    def lowest(self) -> np.ndarray:
        """``(B,)`` bool: those that would go by their gammas, before anything is known of the loss."""
        order = np.argsort([block.score or 0.0 for block in self.blocks], kind="stable")
        chosen = np.zeros(len(self.blocks), bool)
        chosen[order[: self.remove]] = True
        return chosen

    def state_dict(self) -> dict[str, Any]:
        return {"importance": self.importance.clone(), "deadline": self.deadline.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.importance, self.deadline = state["importance"].clone(), state["deadline"].clone()


def _norm(net: Network, block: Block) -> nn.BatchNorm2d:
    assert block.norm is not None
    norm = net.convolutions[block.norm].bn
    assert norm is not None
    return norm


def _norms(net: Network, block: Block) -> list[nn.BatchNorm2d]:
    """All of the branch."""
    modules = [module for layer in block.branch for module in net.layers[layer].modules()]
    return [module for module in modules if isinstance(module, nn.BatchNorm2d) and module.affine]


def _silent_at_zero(net: Network, block: Block) -> bool:
    """Does the branch add nothing where its last gammas and betas are 0, and would nobody else miss it?"""
    if block.norm not in block.branch:
        return False
    with torch.no_grad():
        return not net.convolutions[block.norm].act(torch.zeros(1)).any()
