"""Names in figures: drawn as they are written, in a font that has their letters where one is installed."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN = "DejaVu Sans"
"""The font that comes with matplotlib: Latin, Greek, Cyrillic, Arabic and Hebrew letters."""
_ENOUGH = 0.5
"""Of a name's letters: with fewer left it is told by its number."""


@contextmanager
def letter_by_letter(figure: Figure) -> Iterator[None]:
    """Within it, `figure` is drawn with texts as they are: ``$x$`` is no formula, and no letter is worth a warning."""
    import matplotlib
    from matplotlib.text import Text

    texts: list[Text] = figure.findobj(Text)
    families = fonts_for("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_text(_sound(text.get_text()))
        text.set_parse_math(False)
        text.set_usetex(False)
        text.set_fontfamily(families)
    # Labels of ticks that are made while it is drawn follow the settings.
    settings = {"text.parse_math": False, "text.usetex": False, "font.family": families}
    with matplotlib.rc_context(settings), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", "Glyph ")
        warnings.filterwarnings("ignore", "Matplotlib currently does not support")
        yield


def drawable(names: Iterable[str]) -> list[str]:
    """The names of classes as a figure shows them: those that no installed font has the letters of by their numbers."""
    shown = [_sound(name) for name in names]
    known = _letters(OWN).union(*(_letters(each) for each in fonts_for("".join(shown))))
    found = []
    for number, name in enumerate(shown):
        if any(ord(letter) not in known for letter in name):
            name = f"class {number}"
        # Matplotlib keeps a label that begins so out of its legends.
        found.append(f"\u200b{name}" if name.startswith("_") else name)
    return found


def in_ascii(name: str, number: int) -> str:
    """A class's name in the letters that OpenCV draws: without accents; of other scripts its number."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return plain if len(plain) > _ENOUGH * len(name) or plain == name else f"class {number}"


def fonts_for(text: str) -> list[str]:
    """The families to draw `text` in: matplotlib's own, then installed ones that have what the ones before lack."""
    return [OWN, *_further("".join(sorted(set(_sound(text)))))]


def _sound(text: str) -> str:
    """Without halves of letters, as undecodable bytes of a file's name come."""
    return text.encode(errors="replace").decode()


@cache
def _further(letters: str) -> list[str]:
    lacking = {ord(letter) for letter in letters if not letter.isspace()} - _letters(OWN)
    found = []
    for family in _installed():
        if not lacking:
            break
        if here := lacking & _letters(family):
            found.append(family)
            lacking -= here
    return found


@cache
def _installed() -> Mapping[str, str]:
    """Family -> file of the upright fonts of usual weight and width, those for many languages first: one that has all
    looks better than five."""
    from matplotlib.font_manager import fontManager

    usual = {
        each.name: each.fname
        for each in fontManager.ttflist
        if (each.style, each.stretch) == ("normal", "normal") and each.weight in (400, "normal", "regular")
    }
    wide = ("CJK", "Noto Sans", "Hei", "Gothic", "YaHei", "Unicode", "Fallback", "Sans")
    rank = {name: next((place for place, word in enumerate(wide) if word in name), len(wide)) for name in usual}
    order = sorted(usual, key=lambda name: (rank[name], name))
    return {name: usual[name] for name in order if "Last Resort" not in name}  # which has boxes for all letters


@cache
def _letters(family: str) -> frozenset[int]:
    """The code points that a family has; none where its file cannot be read, or holds coloured pictures."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(_installed()[family]).get_charmap())
    except (KeyError, OSError, RuntimeError, ValueError):
        return frozenset()
