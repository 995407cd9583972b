"""The symbolic walk over a traced network: lists of identities flow in the place of tensors.

A rule per operation says what happens to the list: for modules here, for functions and methods in
`prune.functions`. What has no rule is treated conservatively: the channels that enter stay (*fixed*), and what leaves
has none to drop.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.modules import activation, dropout, pooling
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from models.activations import ACTIVATIONS
from models.layers import Attention, Head, Layer, Shortcut
from models.network import Network
from prune.functions import FunctionRules
from prune.identities import ChannelGraph, Conv, EqualSlices
from prune.symbols import Ref, refs_in

_MIXING = (
    activation.Softmax,
    activation.Softmax2d,
    activation.LogSoftmax,
    activation.Softmin,
    activation.GLU,
    activation.MultiheadAttention,
)


def _modules_of(namespace: ModuleType) -> set[type[nn.Module]]:
    return {
        kind
        for kind in vars(namespace).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not nn.Module
    }


ACTIVATION_TYPES: tuple[type[nn.Module], ...] = tuple(
    _modules_of(activation) | {type(make()) for make in ACTIVATIONS.values()}
)
# A norm over the window (LPPool) is no mean: it does not map a constant onto itself.
_PASSING: tuple[type[nn.Module], ...] = (
    *(kind for kind in _modules_of(pooling) if "LPPool" not in kind.__name__),
    nn.Upsample,
    nn.ZeroPad2d,
)
_ELEMENTWISE: tuple[type[nn.Module], ...] = (*ACTIVATION_TYPES, dropout._DropoutNd, nn.Identity)
UNSUPPORTED = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm)


class Walk(FunctionRules):
    """Runs over the fx graph with lists of identities in the place of tensors."""

    def __init__(self, net: nn.Module, graph: fx.Graph):
        super().__init__()
        self.fx_graph = graph
        self.modules = dict(net.named_modules())
        self.from_cfg = isinstance(net, Network)
        self.value: dict[fx.Node, Any] = {}

    def graph(self) -> ChannelGraph:
        for node in self.fx_graph.nodes:
            self.node = node
            self.value[node] = self.visit(node)
        return self.finished()

    def keeps_counts(self) -> bool:
        # A cfg's routes are built anew for the thin widths; other modules' forward keeps the sizes written in it.
        return not self.from_cfg or any(getattr(kind, "keeps_counts", False) for kind in self.inside())

    def no_rule(self) -> str:
        return "head outputs" if Head in self.inside() else super().no_rule()

    def inside(self) -> list[Any]:
        """The types of the modules in whose forward the walk stands."""
        return [kind for _, kind in self.node.meta.get("nn_module_stack", {}).values()]

    # -- nodes -----------------------------------------------------------------------------------------------------

    def visit(self, node: fx.Node) -> Any:
        args, kwargs = self.load(node.args), self.load(node.kwargs)
        if node.op == "placeholder":
            return self.emit("opaque")  # the picture: its channels are the first reader's, and fixed
        if node.op == "get_attr":
            return self.emit("opaque")
        if node.op == "output":
            for ref in refs_in([args, kwargs]):
                ids = self.step(ref).ids
                if ids is not None:
                    self.fix(ids, "the network's output")
            return None
        if node.op == "call_module":
            return self.call_module(str(node.target), args, kwargs)
        return self.call_operation(node.target, args, kwargs)

    def load(self, tree: Any) -> Any:
        if isinstance(tree, fx.Node):
            return self.value[tree]
        if isinstance(tree, (tuple, list)):
            return (
                type(tree)(self.load(item) for item in tree)
                if type(tree) in (tuple, list)
                else [self.load(item) for item in tree]
            )
        if isinstance(tree, dict):
            return {key: self.load(item) for key, item in tree.items()}
        if isinstance(tree, slice):
            return slice(self.load(tree.start), self.load(tree.stop), self.load(tree.step))
        return tree

    # -- modules ---------------------------------------------------------------------------------------------------

    def call_module(self, name: str, args: tuple, kwargs: dict) -> Any:
        module = self.modules[name]
        refs = refs_in([args, kwargs])
        if isinstance(module, UNSUPPORTED):
            raise UserError(
                f"'{name}' is a {type(module).__name__}: it mixes channels, so none of them can be dropped",
                todo="only networks normalised by BatchNorm can be pruned",
            )
        if isinstance(module, Shortcut):
            return self.shortcut(module, refs)
        if isinstance(module, Attention):
            return self.attention(module, refs)
        if len(refs) != 1:
            return self.opaque(refs)
        ref = refs[0]
        if isinstance(module, Layer):  # traced whole
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
        indices, divisor = getattr(module, "return_indices", False), getattr(module, "divisor_override", None)
        if isinstance(module, _PASSING) and not indices and divisor is None:
            return self.passed(ref)
        if isinstance(module, nn.PixelUnshuffle) and (width := self.width(ref)) is not None:
            return self.take(ref, np.repeat(np.arange(width), module.downscale_factor**2))
        return self.opaque(refs)

    def conv(self, name: str, module: nn.Conv2d, ref: Ref) -> Ref:
        reads = self.step(ref).ids
        if reads is None:  # the picture, or what comes out of a reshape
            reads = self.fresh(module.in_channels)
            self.fix(reads, "the picture, or what comes out of a reshape")
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

    def norm(self, name: str, module: _BatchNorm, ref: Ref) -> Ref:
        ids = self.step(ref).ids
        if ids is None:
            ids = self.fresh(module.num_features)
            self.fix(ids, "normalised without a convolution before")
        if name in self.norms:
            self.tie(self.norms[name], ids)
        self.norms.setdefault(name, ids)
        if not module.affine or not module.track_running_stats:
            self.fix(ids, "a BatchNorm without gammas or statistics of its own")
        return self.emit("norm", [ref], ids, module=name)

    def shortcut(self, module: Shortcut, refs: list[Ref]) -> Ref:
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

    def attention(self, module: Attention, refs: list[Ref]) -> Ref:
        """A channel of the output is a weighted mean over places of the same channel of the values.

        Queries and keys meet channel by channel, and what a dropped pair leaves behind is the same number for all
        places, which the softmax does not see: nothing of them has to be folded. All heads keep equally many.
        """
        queries, keys, values = (self.step(ref).ids for ref in refs)
        if queries is None or keys is None or values is None:
            return self.opaque(refs)
        self.tie(queries, keys)
        for ids in (queries, values):
            slices = tuple(np.split(ids, module.heads))
            self.constraints.append(EqualSlices(self.node.name, slices, "by the heads of an attention"))
        return self.passed(refs[2])
