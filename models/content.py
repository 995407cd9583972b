"""What a checkpoint of ours has to hold: checked before anything of it is used, so that a damaged one is told.

What is checked is the form: which parts there are and of which type each is, as far down as somebody looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError

FORMAT = "thinyolo/1"
PARTS: dict[str, type] = {"cfg": str, "names": list, "state": dict, "lineage": list, "meta": dict, "extra": dict}
ENTRY: dict[str, type] = {"sha256": str, "kind": str, "layers": dict}
PIXEL_RANGE, TRAINED_AT = "pixel_range", "trained_at"
META: dict[str, type] = {
    "seen": int,
    "teacher": dict,
    "dropped_heads": list,
    "kd_off": str,
    "unlabelled": dict,
    "trained_for": list,
    TRAINED_AT: str,
    PIXEL_RANGE: list,
}
"""What is looked up there, where it is there."""
MOST_VALUES = 10_000_000
"""So many values a network's lineage, or what is told of it, may have; those of the largest here have 200,000."""


def size_text(size: tuple[int, int]) -> str:
    """An input (H, W) as ``--imgsz`` takes it, and as a network's `meta` says what it was trained at."""
    height, width = size
    return str(height) if height == width else f"{width}x{height}"


def check_parts(
    content: Mapping[Any, Any], parts: Mapping[str, Any], what: str, path: str | Path, todo: str = ""
) -> None:
    """Raise where a part is absent from a dict or is of another type; `what` is said before its name.

    Raises:
        UserError: naming the part.
    """
    for name, kind in parts.items():
        if name not in content:
            raise UserError(f"is incomplete: {what} lacks {name!r}", where=path, todo=todo or DAMAGED)
        need_type(content[name], kind, f"{what} has {name!r}", path, todo)


DAMAGED = "take an earlier checkpoint (best.pt, another stage's), or start anew"


def need_type(value: Any, kind: Any, what: str, path: str | Path, todo: str = "") -> None:
    """Raise a `UserError` where `value` is not of the type `kind`; a bool counts as no number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = " or ".join(each.__name__ for each in kind) if isinstance(kind, tuple) else kind.__name__
        raise UserError(
            f"is damaged: {what} of type {type(value).__name__}, and it has to be {wanted}",
            where=path,
            todo=todo or DAMAGED,
        )


def check_content(content: Mapping[Any, Any], path: str | Path) -> None:
    """Raise where a checkpoint's content is not what `models.save` writes.

    Raises:
        UserError: naming the part.
    """
    check_parts(content, PARTS, "it", path)
    for name in content["names"]:
        need_type(name, str, "it has a class name", path)
    need_state(content["state"], "its 'state'", path)
    for name in ("lineage", "meta", "extra"):
        if values_in(content[name]) > MOST_VALUES:
            raise UserError(f"is damaged: its {name!r} has no end", where=path, todo=DAMAGED)
    for entry in content["lineage"]:
        need_type(entry, dict, "its lineage has an entry", path)
        check_parts(entry, ENTRY, "an entry of its lineage", path)
        for layer, row in entry["layers"].items():
            need_type(layer, str, "its lineage has a layer", path)
            need_type(row, dict, "its lineage has a row", path)
            check_parts(row, {"layer": (int, str), "kept": list}, "a row of its lineage", path)
            if not all(type(channel) is int and channel >= 0 for channel in row["kept"]):
                raise UserError(f"is damaged: its lineage of layer {layer} has a channel that is none", where=path)
    for name, kind in META.items():
        if content["meta"].get(name) is not None:
            need_type(content["meta"][name], kind, f"its 'meta' has {name!r}", path)
    if teacher := content["meta"].get("teacher"):
        check_parts(teacher, {"source": str, "sha256": str}, "its 'teacher'", path)
    ends = content["meta"].get(PIXEL_RANGE) or [0, 1]
    for end in ends:
        need_type(end, (int, float), f"its 'meta' has {PIXEL_RANGE!r}, which holds a value", path)
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise UserError(f"is damaged: its 'meta' has {PIXEL_RANGE!r}, which is no range", where=path, todo=DAMAGED)


def values_in(value: Any) -> float:
    """How many values whoever goes through nested dicts, lists and tuples meets; without end where one is in itself.

    One that stands in several places counts in each, and is looked at once: sixty lists, each twice in the next, are
    10^18 values.
    """
    counts: dict[int, float] = {}
    begun: set[int] = set()
    waiting = [(value, False)]
    while waiting:
        each, seen = waiting.pop()
        parts = [*each, *each.values()] if isinstance(each, dict) else each
        inside = [part for part in parts if isinstance(part, (dict, list, tuple))]
        if seen:
            counts[id(each)] = 1 + len(parts) - len(inside) + sum(counts.get(id(part), math.inf) for part in inside)
        elif id(each) not in begun:
            begun.add(id(each))
            waiting += [(each, True), *((part, False) for part in inside)]
    return counts[id(value)]


def need_state(state: Any, what: str, path: str | Path) -> None:
    """Raise where something is no dict of tensors by name, as a module's state is."""
    need_type(state, dict, f"{what} is", path)
    for name, tensor in state.items():
        need_type(name, str, f"{what} has a name", path)
        need_type(tensor, Tensor, f"{what} has {name!r}", path)


def misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """In which ways tensors do not fit a network's, with their numbers and the first of each; "" where all fit."""
    said = []
    if absent := [name for name in own if name not in given]:
        said.append(f"{len(absent)} of its {len(own)} tensors are missing, the first {absent[0]}")
    if others := [name for name in given if name not in own]:
        said.append(f"{len(others)} tensors are in it that the network does not have, the first {others[0]!r}"[:300])
    unlike = [name for name in own if name in given and own[name].shape != given[name].shape]
    if unlike:
        first = unlike[0]
        shapes = f"{list(given[first].shape)}, and has to be {list(own[first].shape)}"
        said.append(f"{len(unlike)} tensors are of another shape, the first {first}: {shapes}")
    return "; ".join(said)
