"""After a cut every layer is solved for what the uncut network said: layer by layer, by least squares, without labels.

A cut through live channels takes from every later convolution a part of its input. What remains still predicts most of
what is missing, with other weights. In the order of the calls each convolution of the thin network is given the weights
that, on the thin network's own features (those before it are solved already), come nearest to its ancestor's outputs in
the kept channels, after BatchNorm and the activation. Nothing is trained; a few hundred pictures are enough.
Source: He, Zhang, Sun: *Channel Pruning for Accelerating Very Deep Neural Networks* (ICCV 2017), the asymmetric case;
Luo, Wu, Lin: *ThiNet* (ICCV 2017). Ours are the places' weights: most of a picture is background, of which the sum of
squares otherwise tells, and a detector's use is in the rest.
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
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from common.errors import UserError
from data.batch import Batch
from models.keys import ConvKey, conv_key, module_name
from models.lineage import kept_channels, known_as
from models.network import Network
from prune.identities import ChannelGraph, Conv
from prune.least_squares import Activation, Equations, Solution, missed
from prune.lockstep import Lockstep
from prune.reestimate import restate
from prune.tracing import trace

PICTURES = 200
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
            and the solved one, miss (1 - R^2), each on its own features; after the activation if one follows.
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
        scores: (before, after), where `reconstruct_if_better` asked for them; the same twice where nothing was solved.
        kept: False where it took the solution back.
    """

    layers: dict[ConvKey, Solved] = field(default_factory=dict)
    left: dict[ConvKey, str] = field(default_factory=dict)
    skipped: str = ""
    pictures: int = 0
    error: tuple[float, float] = (0.0, 0.0)
    scores: tuple[float, float] | None = None
    kept: bool = True

    @property
    def score(self) -> float:
        """Of the network as it was left, where `reconstruct_if_better` asked for it."""
        assert self.scores is not None
        return self.scores[self.kept]

    def lines(self) -> list[str]:
        """What is to be said of it: one line, and one of the layers that still miss the most."""
        if self.skipped:
            return [f"nothing to solve: {self.skipped}"]
        told = f"solved on {self.pictures} pictures: the heads miss {self.error[0]:.1%} -> {self.error[1]:.1%} of the "
        told += "uncut network's answers"
        if self.scores is not None:
            told += f"; val mAP50-95 {self.scores[0]:.4f} -> {self.scores[1]:.4f}"
        worst = sorted(self.layers.items(), key=lambda item: -item[1].after)[:3]
        places = ", ".join(f"{module_name(key)} {row.before:.1%} -> {row.after:.1%}" for key, row in worst)
        return [told if self.kept else f"{told}: no gain, so taken back", f"missed most: {places}"]


@torch.no_grad()
def reconstruct(
    thin: Network,
    ancestor: Network,
    images: Images,
    *,
    ridge: float = 1.0,
    focus: float = 0.5,
    steps: int = 4,
    cells: int = 40_000,
    chunk: int | None = None,
    memory: float = 2**30,
) -> Reconstruction:
    """Solve every convolution of `thin` that its lineage names in `ancestor`, in place.

    Nothing is changed where every gamma that was removed is exactly 0: then the two already agree up to borders.

    Args:
        thin, ancestor: on one device and in one number format; both are afterwards in the mode they were in.
        images: ``(B, 3, H, W)`` pictures in 0..1, or batches of them, or a loader's `Batch`es: without augmentation;
            labels are not looked at. Those after the 200th are not read.
        ridge: pull towards the weights as cut, times the variance of a convolution's inputs times its weights per place
            it is solved on: where these are few (deep layers), too little learns the pictures by heart.
        focus: share of the sum of squares that goes by where the ancestor sees objects; the rest counts every place
            the same.
        steps: for what counts after the activation, from the solution for what counts before it.
        cells: a layer is solved on at most so many places (about), the same in every picture.
        chunk: pictures that go through the networks at a time; None: as many as have a million pixels.
        memory: bytes that may be held of features, and again of a layer's places; where that is too few, the networks
            run more often, and a layer is solved on fewer places.

    Raises:
        UserError: `ancestor` is none of `thin`, or there is no picture.
    """
    origins = _origins(thin, known_as(thin.lineage, ancestor))
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
        weights = _weights(ancestor, chunks, focus)
        for layer in _layers(nets, graphs, origins, run, report):
            places = min(cells, layer.rows_within(memory)) // report.pictures
            report.layers[layer.key] = layer.solve(run, weights, max(places, 1), ridge, steps)
        restate(thin, chunks)
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
    base = score(thin)
    before = {name: tensor.clone() for name, tensor in thin.state_dict().items()}
    report = reconstruct(thin, ancestor, images, **options)
    if report.skipped:
        report.scores = base, base
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
    gone = graph.gone({module_name(origin): kept for origin, kept in origins.values()})
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


def _weights(ancestor: Network, chunks: list[Tensor], focus: float) -> list[Tensor]:
    """Per chunk ``(B, 1, h, w)``: how much a place counts; h, w those of the finest head."""
    seen = []
    for images in chunks:
        maps = [spec.certainty(head).amax(1, keepdim=True) for spec, head in zip(ancestor.specs, ancestor(images))]
        finest = max((found.shape[2:] for found in maps), key=lambda size: size[0])
        seen.append(torch.cat([F.interpolate(found, finest) for found in maps], 1).amax(1, keepdim=True))
    mean = sum(float(found.sum()) for found in seen) / sum(found.numel() for found in seen)
    return [1 - focus + focus * found / max(mean, 1e-12) for found in seen]


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
        norm = modules[0][conv.norm] if conv.norm else None
        if any(each not in stretch.call for each, stretch in zip(names, run.stretches)):
            report.left[key] = "called more than once"
        elif (conv.norm is None) != (source.norm is None):
            report.left[key] = "its BatchNorm is not its ancestor's"
        elif isinstance(norm, _BatchNorm) and not (norm.affine and norm.track_running_stats):
            report.left[key] = "its BatchNorm has no gammas or statistics of its own"
        else:
            units = [
                Unit(known[each], known[norm] if norm else None)
                for known, each, norm in zip(modules, names, (conv.norm, conv.norm, source.norm))
            ]
            calls = [each.call[it] for each, it in zip(run.stretches, names)]
            yield _Layer(key, origin, kept, calls, _activation(graphs[0], conv, modules[0]), *units)


def _activation(graph: ChannelGraph, conv: Conv, modules: Mapping[str, nn.Module]) -> Activation | None:
    """The elementwise function that alone reads a convolution's output, or that of its BatchNorm."""
    norm = modules[conv.norm] if conv.norm else None
    inside = getattr(norm, "act", None)  # timm's BatchNorm with its activation inside
    if isinstance(inside, nn.Module):
        return None if isinstance(inside, nn.Identity) else inside
    here = [number for number, step in enumerate(graph.steps) if step.module == (conv.norm or conv.name)]
    readers = [step for step in graph.steps if here[0] in step.reads]
    if len(readers) != 1 or readers[0].op != "pointwise" or isinstance(readers[0].apply, (nn.Identity, _DropoutNd)):
        return None
    return readers[0].apply


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
        """Make it put out, in eval mode, what the solution says; BatchNorm's statistics stay.

        Where there is a BatchNorm, every filter keeps its norm (what a learning rate means to the fine-tune depends on
        it) and every gamma its sign.
        """
        conv, norm, weight = self.conv, self.norm, solution.weight
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
        conv.weight.copy_(torch.where(heard[:, None, None, None], weight * factor[:, None, None, None], conv.weight))
        mean = norm.running_mean.double() - (0 if conv.bias is None else conv.bias.double())
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt() / factor * heard)
        norm.bias.copy_(solution.bias + mean / factor * heard)


@dataclass(frozen=True)
class _Layer:
    """A convolution of the thin network, the same one of the network as cut, and its ancestor's."""

    key: ConvKey
    origin: ConvKey
    kept: list[int]
    calls: list[fx.Node]
    activation: Activation | None
    thin: Unit
    as_cut: Unit
    ancestor: Unit

    def rows_within(self, memory: float) -> int:
        """How many places have room in so many bytes."""
        weight = self.thin.conv.weight
        a_place = weight.numel() // weight.shape[0] * self.thin.conv.groups + len(weight)
        return int(memory / (a_place * weight.element_size()))

    def solve(self, run: Lockstep, weights: Iterable[Tensor], cells: int, ridge: float, steps: int) -> Solved:
        """Solve it on what the networks hold there.

        Args:
            weights: per chunk ``(B, 1, h, w)``.
            cells: places in a picture.
        """
        conv, (own, same, told) = self.thin.conv, self.calls
        centred = self.thin.norm is not None or conv.bias is not None
        equations = Equations(conv, centred, self.activation)
        kept = torch.tensor(self.kept, device=conv.weight.device)
        as_cut = []
        for (mine, cut, theirs), weight in zip(run.until(self.calls), weights, strict=True):
            size = theirs[told].shape[2:]
            places = _places(size, cells, conv.weight.device)
            wanted = self.ancestor.after_norm(theirs[told].flatten(2)[..., places], kept)
            counts = _resized(weight, size).flatten(1)[:, places]
            equations.add(mine[own.all_input_nodes[0]], wanted, places, size, counts)
            found = self.as_cut.after_norm(cut[same].flatten(2)[..., places])
            as_cut.append(found.transpose(0, 1).flatten(1).to(conv.weight.dtype))
        before = missed(
            (equations.act(found), equations.act(rows.y.flatten(0, 1)), rows.weight)
            for found, rows in zip(as_cut, equations.rows)
        )
        scale, _ = self.thin.factors()
        solution = equations.solve(conv.weight.double() * scale[:, None, None, None], ridge, steps)
        self.thin.set(solution)
        return Solved(self.origin, before, solution.missed)


def _resized(weight: Tensor, size: torch.Size) -> Tensor:
    """``(B, 1, h, w)`` in another size: the largest of those that share a place."""
    return F.adaptive_max_pool2d(weight, size) if size[0] < weight.shape[2] else F.interpolate(weight, tuple(size))


def _places(size: torch.Size, cells: int, device: torch.device) -> Tensor:
    """The places of a map, as ``row * w + column``, that a layer is solved on: drawn once for all pictures."""
    every = size[0] * size[1]
    if cells >= every:
        return torch.arange(every, device=device)
    return torch.randperm(every, generator=torch.Generator().manual_seed(0))[:cells].sort().values.to(device)
