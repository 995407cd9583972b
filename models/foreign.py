"""What readers of other programs' checkpoints share: the tree of `Record`s, and tensors from it into our layers.

A record's attributes are whatever its author wrote: each is checked before it is used or shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import BN_EPS, Conv
from models.unpickle import Record

IMAGE_SIZES = range(32, 4097)
"""Pixels of a side that are believed."""


class Mismatch(Exception):
    """The file is not what its reader can take; the text says what it has."""


def network_record(content: Any) -> Record:
    """The network inside a checkpoint: its `ema` if it has one, else its `model`."""
    if isinstance(content, dict):
        content = next((content[key] for key in ("ema", "model") if content.get(key) is not None), None)
    if isinstance(content, Record) and "model" in parts(content):
        return content
    raise Mismatch("holds no network under 'ema' or 'model'")


def parts(record: Record) -> dict[str, Record]:
    """The modules inside a module, by name."""
    found = record.state.get("_modules")
    return {str(name): part for name, part in found.items() if isinstance(part, Record)} if type(found) is dict else {}


def part(record: Record, name: str, of: str) -> Record:
    """One of them; `of` is the record's own name."""
    found = parts(record).get(name)
    if found is None:
        raise Mismatch(f"its module {of} ({record.path}) has no part '{name}'")
    return found


def tensor(record: Record, name: str, of: str) -> Tensor:
    """A parameter or buffer of a module."""
    for store in (record.state.get("_parameters"), record.state.get("_buffers")):
        if type(store) is dict and isinstance(store.get(name), Tensor):
            return store[name]
    raise Mismatch(f"its module {of} ({record.path}) has no tensor '{name}'")


def shown(value: Any) -> str:
    """A short value as text, of anything else its type: nested data can be far larger as text than in the file."""
    if type(value) in (list, tuple) and len(value) <= 9:
        return f"[{', '.join(shown(item) if type(item) is int else '?' for item in value)}]"
    plain = isinstance(value, (str, bool, float, type(None))) or (type(value) is int and abs(value) < 1 << 62)
    return str(value)[:80] if plain else type(value).__name__


def told_size(args: Any) -> tuple[int, int] | None:
    """(H, W) of the input that the options of a training say (`imgsz`), in multiples of 32; None where they do not."""
    size: Any = args.get("imgsz") if type(args) is dict else None
    sizes: list[Any] = list(size) if type(size) in (list, tuple) else [size, size]
    if len(sizes) != 2 or not all(type(length) is int and length in IMAGE_SIZES for length in sizes):
        return None
    height, width = (-(-length // 32) * 32 for length in sizes)
    return height, width


def class_names(model: Record, classes: int) -> list[str]:
    """The names of its classes, a list or a dict by number there."""
    names = model.state.get("names")
    if type(names) is dict:
        names = [names.get(number) for number in range(len(names))]
    if type(names) is not list or len(names) != classes or not all(type(name) in (str, int) for name in names):
        count = len(names) if isinstance(names, list) else 0
        raise Mismatch(f"has {count} readable class names for {classes} classes")
    return [str(name) for name in names]


@dataclass(frozen=True)
class Source:
    """A convolution of the file.

    Attributes:
        name: its name there.
        conv, bn: the record of the convolution and of its BatchNorm; None: it has a bias.
        rows: which of its output channels, in this order; None: all.
    """

    name: str
    conv: Record
    bn: Record | None
    rows: Tensor | None = None

    def compare(self, layer: Conv) -> None:
        """Raise where the weights do not have the shape of the layer's."""
        self._value(self.conv, "weight", self.name, layer.conv.weight)

    def fill(self, layer: Conv) -> None:
        """Copy its tensors into `layer`, in FP32.

        The BatchNorm's eps is larger there than ours; the difference is added to `running_var`, so outputs stay.
        """
        self._copy(self.conv, "weight", self.name, layer.conv.weight)
        if self.bn is None:
            assert layer.conv.bias is not None
            self._copy(self.conv, "bias", self.name, layer.conv.bias)
            return
        bn = layer.bn
        assert isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        for name, target in (
            ("weight", bn.weight),
            ("bias", bn.bias),
            ("running_mean", bn.running_mean),
            ("running_var", bn.running_var),
        ):
            self._copy(self.bn, name, f"{self.name}.bn", target)
        eps = self.bn.state.get("eps")
        if type(eps) is not float or not BN_EPS <= eps < 1:
            raise Mismatch(
                f"its {self.name}.bn has eps={shown(eps)}; ours is {BN_EPS}, and only a larger one can be "
                "moved into the variance"
            )
        bn.running_var += eps - BN_EPS

    def _copy(self, record: Record, name: str, of: str, target: Tensor) -> None:
        value = self._value(record, name, of, target)
        if not torch.isfinite(value).all():
            raise Mismatch(f"its {of}.{name} has values that are not finite")
        with torch.no_grad():
            target.copy_(value)

    def _value(self, record: Record, name: str, of: str, target: Tensor) -> Tensor:
        value = tensor(record, name, of)
        if self.rows is not None and value.shape[:1].numel() > int(self.rows.max()):
            value = value[self.rows]
        if value.shape != target.shape:
            raise Mismatch(
                f"its {of}.{name} has the shape {list(value.shape)}; the cfg's layer has {list(target.shape)}"
            )
        return value
