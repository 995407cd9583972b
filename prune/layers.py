"""Layers named by patterns: those whose channels may go, and those whose channels stay."""

from __future__ import annotations

import re
from collections.abc import Iterable

from common.errors import UserError
from models.keys import layer_of_module
from prune.identities import ChannelGraph, matches

_RANGE = re.compile(r"^(\d+)(?:-(\d+))?$")


def held_layers(graph: ChannelGraph, include: Iterable[str], exclude: Iterable[str]) -> set[str]:
    """The convolutions whose channels have to stay: all that `include` does not name, and all that `exclude` does."""
    include = tuple(include)
    wanted = chosen_layers(graph, include, "include") if include else set(graph.convs)
    return set(graph.convs) - wanted | chosen_layers(graph, exclude, "exclude")


def chosen_layers(graph: ChannelGraph, patterns: Iterable[str], what: str) -> set[str]:
    """The convolutions that any of the patterns names.

    Args:
        patterns: "12" (Darknet's layer 12), "12-20" (layers 12 to 20, both included), or a glob over module names
            or their leading parts: "layers.3", "layers.1?", "layers.4.*".
        what: the option's name, for the message.

    Raises:
        UserError: a pattern that names no convolution.
    """
    chosen = set()
    for pattern in patterns:
        if number := _RANGE.match(pattern):
            first, last = int(number[1]), int(number[2] or number[1])
            layers = {name: layer_of_module(name) for name in graph.convs}
            found = {name for name, layer in layers.items() if layer is not None and first <= layer <= last}
        else:
            found = {name for name in graph.convs if matches(name, pattern)}
        if not found:
            some = ", ".join(list(graph.convs)[:3])
            raise UserError(
                f"{what}={pattern!r} matches no convolution",
                todo=f"names look like {some}; write a layer as 12, several as 12-20, or a glob",
            )
        chosen |= found
    return chosen
