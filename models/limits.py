"""How large a network may be. What is larger is a slip of the pen, and would be noticed when memory is full.

Each limit is an order of magnitude above any detector's.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.cfg import Section

LARGEST = 2**31 - 1
"""Of a whole number in a cfg: what Darknet's own reader holds."""
MOST_BYTES, MOST_SECTIONS = 4 << 20, 2500
"""Of a cfg."""
MOST = 1 << 16
"""Of filters, a stride, a kernel's side."""
MOST_SIDE = 8192
"""Pixels of a picture, and of what a place of a map covers."""
FINEST = Fraction(1, 8)
"""Pixels that a place of a map may cover: maps far larger than the picture are a slip."""
MOST_WEIGHTS = 250_000_000
"""Of all convolutions: four times YOLOv3."""


def positive(section: Section, key: str, default: int | None = None) -> int:
    """The whole number that an option of a layer gives."""
    value = section.int(key, default)
    if value < 1:
        raise section.error(f"{key}={value} has to be at least 1", key)
    if value > MOST:
        raise section.error(f"{key}={value} has to be at most {MOST}", key, todo="is it a slip of the pen?")
    return value


def pixels(net: Section, key: str, default: int) -> int:
    """The whole number that an option of `[net]` gives."""
    value = net.int(key, default)
    if not 1 <= value <= MOST_SIDE:
        raise net.error(f"{key}={value} has to be in 1..{MOST_SIDE}", key)
    return value


def check_weights(section: Section, total: int) -> None:
    """Refuse a convolution that brings the network to `total` weights, before there is memory for them."""
    if total > MOST_WEIGHTS:
        raise section.error(
            f"brings the network to {total:,} weights, more than the {MOST_WEIGHTS:,} it may have", "filters"
        )


def check_stride(section: Section, stride: Fraction | None) -> None:
    """Refuse a layer of whose output a place covers `stride` pixels of the input."""
    if stride is not None and not FINEST <= stride <= MOST_SIDE:
        raise section.error(f"a place of its output would cover {float(stride):g} pixels of the input", "stride")
