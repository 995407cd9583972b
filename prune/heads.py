"""Detection heads a data set has no use for: which. `models.dropping` makes the network without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from data.anchors import overlap
from models.heads import HeadSpec

LEAST_SHARE = 0.01
"""A head with a smaller share of the boxes is idle."""


def head_shares(boxes: NDArray[np.float64], specs: Sequence[HeadSpec]) -> NDArray[np.float64]:
    """Per head the share of the boxes that one of its anchors fits best, by IoU laid centre on centre.

    A box whose best anchor several heads have (their masks overlap) counts for each of them in equal parts.

    Args:
        boxes: ``(n, 2)`` widths and heights in pixels of the network input; without any, every head gets 1.
        specs: the heads.

    Returns:
        ``(heads,)``, their sum is 1 where there are boxes.

    Raises:
        UserError: these heads have no anchors.
    """
    if not all(spec.anchors for spec in specs):
        raise UserError(
            "which head a box is for is told by their anchors, and these heads have none",
            todo="name the heads to drop by their strides: --drop-heads 8",
        )
    if not len(boxes):
        return np.ones(len(specs))
    best = np.stack([overlap(boxes, np.array(spec.anchors, float)).max(axis=1) for spec in specs], axis=1)
    owners = best == best.max(axis=1, keepdims=True)  # (n, heads)
    return (owners / owners.sum(axis=1, keepdims=True)).sum(axis=0) / len(boxes)


def idle_heads(
    boxes: NDArray[np.float64], specs: Sequence[HeadSpec], least: float = LEAST_SHARE
) -> tuple[list[int], NDArray[np.float64]]:
    """The heads whose scale holds less than the share `least` of the boxes, by place; and every head's share.

    The head with the most boxes is never among them.
    """
    shares = head_shares(boxes, specs)
    return [place for place, share in enumerate(shares) if share < least and place != shares.argmax()], shares
