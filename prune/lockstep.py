"""Several networks side by side over the same pictures, a stretch of each at a time.

Whoever solves a network layer by layer needs every layer's input only after the layers before are solved. Running all
pictures from the start for every layer costs the square of the depth. Here each network stops where it is told, what
its later layers still read is held for all pictures, and the next stretch goes on from there. Where that is too much to
hold (early layers, large pictures), the networks go on from the last place that was held: time is traded for memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from prune.tracing import calls

Held = dict[fx.Node, Any]


class Stretch:
    """A network's calls in order, and where in it each module is that is called just once.

    The calls are those that tracing wrote down, the modules are the network's own: what is changed in them shows at
    once.
    """

    def __init__(self, net: nn.Module):
        graph = calls(net)
        self.nodes = list(graph.nodes)
        modules = [str(node.target) for node in self.nodes if node.op == "call_module"]
        self.call = {str(node.target): node for node in self.nodes if modules.count(str(node.target)) == 1}
        self.interpreter = fx.Interpreter(net, garbage_collect_values=False, graph=graph)
        last = {node: place for place, node in enumerate(self.nodes)}
        for place, node in enumerate(self.nodes):
            last |= dict.fromkeys(node.all_input_nodes, place)
        self.frees: list[list[fx.Node]] = [[] for _ in self.nodes]
        for node, place in last.items():
            self.frees[place].append(node)

    def begin(self, images: Tensor) -> Held:
        """What is held before the first call."""
        return {self.nodes[0]: images}

    def run(self, held: Held, start: int, stop: int) -> None:
        """Make the calls ``start..stop - 1``; afterwards `held` is what the calls from `stop` on read."""
        self.interpreter.env = held
        for node, gone in zip(self.nodes[start:stop], self.frees[start:stop]):
            if node.op != "placeholder":
                held[node] = self.interpreter.run_node(node)
            for other in gone:
                del held[other]


class Lockstep:
    """See the module.

    Args:
        nets: in eval mode, on one device with the pictures.
        chunks: the pictures, ``(B, C, H, W)`` each; a chunk goes through the networks whole.
        memory: bytes that may be held between two stops.
    """

    def __init__(self, nets: Sequence[nn.Module], chunks: Sequence[Tensor], memory: float):
        self.stretches = [Stretch(net) for net in nets]
        self.chunks, self.memory = chunks, memory
        self.at = [0] * len(nets)
        self.held: list[list[Held]] = []

    def until(self, calls: Sequence[fx.Node]) -> Iterator[list[Held]]:
        """Per chunk what each network holds, its call in `calls` being the last it made; the first's is still to come.

        No network may be past its call yet.
        """
        stops = [stretch.nodes.index(call) for stretch, call in zip(self.stretches, calls)]
        stops[1:] = [stop + 1 for stop in stops[1:]]
        assert all(start <= stop for start, stop in zip(self.at, stops)), (self.at, stops)
        replace = False
        for number in range(len(self.chunks)):
            held = self._held(number, own=replace)
            for stretch, known, start, stop in zip(self.stretches, held, self.at, stops):
                stretch.run(known, start, stop)
            if number == 0:
                pictures = sum(len(chunk) for chunk in self.chunks)
                replace = _bytes(held) / len(self.chunks[0]) * pictures <= self.memory
            yield held
            if replace:
                self.held[number : number + 1] = [held]
        if replace:
            self.at = list(stops)

    def _held(self, number: int, own: bool) -> list[Held]:
        """What a chunk goes on from.

        Args:
            own: nobody will go on from there again. If somebody might, it is a copy, for networks work in place.
        """
        if number >= len(self.held):
            return [stretch.begin(self.chunks[number]) for stretch in self.stretches]
        if own:
            return self.held[number]
        return [tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, held) for held in self.held[number]]


def _bytes(held: list[Held]) -> int:
    """Of all storages held, each counted once."""
    tensors = [leaf for leaf in tree_leaves([list(one.values()) for one in held]) if isinstance(leaf, Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())
