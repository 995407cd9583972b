"""The assignment of anchored heads: ground truth boxes to anchors of like shape, in the cells at their centres.

Made once per batch with the student's heads and shared by the detection loss and every KD term.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.heads.anchored import AnchoredSpec
from models.heads.spec import HeadSpec
from models.options import ANCHOR_REACH
from models.spec import HeadMatches, Matches

# (column step, row step) of the cell a centre lies in, then of its left, right, upper and lower neighbour.
_STEPS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))


@torch.no_grad()
def assign(
    specs: Sequence[HeadSpec],
    shapes: Sequence[tuple[int, int]],
    targets: Tensor,
    *,
    ratio_threshold: float = ANCHOR_REACH,
    mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> Matches:
    """Match every ground truth box to the cells and anchors that are to predict it.

    *Anchors*: on every head, those whose width and height differ from the box's by a factor below `ratio_threshold`.
    A box that no anchor of any head reaches gets the one with the best IoU of (w, h), so no object goes unassigned;
    under `new_coords`, whose sizes end at 4 x anchor, such a box can only be approached.

    *Cells*: the one the centre lies in (a centre outside the picture counts for the border cell), and the nearest
    horizontal and the nearest vertical neighbour where the head's decode can reach the centre from there: its offset
    from the neighbour's corner must lie strictly within ``(-(s - 1) / 2, 1 + (s - 1) / 2)``, s = `scale_x_y`. So s = 1
    gives no neighbour and s = 2 two (fewer at the grid's border and for a centre exactly in the middle of its cell).

    *Conflicts*: a cell and anchor predict one box only. The box whose centre lies in the cell goes before a
    neighbour's, then the smaller one (it has fewer other cells), then the earlier row of `targets`.

    Args:
        specs: one per head, all of them anchored.
        shapes: (rows, columns) of each head's grid.
        targets: ``(T, 6)`` picture in the batch, class, cx, cy, w, h in pixels of the network input.
        ratio_threshold: tests set another, for boxes that no anchor reaches.
        mean_over_ranks: averages a scalar over processes; handed on to `Matches`.

    Returns:
        The rows of each head are ordered by picture, anchor, row, column and hold each of these at most once.
    """
    anchored = [spec for spec in specs if isinstance(spec, AnchoredSpec)]
    assert len(anchored) == len(specs), "other families have an assignment of their own"
    fits = _fitting_anchors(anchored, targets, ratio_threshold)
    heads = tuple(_match_head(spec, shape, targets, fit) for spec, shape, fit in zip(anchored, shapes, fits))
    return Matches(heads) if mean_over_ranks is None else Matches(heads, mean_over_ranks)


def _fitting_anchors(specs: Sequence[AnchoredSpec], targets: Tensor, ratio_threshold: float) -> tuple[Tensor, ...]:
    """Per head a boolean ``(T, A)``: anchor a is to predict box t. Every row has a True on at least one head."""
    anchors = targets.new_tensor([anchor for spec in specs for anchor in spec.anchors])  # (sum of A, 2)
    size = targets[:, None, 4:6]  # (T, 1, 2)
    ratio = size / anchors
    fits = torch.maximum(ratio, 1 / ratio).amax(dim=-1) < ratio_threshold  # (T, sum of A)

    common = torch.minimum(size, anchors).prod(dim=-1)
    iou = common / (size.prod(dim=-1) + anchors.prod(dim=-1) - common)
    best = torch.zeros_like(fits).scatter_(1, iou.argmax(dim=1, keepdim=True), True)
    fits = fits | (best & ~fits.any(dim=1, keepdim=True))
    return fits.split([len(spec.anchors) for spec in specs], dim=1)


def _match_head(spec: AnchoredSpec, shape: tuple[int, int], targets: Tensor, fits: Tensor) -> HeadMatches:
    """The cells of one head for the boxes and anchors that `fits` ``(T, A)`` pairs."""
    rows, cols = shape
    limit = targets.new_tensor([cols, rows])
    centre = targets[:, 2:4] / spec.stride  # (T, 2) in cells
    cell = centre.floor().clamp(min=0).minimum(limit - 1)
    inside = centre - cell

    # A neighbour before the cell sees the centre at `inside + 1`, one after it at `inside - 1`; past half a cell
    # the other neighbour on that axis is nearer.
    reach = min((spec.scale_x_y - 1) / 2, 0.5)
    before, after = inside < reach, inside > 1 - reach  # (T, 2): x, y
    own = torch.ones_like(before[:, 0])
    takes = torch.stack((own, before[:, 0], after[:, 0], before[:, 1], after[:, 1]))  # (5, T)

    steps = targets.new_tensor(_STEPS)
    place = cell + steps[:, None]  # (5, T, 2)
    takes = takes & ((place >= 0) & (place < limit)).all(dim=-1)

    step, target, anchor = (takes[:, :, None] & fits).nonzero(as_tuple=True)  # the candidates, R rows
    col, row = place[step, target].long().unbind(dim=-1)
    image = targets[target, 0].long()
    area = targets[target, 4] * targets[target, 5]
    keep = _first_claims(((image * fits.shape[1] + anchor) * rows + row) * cols + col, step > 0, area, target)
    target = target[keep]
    return HeadMatches(
        image=image[keep],
        anchor=anchor[keep],
        row=row[keep],
        col=col[keep],
        box=targets[target, 2:6],
        label=targets[target, 1].long(),
        target=target,
    )


def _first_claims(place: Tensor, is_neighbour: Tensor, area: Tensor, target: Tensor) -> Tensor:
    """Of the ``(R,)`` claims, the indices of the winner of each `place`, in order of place."""
    order = torch.argsort(target, stable=True)
    # Least significant first: each stable sort keeps the order within ties. Not every torch sorts booleans on a GPU.
    for key in (area, is_neighbour.byte(), place):
        order = order[torch.argsort(key[order], stable=True)]
    place = place[order]
    first = torch.ones_like(place, dtype=torch.bool)
    first[1:] = place[1:] != place[:-1]
    return order[first]
