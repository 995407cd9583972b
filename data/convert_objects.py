"""What an annotation file says of a picture, whatever its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

AS_WRITTEN = "--as-written"
"""The option that takes numbers for what their format says."""
LARGE = 1e9
"""No number of a box, in whatever unit, is as large as this."""


@dataclass(frozen=True)
class Corners:
    """One object as annotated.

    Attributes:
        name: its class.
        left, top, right, bottom: in pixels of the picture.
        line: where in the annotation file, if the format has lines.
        what: what the object is called in a message where it has no line: "annotation 17".
        form: what its numbers are meant to be, a key of `data.convert_form.FORMATS`; "": known, and not looked at.
    """

    name: str
    left: float
    top: float
    right: float
    bottom: float
    line: int | None = None
    what: str = ""
    form: str = ""

    @property
    def sides(self) -> tuple[float, float, float, float]:
        return self.left, self.top, self.right, self.bottom

    @property
    def plausible(self) -> bool:
        """Whether its numbers can tell anything."""
        return all(abs(side) < LARGE for side in self.sides)


@dataclass
class Annotated:
    """A picture and its objects.

    Attributes:
        picture: the file.
        split: "train", "val" or "test".
        annotation: the file its objects come from.
        objects: in the order of that file.
        size: (height, width) the annotation gives, or None.
        size_line: where in the annotation file, if the format has lines.
        lost: objects of it that were not understood, and named.
    """

    picture: Path
    split: str
    annotation: Path
    objects: list[Corners] = field(default_factory=list)
    size: tuple[int, int] | None = None
    size_line: int | None = None
    lost: int = 0


def sources(items: Sequence[Annotated]) -> list[Path]:
    """Whence each comes: its annotation file, or, where each picture has its own, the folder of them."""
    owners = Counter(item.annotation for item in items)
    return [item.annotation if owners[item.annotation] > 1 else item.annotation.parent for item in items]
