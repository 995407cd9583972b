"""Criteria: how much a channel matters. A criterion gives layers one score per channel; low scores go first.

A criterion scores either BatchNorms (by their gammas) or convolutions (by their filters); the result is keyed by the
name of the module whose channels it scores. A convolution without a BatchNorm has no gamma: by the gamma criteria its
channels stay, unless a tie or a gate makes them follow others; by all other criteria they may go like any.

The functions give what their formulas say. `score` divides it by its layer's mean unless the criterion's record
(`prune.criteria`) says that layers compare as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from prune.criteria import CRITERIA
from prune.identities import ChannelGraph
from prune.select import Scores

# The network -> losses, a scalar for each batch; a generator keeps the memory at that of one batch.
Losses = Callable[[nn.Module], Iterable[Tensor]]


def score(
    criterion: str, net: nn.Module, graph: ChannelGraph, *, losses: Losses | None = None, seed: int = 0
) -> Scores:
    """The scores of a criterion by its name, such that layers compare.

    Args:
        losses: gives the loss of each batch that is to be estimated on, for a criterion that needs it.
        seed: for a criterion that needs one.

    Raises:
        UserError: an unknown criterion, or one that needs losses, and there are none.
    """
    if criterion not in CRITERIA:
        raise UserError(f"criterion={criterion!r} is not known", todo=f"choose from {', '.join(CRITERIA)}")
    record = CRITERIA[criterion]
    if record.needs == "losses" and losses is None:
        raise UserError(
            f"criterion={criterion!r} needs gradients, and no losses are given",
            todo="pass losses=..., a function from the network to the loss of each of some batches; "
            f"or scores=..., as prune.importance.score({criterion!r}, ...) gives them",
        )
    needed = {name: value for name, value in (("losses", losses), ("seed", seed)) if name == record.needs}
    scores = record.load()(net, graph, **needed)
    return scores if record.comparable else _by_layer(scores)


@torch.no_grad()
def gamma(net: nn.Module, graph: ChannelGraph) -> Scores:
    """|gamma| of the BatchNorm (Network Slimming, ICCV 2017)."""
    return {name: _numbers(weight.abs()) for name, weight in _gammas(net, graph).items()}


@torch.no_grad()
def gamma_reader(net: nn.Module, graph: ChannelGraph) -> Scores:
    """|gamma| times the L2 norm of the weights that read the channel, over all its readers.

    A tied channel is read wherever any of its tied group is: a reader after an add counts for both inputs of the
    add. Depthwise convolutions only carry a channel; who reads their output counts.
    """
    modules = dict(net.named_modules())
    squares = np.zeros(len(graph.root))
    for name, conv in graph.convs.items():
        if conv.depthwise:
            continue
        weight = cast(Tensor, modules[name].weight)
        # Group g of the output reads slice g of the input: (g, C_out / g, C_in / g, k, k) -> (C_in,)
        read = weight.unflatten(0, (conv.groups, -1)).square().sum((1, 3, 4)).flatten()
        np.add.at(squares, graph.root[conv.reads], _numbers(read))
    norms = np.sqrt(squares)[graph.root]
    return {name: _numbers(weight.abs()) * norms[graph.norms[name]] for name, weight in _gammas(net, graph).items()}


@torch.no_grad()
def l1(net: nn.Module, graph: ChannelGraph) -> Scores:
    """Sum of |weights| of the filter (Pruning Filters for Efficient ConvNets, ICLR 2017)."""
    return {name: _numbers(rows.abs().sum(1)) for name, rows in _filters(net, graph).items()}


@torch.no_grad()
def l2(net: nn.Module, graph: ChannelGraph) -> Scores:
    """Euclidean norm of the filter."""
    return {name: _numbers(rows.norm(dim=1)) for name, rows in _filters(net, graph).items()}


@torch.no_grad()
def fpgm(net: nn.Module, graph: ChannelGraph) -> Scores:
    """Sum of the distances to all filters of the layer (FPGM, CVPR 2019, equation 6).

    Low near the geometric median: such a filter is one that the others can stand in for.
    """
    return {name: _numbers(torch.cdist(rows, rows).sum(1)) for name, rows in _filters(net, graph).items()}


def random(net: nn.Module, graph: ChannelGraph, seed: int = 0) -> Scores:
    """Uniform random numbers: what a criterion has to beat."""
    generator = np.random.default_rng(seed)
    return {name: generator.random(len(conv.makes)) for name, conv in graph.convs.items()}


def taylor(net: nn.Module, graph: ChannelGraph, losses: Losses) -> Scores:
    """First-order estimate of what the loss changes by when a channel is cut off (CVPR 2019, section 3.1).

    Importance Estimation for Neural Network Pruning puts a gate of value 1 on each channel: its derivative is
    ``gamma * dL/dgamma + beta * dL/dbeta`` behind a BatchNorm, and ``sum w * dL/dw + b * dL/db`` at a bare convolution.
    The score is the root of its mean square over the batches.

    Args:
        losses: from the network to the scalar loss of each batch. It runs the network itself, in whatever mode suits;
            parameters, their `.grad` and `requires_grad` are left as they were.

    Raises:
        UserError: no batch, or a loss that is not a finite scalar with gradients.
    """
    modules = dict(net.named_modules())
    names = [name for name, conv in graph.convs.items() if conv.norm is None]
    names += [name for name in graph.norms if isinstance(modules[name].weight, Tensor)]
    parts = {
        name: [value for value in (modules[name].weight, modules[name].bias) if isinstance(value, Tensor)]
        for name in names
    }
    parameters = [cast(nn.Parameter, value) for values in parts.values() for value in values]
    total = {name: np.zeros(len(parts[name][0])) for name in names}
    wanted = [parameter.requires_grad for parameter in parameters]
    count = 0
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            for loss in losses(net):
                _check_loss(loss)
                count += 1
                found = iter(torch.autograd.grad(loss, parameters, allow_unused=True))
                for name in names:
                    gate = sum(_gate(value, next(found)) for value in parts[name])
                    total[name] += np.square(gate)
    finally:
        for parameter, want in zip(parameters, wanted):
            parameter.requires_grad_(want)
    if not count:
        raise UserError("the Taylor criterion got no batch: losses(network) gave nothing")
    return {name: np.sqrt(value / count) for name, value in total.items()}


def _gate(value: Tensor, gradient: Tensor | None) -> np.ndarray:
    if gradient is None:  # the loss does not depend on it
        return np.zeros(len(value))
    return _numbers(
        (value.detach().double() * gradient.double()).flatten(1).sum(1)
        if value.dim() > 1
        else value.detach().double() * gradient.double()
    )


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UserError(
            f"the Taylor criterion needs a scalar loss with gradients for each batch, not {loss!r}",
            todo="let losses(network) yield loss tensors; leave out torch.no_grad() and .item()",
        )
    if not bool(torch.isfinite(loss)):
        raise UserError(f"the loss of a batch for the Taylor criterion is {float(loss.detach())}")


def _numbers(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().cpu().numpy()


def _gammas(net: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    modules = dict(net.named_modules())
    return {name: modules[name].weight for name in graph.norms if isinstance(modules[name].weight, Tensor)}


def _filters(net: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """Convolution -> ``(C_out, the weights of one filter)``."""
    modules = dict(net.named_modules())
    return {name: cast(Tensor, modules[name].weight).detach().flatten(1) for name in graph.convs}


def _by_layer(scores: Scores) -> Scores:
    """Each layer divided by its mean, so that layers compare; a layer of zeros stays as it is."""
    return {name: values / mean if (mean := float(values.mean())) > 0 else values for name, values in scores.items()}
