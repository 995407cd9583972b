"""A convolution's weights in closed form: those that come nearest to wanted outputs, from sums over many places.

With X (a row per place) what lies under the kernel, Y what is wanted, both less their means, and D the places' weights:
``W = W0 + (X'DX + r I)^-1 X'D(Y - X W0)``, ridge regression that pulls towards the weights W0 there are. Where an
activation f follows, what it makes of the outputs is what counts: from there a few steps
``W += (X'DX + r I)^-1 (X'D f'(XW) (f(Y) - f(XW)) + r (W0 - W))`` towards the least sum of ``D (f(Y) - f(XW))^2``. They
are Gauss and Newton's with f'^2 replaced by its bound 1, so the one factor serves all channels and all steps (the
bound optimisation of Boehning & Lindsay, 1988). Every group of the convolution is solved for itself, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What the equations say about a convolution.

    Attributes:
        weight: ``(C_out, C_in / groups, k, k)`` float64.
        bias: ``(C_out,)`` float64.
        missed: share of the variance of the wanted outputs, after the activation, that is missed (1 - R^2).
    """

    weight: Tensor
    bias: Tensor
    missed: float


@dataclass(frozen=True)
class Rows:
    """Some places, G groups.

    Attributes:
        x: ``(G, K, n)``, what lies under the kernel.
        y: ``(G, O, n)``, what is wanted, before the activation.
        weight: ``(n,)`` float64, how much each place counts.
    """

    x: Tensor
    y: Tensor
    weight: Tensor


class Equations:
    """The normal equations of a convolution, gathered chunk by chunk.

    Args:
        conv: only its shape matters.
        intercept: is there a bias to solve for? Without one nothing is centred.
        activation: what follows, if anything: elementwise.
    """

    def __init__(self, conv: nn.Conv2d, intercept: bool, activation: Activation | None = None):
        self.conv, self.intercept, self.activation = conv, intercept, activation
        self.rows: list[Rows] = []

    def add(self, inputs: Tensor, wanted: Tensor, cells: Tensor, size: torch.Size, weights: Tensor) -> None:
        """Add some places.

        Args:
            inputs: ``(B, C_in, H, W)`` what the convolution reads.
            wanted: ``(B, C_out, cells)`` what it should put out, before the activation.
            cells: places in its output, as ``row * w + column``, in all pictures the same.
            size: (h, w) of the output.
            weights: ``(B, cells)``.
        """
        groups = self.conv.groups
        under = patches(inputs, self.conv, size, cells).view(groups, self.conv.weight[0].numel(), -1)
        wanted = wanted.transpose(0, 1).reshape(groups, self.conv.out_channels // groups, -1).to(under.dtype)
        self.rows.append(Rows(under, wanted, weights.flatten().double()))

    def solve(self, weight: Tensor, ridge: float, steps: int) -> Solution:
        """The weights.

        Args:
            weight: ``(C_out, C_in / groups, k, k)``, towards which the ridge pulls.
            ridge: r as a share of the mean square of the inputs (less their mean where there is an intercept), for as
                many weights of a filter as there are places; the fewer the weights, the less.
            steps: towards what counts after the activation.
        """
        groups, taps = self.conv.groups, weight[0].numel()
        before = weight.double().reshape(groups, -1, taps).transpose(1, 2)  # (G, K, O)
        mean, wanted, xx, xy = self._moments()
        factor, pull = _factor(xx, ridge * (taps / sum(rows.x.shape[2] for rows in self.rows)))
        after = before + torch.cholesky_solve(xy - xx @ before, factor)
        bias = wanted - _product(mean, after)
        best, least = (after, bias), self.missed(after, bias)
        for _ in range(steps if self.activation is not None else 0):
            shift, slope = self._slope(after, bias, mean)
            step = torch.cholesky_solve(slope + pull * (before - after), factor)
            after, bias = after + step, bias + shift - _product(mean, step)
            reached = self.missed(after, bias)
            if not reached < least:
                break
            best, least = (after, bias), reached
        return Solution(best[0].transpose(1, 2).reshape(weight.shape), best[1].flatten(), least)

    def missed(self, weight: Tensor, bias: Tensor) -> float:
        """Share of the variance of what is wanted that these miss: ``(G, K, O)`` and ``(G, O)``."""
        return missed((self.act(out), self.act(rows.y), rows.weight) for rows, out in self._outputs(weight, bias))

    def act(self, x: Tensor) -> Tensor:
        """What the activation makes of it."""
        return x if self.activation is None else self.activation(x.clone())  # it may work in place

    def _moments(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of X ``(G, K)`` and Y ``(G, O)``, X'X ``(G, K, K)`` and X'Y ``(G, K, O)``, over the sum of weights."""
        total = sum(rows.weight.sum() for rows in self.rows)
        sums = [torch.zeros(()).double()] * 4
        for rows in self.rows:
            x, y = rows.x.double(), rows.y.double()
            weighted, turned = x * (rows.weight / total), x.transpose(1, 2)
            each = weighted.sum(2), (y * (rows.weight / total)).sum(2), weighted @ turned, weighted @ y.transpose(1, 2)
            sums = [one.to(two.device) + two for one, two in zip(sums, each)]
        mean, wanted, xx, xy = sums
        if not self.intercept:
            return torch.zeros_like(mean), torch.zeros_like(wanted), xx, xy
        return mean, wanted, xx - mean[:, :, None] * mean[:, None], xy - mean[:, :, None] * wanted[:, None]

    def _slope(self, weight: Tensor, bias: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Minus half the gradient of what is missed after the activation: for the bias, for the weights."""
        total = sum(rows.weight.sum() for rows in self.rows)
        shift, slope = torch.zeros_like(bias), torch.zeros_like(weight)
        for rows, out in self._outputs(weight, bias):
            with torch.enable_grad():
                out.requires_grad_(True)
                told = self.act(out)
                (pull,) = torch.autograd.grad(told, out, self.act(rows.y) - told.detach())
            pull = pull * (rows.weight / total).to(pull.dtype)
            shift += pull.sum(2) if self.intercept else 0
            slope += rows.x @ pull.transpose(1, 2)
        return shift, slope - mean[:, :, None] * shift[:, None]

    def _outputs(self, weight: Tensor, bias: Tensor) -> Iterator[tuple[Rows, Tensor]]:
        """Rows, and what the convolution would put out there, ``(G, O, n)``, in the rows' number format."""
        for rows in self.rows:
            yield rows, torch.baddbmm(bias[:, :, None].to(rows.x), weight.transpose(1, 2).to(rows.x), rows.x)


def missed(parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> float:
    """1 - R^2 over all channels together: of (found ``(..., n)``, wanted ``(..., n)``, weights ``(n,)``).

    0 where nothing varies and nothing is missed.
    """
    error = total = 0.0
    mean = square = torch.zeros(())
    for found, wanted, weight in parts:
        error += float(((found - wanted).double().square() * weight).sum())
        wanted = wanted.double()
        mean, square = mean + (wanted * weight).sum(-1), square + (wanted.square() * weight).sum(-1)
        total += float(weight.sum())
    spread = float((square - mean.square() / total).sum())
    return error / spread if spread > 0 else float(error > 0)


def _product(mean: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("gk,gko->go", mean, weight)


def _factor(xx: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The Cholesky factor of ``xx + r I``, and r ``(G, 1, 1)``: a share of the mean diagonal, more if singular."""
    eye = torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
    scale = xx.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))  # a group that reads nothing but zeros
    for _ in range(16):
        factor, failed = torch.linalg.cholesky_ex(xx + ridge * scale * eye)
        if not failed.any():
            break
        ridge = max(ridge, 1e-13) * 10
    return factor, ridge * scale


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
