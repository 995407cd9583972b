"""What flows through the walk in the place of Python values: tensors, shapes, and numbers nobody knows yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class Unknown:
    """A number that depends on the input's size."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = Unknown()


class Shape:
    """``x.shape`` of a traced tensor: only the channel count is known."""

    def __init__(self, channels: int | None):
        self.channels = channels

    def __getitem__(self, item: Any) -> Any:
        return self.channels if item == 1 and self.channels is not None else UNKNOWN


class Ref:
    """The tensor that a step puts out."""

    def __init__(self, step: int):
        self.step = step


def refs_in(tree: Any) -> list[Ref]:
    """The tensors among arguments, in order."""
    if isinstance(tree, Ref):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [ref for item in tree for ref in refs_in(item)] if isinstance(tree, (tuple, list)) else []


def holds_unknown(tree: Any) -> bool:
    """Is there anything among the arguments that is not a plain value?"""
    if isinstance(tree, slice):
        tree = [tree.start, tree.stop, tree.step]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return any(holds_unknown(item) for item in tree)
    return isinstance(tree, (Unknown, Shape, Ref))


def over_pixels(args: tuple, kwargs: dict) -> bool:
    """Is the reduction over rows and columns only, and the result still a map?"""
    dims = kwargs.get("dim", args[0] if args else None)
    dims = (dims,) if isinstance(dims, int) else dims
    kept = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    return bool(kept) and dims is not None and all(dim in (2, 3, -1, -2) for dim in dims)


def as_function(target: Any, args: tuple, kwargs: dict, place: int = -1) -> Callable[[Tensor], Tensor]:
    """The operation as a function of one tensor: at `place` among `args`, or before them (-1)."""

    def apply(x: Tensor) -> Tensor:
        full = (x, *args) if place < 0 else tuple(x if i == place else arg for i, arg in enumerate(args))
        if isinstance(target, str):
            return getattr(full[0], target)(*full[1:], **kwargs)
        return target(*full, **kwargs)

    return apply
