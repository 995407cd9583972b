"""From a network to its channel identities: torch.fx writes down what is called, `Walk` follows the channels.

The traced module is never run; `prune.lockstep` runs the network's own modules in the order written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from models.layers import Layer
from prune.identities import ChannelGraph
from prune.walk import ACTIVATION_TYPES, UNSUPPORTED, Walk


class Tracer(fx.Tracer):
    """Keeps as leaves whatever the walk has a rule for, and remembers where it is for the error message."""

    def __init__(self) -> None:
        super().__init__()
        self.place = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Layer):
            return m.traced_whole
        if isinstance(m, (_BatchNorm, *ACTIVATION_TYPES, *UNSUPPORTED)):
            return True
        if isinstance(m, nn.Conv2d):
            # A subclass with a forward of its own (weight standardisation, padding computed from the input) is not
            # the convolution the rule knows.
            return type(m).forward is nn.Conv2d.forward
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        outer, self.place = self.place, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.place = outer
        return result


def trace(net: nn.Module) -> ChannelGraph:
    """The channel identities of a network: of `models.Network` or of any `nn.Module` that torch.fx can trace.

    Raises:
        UserError: a part that cannot be followed (control flow on values, a LayerNorm over channels), by name.
    """
    return Walk(net, calls(net)).graph()


def calls(net: nn.Module) -> fx.Graph:
    """What `net` calls in eval mode, in order, down to convolutions, BatchNorms and activations.

    Raises:
        UserError: as `trace`.
    """
    tracer = Tracer()
    modes = [(module, module.training) for module in net.modules()]
    net.eval()  # stochastic depth and the like branch on `training`
    try:
        return tracer.trace(net)
    except UserError:
        raise
    except Exception as error:
        place = tracer.place or type(net).__name__
        raise UserError(
            f"the channels cannot be followed through '{place}': {error}",
            todo="exclude this network from pruning, or rewrite the part without control flow on "
            "tensor values or sizes",
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode
