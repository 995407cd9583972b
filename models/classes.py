"""The classes of a network that comes with names, beside those of a data set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from common.log import say_once
from models.lineage import Step, descend, identity_step
from models.network import Network, adapt_classes

AS_READ = "as read"
"""What a lineage calls a network whose classes were in another order in its file."""


def class_order(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...] | None:
    """Where each of the `wanted` classes is among the `known` ones; None where not all are, each once, or names are
    numbers.

    Upper case and blanks at the ends make no difference. Numbers are what a cfg without names calls its classes.
    """
    ours, theirs = ([name.strip().lower() for name in names] for names in (wanted, known))
    if numbers_only(ours) or numbers_only(theirs):
        return None
    if len(set(ours)) < len(ours) or any(theirs.count(name) != 1 for name in ours):
        return None
    return tuple(theirs.index(name) for name in ours)


def reordering(wanted: Sequence[str], known: Sequence[str]) -> tuple[int, ...] | None:
    """`class_order` where both are the same classes, each once; else None."""
    order = class_order(wanted, known)
    return order if order is not None and sorted(order) == list(range(len(known))) else None


def numbers_only(names: Sequence[str]) -> bool:
    """Are the names 0, 1, 2, ..., so that they say nothing?"""
    return list(names) == [str(number) for number in range(len(names))]


def one_numbering(named: Sequence[Sequence[str]]) -> tuple[list[str], list[tuple[int, ...]]]:
    """The classes of several networks as one list, those of the first first; and for each where its classes are in it.

    Classes are the same if their names are, but for upper case and blanks at the ends; where a network has numbers
    for names, and the list is as long, by number.
    """
    names: list[str] = []
    keys: dict[tuple[str, int], int] = {}  # a name, and how often the same network had it before
    orders = []
    for theirs in named:
        if len(theirs) == len(names) and numbers_only(theirs):
            orders.append(tuple(range(len(names))))
            continue
        if len(theirs) == len(names) and numbers_only(names):
            names, keys = [], {}
        seen: dict[str, int] = {}
        order = []
        for name in theirs:
            plain = name.strip().lower()
            key = (plain, seen.get(plain, 0))
            seen[plain] = key[1] + 1
            if key not in keys:
                keys[key] = len(names)
                names.append(name)
            order.append(keys[key])
        orders.append(tuple(order))
    return names, orders


def take_names(net: Network, names: Sequence[str], theirs: Sequence[str], source: str) -> None:
    """Call `net`'s classes `names`, in place; the same ones in another order move their channels in the heads along.

    Args:
        theirs: what the file that filled `net` calls them, as many.
        source: that file, for messages.
    """
    if list(names) == list(theirs):
        return
    if (order := reordering(names, theirs)) is not None:
        if order != tuple(range(net.classes)):
            _reorder(net, order)
            say_once(logging.INFO, "%s: its classes are in another order, and are taken by name", source)
    elif not numbers_only(names) and not numbers_only(theirs):
        say_once(
            logging.WARNING,
            "%s: its classes are %s, the data set's %s: they are taken by number. Nothing, if they mean the same or "
            "are to be learned anew; else --data the data set it was trained on",
            source,
            ", ".join(theirs[:10]),
            ", ".join(names[:10]),
        )
    net.names = [str(name) for name in names]


@torch.no_grad()
def _reorder(net: Network, order: Sequence[int]) -> None:
    """Class k becomes what class ``order[k]`` was, in every head; the lineage names the network as it was read."""
    rows = _rows(net, order)
    net.lineage = descend(net, AS_READ, _step(net, rows))  # which says what it was, so before anything moves
    for number, kept in rows.items():
        for tensor in net.convolutions[number].state_dict().values():
            if tensor.ndim:
                tensor.copy_(tensor[kept])


def places_of(wanted: Sequence[str], net: Network) -> tuple[int, ...] | None:
    """`class_order` of `wanted` among a network's classes; None too where heads would say another thing with fewer.

    Scores by softmax share one certainty out: with cat gone, a cat is a dog.
    """
    shared = any(head.softmax for head in net.specs)
    return None if shared and len(wanted) < net.classes else class_order(wanted, net.names)


def only_classes(net: Network, order: Sequence[int], names: Sequence[str], source: str) -> Network:
    """A network that knows some of `net`'s classes: class k is ``names[k]`` and what class ``order[k]`` was.

    Args:
        source: where `net` is from, for messages.
    """
    cfg = net.cfg.copy()
    adapt_classes(cfg, len(order))
    with torch.device("meta"):  # its tensors are `net`'s
        fewer = Network(cfg, names)
    rows = _rows(net, order)
    state = net.state_dict()
    for number, kept in rows.items():
        for name in net.convolutions[number].state_dict():
            tensor = state[f"layers.{number}.{name}"]
            state[f"layers.{number}.{name}"] = tensor[kept] if tensor.ndim else tensor
    fewer.load_state_dict(state, assign=True)
    fewer.lineage, fewer.meta = descend(net, AS_READ, _step(net, rows)), net.meta
    say_once(
        logging.INFO,
        "%s: the data set's classes are among its %d, and are taken by name: its heads know them already",
        source,
        net.classes,
    )
    return fewer


def _rows(net: Network, order: Sequence[int]) -> dict[int, list[int]]:
    """Last convolution of a head -> the channels that stay, in order, for class k to be what class ``order[k]`` was."""
    rows = {}
    for head, numbers in zip(net.specs, net.convolutions_by_head, strict=True):
        places = torch.arange(head.places * head.channels).view(1, head.places, 1, 1, head.channels)
        stay, first = head.select(places, range(head.places), order).flatten().tolist(), 0
        for number in numbers:
            behind = first + net.convolutions[number].conv.out_channels
            rows[number] = [channel - first for channel in stay if first <= channel < behind]
            first = behind
    return rows


def _step(net: Network, rows: Mapping[int, list[int]]) -> Step:
    return identity_step(net) | {number: (number, kept) for number, kept in rows.items()}
