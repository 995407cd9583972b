"""Fine-grained feature imitation (Wang, Yuan, Zhang, Feng: Distilling Object Detectors with Fine-grained Feature
Imitation, CVPR 2019: "imitation region estimation" and "fine-grained feature imitation")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distill.adapters import projection
from distill.losses.maps import ground_truth, paired, variance
from distill.pairs import FeaturePair
from models.heads import HeadReader
from models.spec import Matches, Outputs

# Boxes whose overlaps with all anchors of a map are held in memory at a time.
_CHUNK = 64


def wide_projections(pairs: Sequence[FeaturePair]) -> nn.ModuleList:
    """A 3x3 convolution per pair: the paper's full convolution adaptation layer."""
    return nn.ModuleList(projection(pair, size=3) for pair in pairs)


def imitation(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    pairs: Sequence[FeaturePair],
    adapter: nn.Module,
    near: float = 0.5,
) -> dict[str, Tensor]:
    """How badly the student's features predict the teacher's near objects.

    A cell is near an object if one of the anchors centred in it overlaps the object's box by more than `near` times
    the best overlap any anchor of that map has with it. The mean of ``|f(F_s) - F_t|^2`` over all near cells and the
    channels, over the variance of F_t. The paper's 1 / (2 N_p) sum over channels is this times constants.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        pairs: each feeding a head, whose anchors (`HeadReader.typical_sizes`) are used.
        adapter: `wide_projections`.
        near: psi, 0 to 1: 0 imitates wherever an anchor touches an object, 1 nowhere.

    Returns:
        Scalar ``imitation``, without unit; 0 in a batch without objects.
    """
    sums, counts = [], []
    for pair, (ours, theirs), adapt in zip(pairs, paired(student, teacher, pairs), adapter.children()):
        assert pair.head is not None, pair
        mask = near_objects(matches, student.specs[pair.head], ours.shape, near).to(ours.dtype)
        error = (adapt(ours) - theirs).square().mean(dim=1)  # (B, H, W)
        sums.append((mask * error).sum() / variance(theirs))
        counts.append(mask.sum())
    return {"imitation": torch.stack(sums).sum() / matches.normaliser(torch.stack(counts).sum())}


def near_objects(matches: Matches, spec: HeadReader, shape: Sequence[int], near: float) -> Tensor:
    """Boolean ``(B, H, W)``: the imitation region of a head's map of `shape` (B, C, H, W)."""
    pictures, _, rows, cols = shape
    images, boxes = ground_truth(matches)
    found = torch.zeros(pictures, rows, cols, device=boxes.device)
    for image, box in zip(images.split(_CHUNK), boxes.split(_CHUNK)):
        overlap = _overlaps(box, spec, rows, cols)  # (T, H, W)
        threshold = near * overlap.amax(dim=(1, 2), keepdim=True)
        found.index_add_(0, image, (overlap > threshold).to(found.dtype))
    return found > 0


def _overlaps(boxes: Tensor, spec: HeadReader, rows: int, cols: int) -> Tensor:
    """``(T, H, W)``: the largest IoU of each box ``(T, 4)`` with the anchors centred in each cell."""
    anchors = boxes.new_tensor(spec.typical_sizes)  # (A, 2)

    def common(axis: int, cells: int) -> Tensor:
        """``(T, cells, A)``: the length box and anchor share along an axis."""
        centre = (torch.arange(cells, device=boxes.device).to(boxes) + 0.5)[:, None] * spec.stride  # (cells, 1)
        low, high = (boxes[:, axis] + side * boxes[:, 2 + axis] / 2 for side in (-1, 1))
        left = torch.maximum(low[:, None, None], centre - anchors[:, axis] / 2)
        right = torch.minimum(high[:, None, None], centre + anchors[:, axis] / 2)
        return (right - left).clamp(min=0)

    shared = common(1, rows)[:, :, None] * common(0, cols)[:, None]  # (T, H, W, A)
    area = boxes[:, 2:].prod(dim=1)[:, None] + anchors.prod(dim=1)  # (T, A)
    return (shared / (area[:, None, None] - shared)).amax(dim=3)
