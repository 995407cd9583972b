"""A convolution's weights in closed form: those that come nearest to wanted outputs, from sums over many places.

With X (n rows) what lies under the kernel and Y what is wanted, both less their means:
``W = W0 + (X'X / n + r I)^-1 X'(Y - X W0) / n``, ridge regression that pulls towards the weights W0 there are.
Every group is solved for itself. All sums are float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Solution:
    """What the equations say about a convolution.

    Attributes:
        weight: ``(C_out, C_in / groups, k, k)`` float64.
        bias: ``(C_out,)`` float64.
        mean, var: ``(C_out,)`` of what ``weight`` alone puts out at the places summed over.
        missed, spread: sums of squares, over all channels, of what the solution misses of the wanted outputs, and of
            these less their means.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    missed: float
    spread: float


class Equations:
    """The normal equations of a convolution, summed up chunk by chunk.

    Args:
        conv: only its shape matters.
        intercept: is there a bias to solve for? Without one nothing is centred.
    """

    def __init__(self, conv: nn.Conv2d, intercept: bool):
        groups, taps, out = conv.groups, conv.weight[0].numel(), conv.out_channels // conv.groups
        zeros = conv.weight.new_zeros
        self.conv, self.intercept, self.rows = conv, intercept, 0
        self.x = zeros(groups, taps, dtype=torch.float64)
        self.y = zeros(groups, out, dtype=torch.float64)
        self.xx = zeros(groups, taps, taps, dtype=torch.float64)
        self.xy = zeros(groups, taps, out, dtype=torch.float64)
        self.yy = zeros(groups, out, dtype=torch.float64)

    def add(self, inputs: Tensor, wanted: Tensor, cells: Tensor, size: torch.Size) -> None:
        """Add some places.

        Args:
            inputs: ``(B, C_in, H, W)`` what the convolution reads.
            wanted: ``(B, C_out, cells)`` what it should put out.
            cells: places in its output, as ``row * w + column``, in all pictures the same.
            size: (h, w) of the output.
        """
        groups = self.conv.groups
        x = patches(inputs, self.conv, size, cells).view(groups, self.x.shape[1], -1).double()
        y = wanted.transpose(0, 1).reshape(groups, self.y.shape[1], -1).double()
        self.rows += x.shape[2]
        self.x += x.sum(2)
        self.y += y.sum(2)
        self.yy += y.square().sum(2)
        self.xy.baddbmm_(x, y.transpose(1, 2))
        self.xx.baddbmm_(x, x.transpose(1, 2))

    def solve(self, weight: Tensor, ridge: float) -> Solution:
        """The ridge solution.

        Args:
            weight: ``(C_out, C_in / groups, k, k)``, towards which the ridge pulls.
            ridge: as a share of the mean square of the inputs (less their mean where there is an intercept).
        """
        groups, taps = self.x.shape
        before = weight.double().reshape(groups, -1, taps).transpose(1, 2)  # (G, K, O)
        mean, wanted = self.x / self.rows, self.y / self.rows
        xx, xy, yy = self.xx / self.rows, self.xy / self.rows, self.yy / self.rows
        spread = (yy - wanted.square()).sum()
        if self.intercept:
            xx.baddbmm_(mean[:, :, None], mean[:, None], alpha=-1)
            xy.baddbmm_(mean[:, :, None], wanted[:, None], alpha=-1)
            yy = yy - wanted.square()
        after = before + _ridge(xx, xy - xx @ before, ridge)
        residual = yy - (after * (2 * xy - xx @ after)).sum(1)
        told = torch.einsum("gk,gko->go", mean, after)
        var = (after * (xx @ after)).sum(1) - (0 if self.intercept else told.square())
        return Solution(
            after.transpose(1, 2).reshape(weight.shape),
            (wanted - told).flatten() if self.intercept else torch.zeros_like(told).flatten(),
            told.flatten(),
            var.clamp(min=0).flatten(),
            float(residual.sum()) * self.rows,
            float(spread) * self.rows,
        )


def _ridge(xx: Tensor, right: Tensor, ridge: float) -> Tensor:
    """``(xx + r I)^-1 right`` with r the given share of the mean diagonal; more where that is still singular."""
    eye = torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
    scale = xx.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a group that reads nothing but zeros
    for _ in range(16):
        factor, failed = torch.linalg.cholesky_ex(xx + ridge * scale * eye)
        if not failed.any():
            break
        ridge = max(ridge, 1e-13) * 10
    return torch.cholesky_solve(right, factor)


def share(missed: float, spread: float) -> float:
    """``missed / spread``; 0 where nothing varies and nothing is missed."""
    return max(missed, 0.0) / spread if spread > 0 else float(missed > 0)


def patches(inputs: Tensor, conv: nn.Conv2d, size: torch.Size, cells: Tensor) -> Tensor:
    """``(C, k * k, B, cells)``: what lies under the kernel, zeros beyond the border; arguments: as `Equations.add`."""
    assert conv.padding_mode == "zeros"
    assert not isinstance(conv.padding, str)
    (height, width), (down, right) = conv.kernel_size, conv.padding
    padded = F.pad(inputs, (right, right, down, down)).transpose(0, 1)
    rows, columns = cells // size[1] * conv.stride[0], cells % size[1] * conv.stride[1]
    line = padded.shape[3]
    flat = padded.flatten(2)
    taps = [
        flat[..., (rows + y * conv.dilation[0]) * line + columns + x * conv.dilation[1]]
        for y in range(height)
        for x in range(width)
    ]
    return torch.stack(taps, 1)
