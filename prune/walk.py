"""The symbolic walk over a traced network: lists of identities flow in the place of tensors.

A rule per operation says what happens to the list. What has no rule is treated conservatively: the channels that enter
stay (*fixed*), and what leaves has none to drop.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.modules import activation, dropout, pooling
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from models.activations import ACTIVATIONS
from models.layers import Reorg, Shortcut
from models.network import Network
from prune.identities import ChannelGraph, Conv, EqualSlices, Ids, Step, tied_groups

_MIXING = (activation.Softmax, activation.Softmax2d, activation.LogSoftmax, activation.Softmin, activation.GLU,
           activation.MultiheadAttention)


def _modules_of(namespace: ModuleType) -> set[type[nn.Module]]:
    return {kind for kind in vars(namespace).values()
            if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module}


ACTIVATION_TYPES: tuple[type[nn.Module], ...] = tuple(
    _modules_of(activation) | {type(make()) for make in ACTIVATIONS.values()})
_PASSING: tuple[type[nn.Module], ...] = (*_modules_of(pooling), nn.Upsample, nn.ZeroPad2d)
_ELEMENTWISE: tuple[type[nn.Module], ...] = (*ACTIVATION_TYPES, dropout._DropoutNd, nn.Identity)
UNSUPPORTED = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_POINTWISE = _names(
    "relu relu_ relu6 silu sigmoid sigmoid_ tanh tanh_ hardtanh hardswish hardsigmoid leaky_relu leaky_relu_ gelu elu "
    "elu_ selu celu mish softplus softsign clamp clamp_ clamp_min clamp_max exp sqrt rsqrt abs neg square pow "
    "logsigmoid dropout dropout2d contiguous clone detach float double half to"
)
_PASS = _names("max_pool2d avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d interpolate upsample lp_pool2d")
_ADD = _names("add add_ iadd __add__ __radd__ __iadd__")
_MUL = _names("mul mul_ imul multiply __mul__ __rmul__ __imul__")
_WITH_NUMBER = _names("sub sub_ isub __sub__ __rsub__ rsub div div_ truediv __truediv__")


class _Unknown:
    """A number that depends on the input's size."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN = _Unknown()


class _Shape:
    """``x.shape`` of a traced tensor: only the channel count is known."""

    def __init__(self, channels: int | None):
        self.channels = channels

    def __getitem__(self, item: Any) -> Any:
        return self.channels if item == 1 and self.channels is not None else UNKNOWN


class _Ref:
    """The tensor that a step puts out."""

    def __init__(self, step: int):
        self.step = step


class Walk:
    """Runs over the fx graph with lists of identities in the place of tensors."""

    def __init__(self, net: nn.Module, graph: fx.Graph):
        self.fx_graph = graph
        self.modules = dict(net.named_modules())
        # A cfg's routes are built anew for the thin widths; a plain module's forward keeps the sizes written in it.
        self.rebuilds = isinstance(net, Network)
        self.steps: list[Step] = []
        self.convs: dict[str, Conv] = {}
        self.norms: dict[str, Ids] = {}
        self.constraints: list[EqualSlices] = []
        self.count = 0
        self.left: list[Ids] = []
        self.right: list[Ids] = []
        self.fixed: list[tuple[Ids, str]] = []
        self.value: dict[fx.Node, Any] = {}
        self.node: fx.Node

    # -- results ---------------------------------------------------------------------------------------------------

    def graph(self) -> ChannelGraph:
        for node in self.fx_graph.nodes:
            self.node = node
            self.value[node] = self.visit(node)
        root = tied_groups(self.count, self.left, self.right)
        fixed = np.zeros(self.count, bool)
        reasons: dict[int, str] = {}
        for ids, why in self.fixed:
            groups = np.unique(root[ids])
            fixed[groups] = True
            for group in groups.tolist():
                reasons.setdefault(group, why)
        return ChannelGraph(self.steps, self.with_norms(), self.norms, self.constraints, root, fixed[root], reasons)

    def with_norms(self) -> dict[str, Conv]:
        """The convolutions, each with the BatchNorm that is its only reader."""
        readers: dict[int, list[int]] = {}
        for number, step in enumerate(self.steps):
            for source in step.reads:
                readers.setdefault(source, []).append(number)
        found = {}
        for number, step in enumerate(self.steps):
            if step.op == "conv" and step.module is not None:
                users = readers.get(number, [])
                alone = len(users) == 1 and self.steps[users[0]].op == "norm"
                conv = self.convs[step.module]
                norm = self.steps[users[0]].module if alone else None
                found[step.module] = Conv(conv.name, conv.reads, conv.makes, conv.groups, conv.depthwise, norm)
        return found

    # -- building blocks -------------------------------------------------------------------------------------------

    def fresh(self, channels: int) -> Ids:
        self.count += channels
        return np.arange(self.count - channels, self.count)

    def fix(self, ids: Ids) -> None:
        self.fixed.append((ids, self.node.name))

    def tie(self, a: Ids, b: Ids) -> None:
        self.left.append(a)
        self.right.append(b)

    def emit(self, op: str, reads: Iterable[_Ref] = (), ids: Ids | None = None, **more: Any) -> _Ref:
        number = len(self.steps)
        more.setdefault("origin", number)
        self.steps.append(Step(op, self.node.name, tuple(ref.step for ref in reads), ids, **more))
        return _Ref(number)

    def step(self, ref: _Ref) -> Step:
        return self.steps[ref.step]

    def opaque(self, args: Any) -> _Ref:
        """An operation without a rule: everything that enters stays."""
        refs = _refs(args)
        for ref in refs:
            ids = self.step(ref).ids
            if ids is not None:
                self.fix(ids)
        return self.emit("opaque", refs)

    def pointwise(self, ref: _Ref, apply: Callable[..., Tensor]) -> _Ref:
        step = self.step(ref)
        return self.emit("pointwise", [ref], step.ids, apply=apply, origin=step.origin)

    def passed(self, ref: _Ref) -> _Ref:
        return self.emit("pass", [ref], self.step(ref).ids)

    def take(self, ref: _Ref, index: Ids) -> _Ref:
        ids = self.step(ref).ids
        return self.opaque([ref]) if ids is None else self.emit("take", [ref], ids[index], index=index)

    # -- nodes -----------------------------------------------------------------------------------------------------

    def visit(self, node: fx.Node) -> Any:
        args, kwargs = self.load(node.args), self.load(node.kwargs)
        if node.op == "placeholder":
            return self.emit("opaque")  # the picture: its channels are the first reader's, and fixed
        if node.op == "get_attr":
            return self.emit("opaque")
        if node.op == "output":
            for ref in _refs([args, kwargs]):
                ids = self.step(ref).ids
                if ids is not None:
                    self.fix(ids)
            return None
        if node.op == "call_module":
            return self.call_module(str(node.target), args, kwargs)
        return self.call_operation(node.target, args, kwargs)

    def load(self, tree: Any) -> Any:
        if isinstance(tree, fx.Node):
            return self.value[tree]
        if isinstance(tree, (tuple, list)):
            return type(tree)(self.load(item) for item in tree) if type(tree) in (tuple, list) else \
                [self.load(item) for item in tree]
        if isinstance(tree, dict):
            return {key: self.load(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(self.load(tree.start), self.load(tree.stop), self.load(tree.step))
        return tree

    def call_module(self, name: str, args: tuple, kwargs: dict) -> Any:
        module = self.modules[name]
        refs = _refs([args, kwargs])
        if isinstance(module, UNSUPPORTED):
            raise UserError(f"'{name}' is a {type(module).__name__}: it mixes channels, so none of them can be dropped",
                            todo="only networks normalised by BatchNorm can be pruned")
        if isinstance(module, Shortcut):
            return self.shortcut(module, refs)
        if len(refs) != 1:
            return self.opaque(refs)
        ref = refs[0]
        if isinstance(module, Reorg):
            return self.mixed(ref, module.out_channels)
        if isinstance(module, nn.Conv2d):
            return self.conv(name, module, ref)
        if isinstance(module, _BatchNorm):
            return self.norm(name, module, ref)
        if isinstance(module, nn.PReLU):  # with a slope per channel it would need surgery of its own
            alone = module.num_parameters == 1
            return self.pointwise(ref, lambda x: F.prelu(x, module.weight.to(x))) if alone else self.opaque(refs)
        if getattr(module, "mixes_channels", False) or isinstance(module, _MIXING):
            return self.opaque(refs)
        if isinstance(module, _ELEMENTWISE):
            return self.pointwise(ref, module)
        if isinstance(module, _PASSING) and not getattr(module, "return_indices", False):
            return self.passed(ref)
        if isinstance(module, nn.PixelUnshuffle) and self.step(ref).ids is not None:
            width = len(self.step(ref).ids)  # type: ignore[arg-type]
            return self.take(ref, np.repeat(np.arange(width), module.downscale_factor**2))
        return self.opaque(refs)

    def conv(self, name: str, module: nn.Conv2d, ref: _Ref) -> _Ref:
        reads = self.step(ref).ids
        if reads is None:  # the picture, or what comes out of a reshape
            reads = self.fresh(module.in_channels)
            self.fix(reads)
        known = self.convs.get(name)
        depthwise = module.groups > 1 and module.groups == module.in_channels
        if known is not None:  # a module called twice keeps the same channels both times
            self.tie(known.reads, reads)
            makes = known.makes
        elif depthwise:
            makes = np.repeat(reads, module.out_channels // module.in_channels)
        else:
            makes = self.fresh(module.out_channels)
            if module.groups > 1:
                self.constraints.append(EqualSlices(name, tuple(np.split(reads, module.groups))))
                self.constraints.append(EqualSlices(name, tuple(np.split(makes, module.groups))))
        if known is None:
            self.convs[name] = Conv(name, reads, makes, module.groups, depthwise)
        return self.emit("conv", [ref], makes, module=name)

    def norm(self, name: str, module: _BatchNorm, ref: _Ref) -> _Ref:
        ids = self.step(ref).ids
        if ids is None:
            ids = self.fresh(module.num_features)
            self.fix(ids)
        if name in self.norms:
            self.tie(self.norms[name], ids)
        self.norms.setdefault(name, ids)
        if not module.affine or not module.track_running_stats:
            self.fix(ids)
        return self.emit("norm", [ref], ids, module=name)

    def shortcut(self, module: Shortcut, refs: list[_Ref]) -> _Ref:
        """Where channels differ only the leading ones are added, and so tied; the first input gives the width."""
        total = refs[0]
        for other in refs[1:]:
            a, b = self.step(total).ids, self.step(other).ids
            if a is None or b is None:
                return self.opaque(refs)
            common = min(len(a), len(b))
            self.tie(a[:common], b[:common])
            total = self.emit("add", [total, other], a)
        return self.pointwise(total, module.act)

    def mixed(self, ref: _Ref, channels: int) -> _Ref:
        """A known number of channels, each made of many: all that enter and leave stay."""
        if (ids := self.step(ref).ids) is not None:
            self.fix(ids)
        made = self.fresh(channels)
        self.fix(made)
        return self.emit("mixed", [ref], made)

    # -- functions and methods -------------------------------------------------------------------------------------

    def call_operation(self, target: Any, args: tuple, kwargs: dict) -> Any:
        name = target if isinstance(target, str) else getattr(target, "__name__", str(target))
        refs = _refs([args, kwargs])
        if target is getattr:
            return self.attribute(args)
        if name == "getitem" or target is operator.getitem:
            return self.getitem(*args)
        if not refs:
            return self.plain(target, args, kwargs)
        first = refs[0]
        if name == "size":
            shape = _Shape(self.width(first))
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
                return self.pointwise(first, _partial(target, args[1:], kwargs))
            if name in _PASS or (name in ("mean", "amax", "sum") and _spatial(args[1:], kwargs)):
                # A sum over pixels does not map a constant onto itself: nothing may be dropped before it.
                return self.opaque([first]) if name == "sum" else self.passed(first)
            if name == "pad" and len(args) > 1 and len(args[1]) <= 4:
                return self.passed(first)
        return self.opaque([args, kwargs])

    def plain(self, target: Any, args: tuple, kwargs: dict) -> Any:
        """Arithmetic on sizes: computed where all of it is known."""
        if isinstance(target, str) or _holds_unknown([args, kwargs]):
            return UNKNOWN
        return target(*args, **kwargs)

    def width(self, ref: _Ref) -> int | None:
        ids = self.step(ref).ids
        return None if ids is None else len(ids)

    def attribute(self, args: tuple) -> Any:
        owner, name = args[0], args[1]
        if isinstance(owner, _Ref):
            if name == "shape":
                return _Shape(self.width(owner))
            return UNKNOWN if name in ("device", "dtype", "ndim") else self.opaque([owner])
        return UNKNOWN if _holds_unknown(owner) else getattr(owner, name)

    def getitem(self, owner: Any, item: Any) -> Any:
        if not isinstance(owner, _Ref):
            if isinstance(owner, (tuple, list)) and not _holds_unknown(item):
                return owner[item]
            return owner[item] if isinstance(owner, _Shape) else UNKNOWN
        ids = self.step(owner).ids
        parts = item if isinstance(item, tuple) else (item,)
        whole = len(parts) < 2 or parts[1] == slice(None)
        if ids is None or not all(isinstance(part, slice) for part in parts) or _holds_unknown(list(parts[1:2])):
            return self.opaque([owner])
        if whole:
            return self.passed(owner)
        return self.sliced(owner, np.arange(len(ids))[parts[1]])

    def pieces(self, name: str, ref: _Ref, args: tuple, kwargs: dict) -> Any:
        """chunk, split and narrow along the channels."""
        ids = self.step(ref).ids
        named = dict(zip({"chunk": ("chunks", "dim"), "split": ("size", "dim"),
                          "narrow": ("dim", "start", "length")}[name], args))
        named |= {{"split_size_or_sections": "size", "split_size": "size"}.get(key, key): value
                  for key, value in kwargs.items() if key not in ("input", "tensor")}
        if ids is None or named.get("dim", 0) not in (1, -3) or _holds_unknown(list(named.values())):
            return self.opaque([ref])
        numbers = np.arange(len(ids))
        if name == "narrow":
            return self.sliced(ref, numbers[named["start"]: named["start"] + named["length"]])
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

    def sliced(self, ref: _Ref, index: Ids) -> _Ref:
        """A slice of the channels: one of equal slices needs equally many survivors in each, any other stays whole."""
        ids = self.step(ref).ids
        assert ids is not None
        size = len(index)
        even = size > 0 and len(ids) % size == 0 and index[0] % size == 0 and index[-1] - index[0] == size - 1
        if not self.rebuilds:
            self.fix(ids)
        elif even and size < len(ids):
            self.constraints.append(EqualSlices(self.node.name, tuple(np.split(ids, len(ids) // size))))
        elif not even:
            self.fix(ids)
        return self.take(ref, index)

    def cat(self, args: tuple, kwargs: dict) -> _Ref:
        tensors = args[0] if args else kwargs["tensors"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        parts = [self.step(ref).ids for ref in tensors]
        if dim not in (1, -3) or any(ids is None for ids in parts):
            return self.opaque([tensors])
        return self.emit("cat", tensors, np.concatenate([ids for ids in parts if ids is not None]))

    def binary(self, op: str, args: tuple, target: Any, kwargs: dict) -> _Ref:
        """Sum or product of two tensors, or of a tensor and a number."""
        refs = _refs(args)
        if len(refs) == 1:
            if _holds_unknown([arg for arg in args if not isinstance(arg, _Ref)]):
                return self.opaque(refs)
            place = next(i for i, arg in enumerate(args) if isinstance(arg, _Ref))
            return self.pointwise(refs[0], _partial(target, args, kwargs, place))
        a, b = self.step(refs[0]), self.step(refs[1])
        if a.ids is None or b.ids is None:
            return self.opaque(refs)
        if len(a.ids) == len(b.ids):
            self.tie(a.ids, b.ids)
        else:  # one channel broadcast over all
            for ids in (a.ids, b.ids):
                if len(ids) == 1:
                    self.fix(ids)
        wide = a.ids if len(a.ids) >= len(b.ids) else b.ids
        return self.emit(op, refs, wide, origin=a.origin if a.origin == b.origin else len(self.steps))


def _refs(tree: Any) -> list[_Ref]:
    if isinstance(tree, _Ref):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [ref for item in tree for ref in _refs(item)] if isinstance(tree, (tuple, list)) else []


def _holds_unknown(tree: Any) -> bool:
    if isinstance(tree, slice):
        tree = [tree.start, tree.stop, tree.step]
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        return any(_holds_unknown(item) for item in tree)
    return isinstance(tree, (_Unknown, _Shape, _Ref))


def _spatial(args: tuple, kwargs: dict) -> bool:
    """Is the reduction over rows and columns only?"""
    dims = kwargs.get("dim", args[0] if args else None)
    dims = (dims,) if isinstance(dims, int) else dims
    return dims is not None and all(dim in (2, 3, -1, -2) for dim in dims)


def _partial(target: Any, args: tuple, kwargs: dict, place: int = -1) -> Callable[[Tensor], Tensor]:
    """The operation as a function of one tensor: at `place` among `args`, or before them (-1)."""
    def apply(x: Tensor) -> Tensor:
        full = (x, *args) if place < 0 else tuple(x if i == place else arg for i, arg in enumerate(args))
        if isinstance(target, str):
            return getattr(full[0], target)(*full[1:], **kwargs)
        return target(*full, **kwargs)

    return apply
