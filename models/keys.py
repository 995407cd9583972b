"""What the convolutions of a network are called: by a key, as lineages and reports have them, or as modules."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Names a convolution: its layer's number, or for one inside a [timm] section "number.its name there".
ConvKey = int | str

_IN_LAYER = re.compile(r"layers\.(\d+)\.")


def conv_key(name: str) -> ConvKey:
    """What a lineage calls the convolution of this module name: "layers.12.conv" -> 12."""
    parts = name.split(".")
    assert parts[0] == "layers", name
    return int(parts[1]) if parts[2:] == ["conv"] else ".".join(parts[1:])


def module_name(key: ConvKey) -> str:
    """The inverse of `conv_key`."""
    return f"layers.{key}.conv" if isinstance(key, int) else f"layers.{key}"


def layer_of(key: ConvKey) -> int:
    """The layer a convolution is in, by its key; as text too, as lineages have it: 12, "12", "12.model.conv1" -> 12."""
    return int(str(key).split(".")[0])


def layer_of_module(name: str) -> int | None:
    """The layer a module or tensor belongs to, by its name: "layers.12.conv.weight" -> 12; None: it is in none."""
    found = _IN_LAYER.match(name)
    return int(found[1]) if found else None


def moved_key(key: ConvKey, moved: Mapping[int, int]) -> ConvKey:
    """What a convolution was called when its layer had the number ``moved[layer]``."""
    if isinstance(key, int):
        return moved[key]
    layer, inside = key.split(".", 1)
    return f"{moved[int(layer)]}.{inside}"
