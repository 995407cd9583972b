"""The text of the usual layout: label files and ``data.yaml``, as the built-in set and the converters write them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import yaml

Box = tuple[int, float, float, float, float]
"""class, cx, cy, w, h in pixels of the picture."""


def label_text(boxes: Iterable[Box], width: int, height: int) -> str:
    """One line a box: class, cx, cy, w, h as shares of a picture of `width` x `height` pixels, six decimals."""
    rows = ((label, cx / width, cy / height, w / width, h / height) for label, cx, cy, w, h in boxes)
    return "".join("{} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(*row) for row in rows)


def data_yaml(splits: Mapping[str, str], names: Sequence[str], comment: str = "") -> str:
    """The text of a ``data.yaml`` whose folders are given relative to it."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    return head + yaml.safe_dump({**splits, "names": dict(enumerate(names))}, sort_keys=False, allow_unicode=True)
