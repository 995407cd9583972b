"""The walk's rules for functions and methods: arithmetic, concatenation, slices, pools, sizes."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from prune.identities import EqualSlices, Ids
from prune.recorder import Recorder
from prune.symbols import UNKNOWN, Ref, Shape, as_function, holds_unknown, over_pixels, refs_in


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _names(
    "relu relu_ relu6 silu sigmoid sigmoid_ tanh tanh_ hardtanh hardswish hardsigmoid leaky_relu leaky_relu_ gelu elu "
    "elu_ selu celu mish softplus softsign clamp clamp_ clamp_min clamp_max exp sqrt rsqrt abs neg square pow "
    "logsigmoid dropout dropout2d contiguous clone detach float double half to"
)
_PASS = _names("max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate upsample")
_ADD = _names("add add_ iadd __add__ __radd__ __iadd__")
_MUL = _names("mul mul_ imul multiply __mul__ __rmul__ __imul__")
_WITH_NUMBER = _names("sub sub_ isub __sub__ __rsub__ rsub div div_ truediv __truediv__")


# Why channels stay that a forward of somebody else's splits: it would go on cutting at the old places.
BY_NUMBER = "split by a number written in the code"


def _own_divisor(name: str, args: tuple, kwargs: dict) -> bool:
    """Is it an average pool that divides by something else than the number of pixels?"""
    given = args[6] if len(args) > 6 else kwargs.get("divisor_override")
    return name == "avg_pool2d" and given is not None


class FunctionRules(Recorder):
    """A rule per function says what happens to the identities; what has none is `opaque`."""

    def keeps_counts(self) -> bool:
        """Does the code that is being walked hold channel counts that surgery cannot change?"""
        raise NotImplementedError

    def call_operation(self, target: Any, args: tuple, kwargs: dict) -> Any:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        refs = refs_in([args, kwargs])
        if target is getattr:
            return self.attribute(args)
        if name == "getitem" or target is operator.getitem:
            return self.getitem(*args)
        if not refs:
            return self.plain(target, args, kwargs)
        first = refs[0]
        if name == "size":
            shape = Shape(self.width(first))
            return shape[args[1]] if len(args) > 1 else shape
        if name == "dim":
            return 4
        if name in ("cat", "concat"):
            return self.cat(args, kwargs)
        if name in ("chunk", "split", "narrow"):
            return self.pieces(name, first, args[1:], kwargs)
        if len(refs) == 1 and name in _WITH_NUMBER:
            return self.binary("pointwise", args, target, kwargs)
        if name in _ADD or name in _MUL:
            return self.binary("add" if name in _ADD else "gate", args, target, kwargs)
        if len(refs) == 1 and args and args[0] is first:
            if name in _POINTWISE:
                return self.pointwise(first, as_function(target, args[1:], kwargs))
            # A sum over pixels does not map a constant onto itself, nor do lp_pool2d and an average with a divisor of
            # its own: they are not among these.
            reduced = name in ("mean", "amax") and over_pixels(args[1:], kwargs)
            if reduced or (name in _PASS and not _own_divisor(name, args, kwargs)):
                return self.passed(first)
            if name == "pad" and len(args) > 1 and len(args[1]) <= 4:
                return self.passed(first)
        return self.opaque([args, kwargs])

    def plain(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Arithmetic on sizes: computed where all of it is known."""
        if isinstance(target, str) or holds_unknown([args, kwargs]):
            return UNKNOWN
        return target(*args, **kwargs)

    def attribute(self, args: tuple) -> Any:
        owner, name = args[0], args[1]
        if isinstance(owner, Ref):
            if name == "shape":
                return Shape(self.width(owner))
            if name == "ndim":
                return 4
            return UNKNOWN if name in ("device", "dtype") else self.opaque([owner])
        return UNKNOWN if holds_unknown(owner) else getattr(owner, name)

    def getitem(self, owner: Any, item: Any) -> Any:
        if not isinstance(owner, Ref):
            if isinstance(owner, (tuple, list)) and not holds_unknown(item):
                return owner[item]
            return owner[item] if isinstance(owner, Shape) else UNKNOWN
        ids = self.step(owner).ids
        parts = item if isinstance(item, tuple) else (item,)
        whole = len(parts) < 2 or parts[1] == slice(None)
        if ids is None or not all(isinstance(part, slice) for part in parts) or holds_unknown(list(parts[1:2])):
            return self.opaque([owner])
        if whole:
            return self.passed(owner)
        part = parts[1]
        if not part.start and part.step in (None, 1) and part.stop is not None and part.stop >= len(ids):
            return self.passed(owner)  # all of them, however few there are
        return self.sliced(owner, np.arange(len(ids))[part])

    def pieces(self, name: str, ref: Ref, args: tuple, kwargs: dict) -> Any:
        """chunk, split and narrow along the channels."""
        ids = self.step(ref).ids
        named = dict(
            zip(
                {"chunk": ("chunks", "dim"), "split": ("size", "dim"), "narrow": ("dim", "start", "length")}[name], args
            )
        )
        named |= {
            {"split_size_or_sections": "size", "split_size": "size"}.get(key, key): value
            for key, value in kwargs.items()
            if key not in ("input", "tensor")
        }
        if ids is None or named.get("dim", 0) not in (1, -3) or holds_unknown(list(named.values())):
            return self.opaque([ref])
        numbers = np.arange(len(ids))
        if name == "narrow":
            return self.sliced(ref, numbers[named["start"] : named["start"] + named["length"]])
        if name == "chunk":
            size = -(-len(ids) // named["chunks"])
        else:
            size = named["size"]
        edges = np.cumsum(size)[:-1] if isinstance(size, (list, tuple)) else np.arange(size, len(ids), size)
        parts = np.split(numbers, edges)
        if name == "chunk" and len(ids) % len(parts) == 0:  # says no size, so it fits any width
            self.constraints.append(EqualSlices(self.node.name, tuple(ids[part] for part in parts)))
            return tuple(self.take(ref, part) for part in parts)
        return tuple(self.sliced(ref, part) for part in parts)

    def sliced(self, ref: Ref, index: Ids) -> Ref:
        """A slice of the channels: one of equal slices needs equally many survivors in each, any other stays whole."""
        ids = self.step(ref).ids
        assert ids is not None
        size = len(index)
        even = size > 0 and len(ids) % size == 0 and index[0] % size == 0 and index[-1] - index[0] == size - 1
        if self.keeps_counts():
            self.fix(ids, BY_NUMBER)
        elif even and size < len(ids):
            self.constraints.append(EqualSlices(self.node.name, tuple(np.split(ids, len(ids) // size))))
        elif not even:
            self.fix(ids, "cut into unequal slices")
        return self.take(ref, index)

    def cat(self, args: tuple, kwargs: dict) -> Ref:
        tensors = args[0] if args else kwargs["tensors"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if not isinstance(tensors, (tuple, list)):
            return self.opaque([tensors])
        parts = [self.step(ref).ids for ref in tensors]
        if dim not in (1, -3) or any(ids is None for ids in parts):
            return self.opaque([tensors])
        return self.emit("cat", tensors, np.concatenate([ids for ids in parts if ids is not None]))

    def binary(self, op: str, args: tuple, target: Any, kwargs: dict) -> Ref:
        """Sum or product of two tensors, or of a tensor and a number."""
        refs = refs_in(args)
        if refs_in(kwargs) or (kwargs and len(refs) == 2):
            return self.opaque([args, kwargs])  # add(a, b, alpha=2) is no plain sum
        if len(refs) == 1:
            if holds_unknown([arg for arg in args if not isinstance(arg, Ref)]):
                return self.opaque(refs)
            place = next(i for i, arg in enumerate(args) if isinstance(arg, Ref))
            return self.pointwise(refs[0], as_function(target, args, kwargs, place))
        a, b = self.step(refs[0]), self.step(refs[1])
        if a.ids is None or b.ids is None:
            return self.opaque(refs)
        if len(a.ids) == len(b.ids):
            self.tie(a.ids, b.ids)
        else:  # one channel broadcast over all
            for ids in (a.ids, b.ids):
                if len(ids) == 1:
                    self.fix(ids, "one channel for all")
        wide = a.ids if len(a.ids) >= len(b.ids) else b.ids
        return self.emit(op, refs, wide, origin=a.origin if a.origin == b.origin else len(self.steps))
