"""After a cut every layer is solved for what the uncut network said: layer by layer, by least squares, without labels.

A cut through live channels takes from every later convolution a part of its input. What remains still predicts most of
what is missing, with other weights. In the order of the calls each convolution of the thin network is given the weights
that, on the thin network's own features (those before it are solved already), come nearest to its ancestor's outputs in
the kept channels, after BatchNorm and before the activation. No gradient flows; a few hundred pictures are enough.
Source: He, Zhang, Sun: *Channel Pruning for Accelerating Very Deep Neural Networks* (ICCV 2017), the asymmetric case;
Luo, Wu, Lin: *ThiNet* (ICCV 2017).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from data.batch import Batch
from models.lineage import conv_key, kept_channels, module_name
from models.network import ConvKey, Network
from models.summary import fingerprint
from prune.identities import ChannelGraph
from prune.least_squares import Equations, Solution, share
from prune.lockstep import Lockstep
from prune.tracing import trace

PICTURES = 200
CELLS = 40_000
RIDGE = 1e-3
TIE = 0.002  # of val mAP50-95: less says nothing
PIXELS = 2**20

Images = Tensor | Iterable[Tensor | Batch]
# Convolution of the thin network -> (the ancestor's, its channels that were kept).
Origins = Mapping[ConvKey, tuple[ConvKey, list[int]]]


@dataclass(frozen=True)
class Solved:
    """A convolution of the thin network.

    Attributes:
        origin: the ancestor's convolution.
        before, after: share of the variance of the ancestor's outputs in the kept channels that the network as cut,
            and the solved one, miss (1 - R^2), each on its own features.
    """

    origin: ConvKey
    before: float
    after: float


@dataclass
class Reconstruction:
    """What `reconstruct` did.

    Attributes:
        layers: convolution -> what solving it changed, in the order of the calls.
        left: convolution -> why it was left as it was.
        skipped: why the whole network was; empty if it was not.
        pictures: how many were used.
        error: the shares missed, (before, after), on average over the convolutions that feed the heads.
        scores: (before, after), where `reconstruct_if_better` asked for them.
        kept: False where it took the solution back.
    """

    layers: dict[ConvKey, Solved] = field(default_factory=dict)
    left: dict[ConvKey, str] = field(default_factory=dict)
    skipped: str = ""
    pictures: int = 0
    error: tuple[float, float] = (0.0, 0.0)
    scores: tuple[float, float] | None = None
    kept: bool = True


@torch.no_grad()
def reconstruct(
    thin: Network,
    ancestor: Network,
    images: Images,
    *,
    ridge: float = RIDGE,
    cells: int = CELLS,
    chunk: int | None = None,
    memory: float = 2**30,
) -> Reconstruction:
    """Solve every convolution of `thin` that its lineage names in `ancestor`, in place.

    Nothing is changed where every gamma that was removed is exactly 0: then the two already agree up to borders.

    Args:
        thin, ancestor: on one device and in one number format; both are afterwards in the mode they were in.
        images: ``(B, 3, H, W)`` pictures in 0..1, or batches of them, or a loader's `Batch`es: without augmentation;
            labels are not looked at. Those after the 200th are not read.
        ridge: pull towards the weights as cut, as a share of the variance of a convolution's inputs.
        cells: a layer is solved on about so many places, the same in every picture.
        chunk: pictures that go through the networks at a time; None: as many as have a million pixels.
        memory: bytes of features that may be held; where that is too few, the networks run more often.

    Raises:
        UserError: `ancestor` is none of `thin`, or there is no picture.
    """
    origins = _origins(thin, fingerprint(ancestor))
    graphs = trace(thin), trace(ancestor)
    report = Reconstruction()
    if _removed_only_zeros(ancestor, graphs[1], origins):
        report.skipped = "every gamma that was removed is 0"
        return report
    chunks = _chunks(images, chunk, next(thin.parameters()))
    report.pictures = sum(len(part) for part in chunks)
    nets = (thin, copy.deepcopy(thin), ancestor)
    modes = [(module, module.training) for net in nets for module in net.modules()]
    try:
        run = Lockstep([net.eval() for net in nets], chunks, memory)
        for layer in _layers(nets, graphs, origins, run, report):
            report.layers[layer.key] = layer.solve(run, ridge, -(-cells // report.pictures))
    finally:
        for module, mode in modes:
            module.training = mode
    heads = [report.layers[key] for key in thin.head_convolutions if key in report.layers]
    if heads:
        report.error = fmean(head.before for head in heads), fmean(head.after for head in heads)
    return report


def reconstruct_if_better(
    thin: Network, ancestor: Network, images: Images, score: Callable[[Network], float], **options: Any
) -> Reconstruction:
    """`reconstruct`, taken back where it does not help.

    It stays where `score` rises; on a tie (up to .002) where the heads miss less of the ancestor's outputs.

    Args:
        score: of a network, the higher the better, on pictures that are not the test's: val mAP50-95.
        options: as in `reconstruct`.
    """
    before = {name: tensor.clone() for name, tensor in thin.state_dict().items()}
    base = score(thin)
    report = reconstruct(thin, ancestor, images, **options)
    if report.skipped:
        return report
    report.scores = base, score(thin)
    gain = report.scores[1] - base
    report.kept = gain > TIE or (gain >= -TIE and report.error[1] < report.error[0])
    if not report.kept:
        thin.load_state_dict(before)
    return report


# -- what there is to solve ----------------------------------------------------------------------------------------


def _origins(thin: Network, ancestor: str) -> Origins:
    """Without the convolutions that the ancestor did not have."""
    found = {}
    for key in thin.conv_modules:
        with contextlib.suppress(KeyError):
            found[key] = kept_channels(thin.lineage, ancestor, key)
    return found


def _removed_only_zeros(ancestor: Network, graph: ChannelGraph, origins: Origins) -> bool:
    """Was no channel removed but those that a gamma of exactly 0 had switched off?"""
    kept = dict(origins.values())
    gone = np.zeros(len(graph.root), bool)
    for name, conv in graph.convs.items():
        mask = np.ones(len(conv.makes), bool)
        mask[kept.get(conv_key(name), [])] = False
        gone[conv.makes[mask]] = True
    scaled = np.zeros_like(gone)
    modules = dict(ancestor.named_modules())
    for name, ids in graph.norms.items():
        gammas = modules[name].weight
        if not isinstance(gammas, Tensor) or gammas.detach().cpu()[torch.from_numpy(gone[ids])].any():
            return False
        scaled[ids] = True
    return not (gone & ~scaled).any()


def _chunks(images: Images, size: int | None, like: Tensor) -> list[Tensor]:
    """The first 200 pictures, a few at a time."""
    chunks: list[Tensor] = []
    left = PICTURES
    for batch in [images] if isinstance(images, Tensor) else images:
        pictures = batch.prepared(like.device).images if isinstance(batch, Batch) else batch
        pictures = pictures[:left].to(like.device, like.dtype)
        chunks += pictures.split(size or max(1, PIXELS // (pictures.shape[2] * pictures.shape[3])))
        left -= len(pictures)
        if left <= 0:
            break
    if left == PICTURES:
        raise UserError("there is not one picture to solve the thin network on", todo="give at least one batch")
    return chunks


def _layers(
    nets: tuple[Network, ...],
    graphs: tuple[ChannelGraph, ChannelGraph],
    origins: Origins,
    run: Lockstep,
    report: Reconstruction,
) -> Iterator[_Layer]:
    """What can be solved, in the order of the calls; the others are noted in the report."""
    modules = [dict(net.named_modules()) for net in nets]
    for name, conv in graphs[0].convs.items():
        key = conv_key(name)
        if key not in origins:
            report.left[key] = "the ancestor has no such convolution"
            continue
        origin, kept = origins[key]
        source = graphs[1].convs[module_name(origin)]
        names = name, name, source.name
        if any(each not in stretch.call for each, stretch in zip(names, run.stretches)):
            report.left[key] = "called more than once"
        elif (conv.norm is None) != (source.norm is None):
            report.left[key] = "its BatchNorm is not its ancestor's"
        elif conv.norm is not None and not (modules[0][conv.norm].affine and modules[0][conv.norm].track_running_stats):
            report.left[key] = "its BatchNorm has no gammas or statistics of its own"
        else:
            norms = conv.norm, conv.norm, source.norm
            units = [
                Unit(known[each], known[norm] if norm else None) for known, each, norm in zip(modules, names, norms)
            ]
            yield _Layer(key, origin, kept, [each.call[it] for each, it in zip(run.stretches, names)], *units)


# -- one layer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """A convolution and the BatchNorm that alone reads it, if there is one."""

    conv: nn.Conv2d
    norm: _BatchNorm | None

    def factors(self) -> tuple[Tensor, Tensor]:
        """``(C_out,)`` float64 each: what, in eval mode, BatchNorm multiplies the convolution's output by and adds."""
        if self.norm is None:
            one = torch.ones(self.conv.out_channels, dtype=torch.float64, device=self.conv.weight.device)
            return one, torch.zeros_like(one)
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        scale = self.norm.weight.double() / (var.double() + self.norm.eps).sqrt()
        return scale, self.norm.bias.double() - mean.double() * scale

    def after_norm(self, output: Tensor, channels: Tensor | slice = slice(None)) -> Tensor:
        """What BatchNorm makes of these channels of the convolution's output ``(B, C_out, cells)``; float64."""
        scale, shift = (each[channels, None] for each in self.factors())
        return output[:, channels].double() * scale + shift

    def set(self, solution: Solution) -> None:
        """Make it put out, in eval mode, what the solution says.

        Where there is a BatchNorm, every filter keeps its norm (what a learning rate means to the fine-tune depends on
        it) and every gamma its sign; the statistics are those of the solved outputs.
        """
        conv, norm = self.conv, self.norm
        weight, var = solution.weight, solution.var
        if norm is None:
            conv.weight.copy_(weight)
            if conv.bias is not None:
                conv.bias.copy_(solution.bias)
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        old, new = (each.double().flatten(1).norm(dim=1) for each in (conv.weight, weight))
        heard = new > 0  # else a constant: the filter stays, and its gamma becomes 0
        factor = torch.where(heard & (old > 0), old / new, 1.0) * torch.where(norm.weight < 0, -1.0, 1.0)
        bias = 0 if conv.bias is None else conv.bias.double()
        conv.weight.copy_(torch.where(heard[:, None, None, None], weight * factor[:, None, None, None], conv.weight))
        norm.running_mean.copy_(torch.where(heard, solution.mean * factor + bias, norm.running_mean))
        norm.running_var.copy_(torch.where(heard, var * factor.square(), norm.running_var))
        norm.weight.copy_((var + norm.eps / factor.square()).sqrt() * factor.sign() * heard)
        norm.bias.copy_(solution.bias + solution.mean)


@dataclass(frozen=True)
class _Layer:
    """A convolution of the thin network, the same one of the network as cut, and its ancestor's."""

    key: ConvKey
    origin: ConvKey
    kept: list[int]
    calls: list[fx.Node]
    thin: Unit
    as_cut: Unit
    ancestor: Unit

    def solve(self, run: Lockstep, ridge: float, cells: int) -> Solved:
        """Solve it on what the networks hold there.

        Args:
            cells: places in a picture.
        """
        conv, (own, same, told) = self.thin.conv, self.calls
        equations = Equations(conv, intercept=self.thin.norm is not None or conv.bias is not None)
        kept = torch.tensor(self.kept, device=conv.weight.device)
        missed = 0.0
        for thin, as_cut, ancestor in run.until(self.calls):
            size = ancestor[told].shape[2:]
            places = _places(size, cells, conv.weight.device)
            wanted = self.ancestor.after_norm(ancestor[told].flatten(2)[..., places], kept)
            found = self.as_cut.after_norm(as_cut[same].flatten(2)[..., places])
            missed += float((found - wanted).square().sum())
            equations.add(thin[own.all_input_nodes[0]], wanted, places, size)
        scale, _ = self.thin.factors()
        solution = equations.solve(conv.weight.double() * scale[:, None, None, None], ridge)
        self.thin.set(solution)
        return Solved(self.origin, share(missed, solution.spread), share(solution.missed, solution.spread))


def _places(size: torch.Size, cells: int, device: torch.device) -> Tensor:
    """The places of a map, as ``row * w + column``, that a layer is solved on: drawn once for all pictures."""
    every = size[0] * size[1]
    if cells >= every:
        return torch.arange(every, device=device)
    return torch.randperm(every, generator=torch.Generator().manual_seed(0))[:cells].sort().values.to(device)
