"""Focal and global distillation (Yang, Li, Jiang, Gong, Yuan, Zhao, Yuan: Focal and Global Knowledge Distillation for
Detectors, CVPR 2022: "focal distillation" and "global distillation")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from distill.adapters import FitConv, where_needed
from distill.losses.maps import ground_truth, paired, variance
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


class Context(nn.Module):
    """R of the global part (the block of GcNet): adds to every cell a vector made from a weighted mean of all cells.

    The last convolution starts at 0, so that the block starts as the identity.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = max(1, channels // 2)
        self.key = FitConv(channels, 1, 1)
        self.squeeze = FitConv(channels, inner, 1)
        self.gain, self.shift = nn.Parameter(torch.ones(inner)), nn.Parameter(torch.zeros(inner))
        self.expand = FitConv(inner, channels, 1)
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        share = self.key(features).flatten(2).softmax(dim=2)  # (B, 1, H * W)
        mean = (features.flatten(2) * share).sum(dim=2)[:, :, None, None]
        inner = self.squeeze(mean)
        gain, shift = (each.to(inner.dtype)[:, None, None] for each in (self.gain, self.shift))
        added: Tensor = self.expand(functional.layer_norm(inner, inner.shape[1:], gain, shift).relu())
        return features + added


class FocalGlobal(nn.Module):
    """What one pair of maps trains.

    Attributes:
        align: the student's channels to the teacher's (1x1 convolution, where they differ).
        student, teacher: the context blocks of the global part.
    """

    def __init__(self, pair: FeaturePair):
        super().__init__()
        self.align = where_needed(pair)
        self.student, self.teacher = Context(pair.teacher_channels), Context(pair.teacher_channels)


def focal_global(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """A `FocalGlobal` per pair."""
    return nn.ModuleList(FocalGlobal(pair) for pair in pairs)


def fgd(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    pairs: Sequence[FeaturePair],
    adapter: nn.Module,
    temperature: float = 0.5,
    background: float = 0.5,
) -> dict[str, Tensor]:
    """Differences of features, weighted by objects and the teacher's attention; of attention; and of global relations.

    The attention of a map F over cells is ``A_S = H W softmax(mean_c |F| / T)``, over channels
    ``A_C = C softmax(mean_hw |F| / T)``: both have mean 1.

    - ``fgd_focal``: the mean of ``A_S A_C (f(F_s) - F_t)^2``, with the teacher's attention, over the variance of F_t:
      once over the cells of objects, where each box counts alike whatever its size (a cell in several belongs to the
      smallest), and `background` times over all other cells, where each picture counts alike;
      Of pictures without labels, where nobody knows which cells these are, only the other two terms speak;
    - ``fgd_attention``: the mean absolute difference of A_S plus that of A_C;
    - ``fgd_global``: the mean of ``(R(f(F_s)) - R(F_t))^2`` over the variance of F_t, R being `Context`.

    All are means over pairs. The paper sums instead, and weighs focal on objects and on the background, attention and
    global 2 : 1 : 1 : 0.01 (alpha, beta, gamma, lambda); with 256 channels and ten thousand cells that is one order.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        adapter: `focal_global`.
        temperature: T of the attention.
        background: what a mean over the background counts against one over objects (beta / alpha).

    Returns:
        Scalars ``fgd_focal``, ``fgd_attention``, ``fgd_global``, without unit.
    """
    if temperature <= 0:
        raise UserError(f"the temperature {temperature} of fgd is not above 0", todo="--kd-fgd-temperature 0.5")
    focal, attention, relations = [], [], []
    for pair, (ours, theirs), module in zip(pairs, paired(student, teacher, pairs), adapter.children()):
        assert isinstance(module, FocalGlobal)
        ours, scale = module.align(ours), variance(theirs)
        cells, channels = _attention(theirs, temperature)
        error = cells * (channels[:, :, None, None] * (ours - theirs).square()).mean(dim=1) / scale  # (B, H, W)
        error = error[: matches.pictures]
        shape = (len(error), *ours.shape[1:])
        objects, rest = (weight.to(error.dtype) for weight in object_weights(matches, pair.stride, shape))
        sums = [(weight * error).sum() / matches.normaliser(weight.sum()) for weight in (objects, rest)]
        focal.append(sums[0] + background * sums[1])
        mine = _attention(ours, temperature)
        attention.append((mine[0] - cells).abs().mean() + (mine[1] - channels).abs().mean())
        relations.append((module.student(ours) - module.teacher(theirs)).square().mean() / scale)
    return {
        "fgd_focal": torch.stack(focal).mean(),
        "fgd_attention": torch.stack(attention).mean(),
        "fgd_global": torch.stack(relations).mean(),
    }


def _attention(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """``(B, C, H, W)`` to the attention over cells ``(B, H, W)`` and over channels ``(B, C)``."""
    loud = features.abs()
    cells, channels = loud.mean(dim=1), loud.mean(dim=(2, 3))
    over_cells = cells.flatten(1).div(temperature).softmax(dim=1).view_as(cells) * cells[0].numel()
    return over_cells, channels.div(temperature).softmax(dim=1) * channels.shape[1]


def object_weights(matches: Matches, stride: float, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The binary and the scale mask in one: weights ``(B, H, W)`` of cells on objects, and of the others; 0 elsewhere.

    A cell that a box touches weighs 1 / (number of cells that box touches), for the smallest such box; one that none
    touches 1 / (number of such cells in its picture).
    """
    pictures, _, rows, cols = shape
    image, box = ground_truth(matches)

    def touched(axis: int, cells: int) -> Tensor:
        """Boolean ``(T, cells)``."""
        low, high = ((box[:, axis] + side * box[:, 2 + axis] / 2) / stride for side in (-1, 1))
        first, place = low.floor().clamp(0, cells - 1), torch.arange(cells, device=box.device)
        return (place >= first[:, None]) & ((place < high.ceil()[:, None]) | (place == first[:, None]))

    inside = (touched(1, rows)[:, :, None] & touched(0, cols)[:, None]).float()  # (T, H, W)
    share = inside / inside.sum(dim=(1, 2), keepdim=True)
    found = torch.zeros(pictures, rows * cols, device=box.device)
    share = share.flatten(1)
    objects = found.scatter_reduce(0, image[:, None].expand_as(share), share, "amax").view(pictures, rows, cols)
    empty = (objects == 0).float()
    return objects, empty / empty.sum(dim=(1, 2), keepdim=True).clamp(min=1)
