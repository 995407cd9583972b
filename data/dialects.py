"""Label lines that are no ``class cx cy w h``: what other programs write, recognised and told with what to do.

Nothing is guessed from one line where many are there: lines of the same make are looked at together, with the sizes of
their pictures. What they look like is said of all of them, and only where (almost) all of them make sense in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.mixtures import box_and_more, of_two_units
from data.templates import ALMOST_ALL, CENTRE, SHARES, guesses, phrase, recipe

Make = tuple[str, ...]
"""What lines have in common: the marks between and around their words, and the kinds of the words."""
SHOWN = 60
"""Characters of a line that a message shows."""
MOST = 20_000
"""Lines that are looked at."""
EXACT = 10
"""Lines of more numbers than this are told apart by odd and even only."""
FEW = 3
"""Fewer lines than this show little of what all are."""
LARGE = 1e9
"""No number of a label, in whatever unit, is as large as this."""
NEAR = 0.1
"""Numbers that are larger than 1 by more than this are no shares, however badly the outline is drawn."""
FORM = "class cx cy w h"
COPY = "in a copy of the labels"


@dataclass(frozen=True)
class Wrong:
    """A line that cannot be read as it is.

    Attributes:
        file: its label file.
        text: the line.
        size: (width, height) of its picture in pixels; nan where it is not known.
    """

    file: Path
    text: str
    size: tuple[float, float]


@dataclass(frozen=True)
class Dialect:
    """What lines of one make are, and what to do about them."""

    kind: str
    todo: str


def shown(text: str) -> str:
    """The beginning of a line, for a message."""
    readable = "".join(letter for letter in text if letter.isprintable() and letter != "\ufffd")
    return repr(readable[:SHOWN] + ("..." if len(readable) > SHOWN else ""))


def as_number(text: str) -> float:
    """The number a word is, as label files write it; Python would also read 1_0 as 10.

    Raises:
        ValueError: it is none.
    """
    if "_" in text:
        raise ValueError
    return float(text)


def _is_number(word: str) -> bool:
    try:
        as_number(word)
    except ValueError:
        return False
    return True


BEGINNINGS = (
    ("Git LFS", ("version https://git-lfs", "oid sha256:")),
    ("HTML", ("<!doctype html", "<html")),
    ("XML", ("<",)),
)
"""Marks of whole files, and what their lines begin with."""


def words_of(text: str) -> tuple[list[str], list[str]]:
    """The marks of a line (commas, quotes, ...) and its words without them."""
    marks = []
    if text.count("\0") > 3 and "\0" not in text.strip(
        "\0"
    ):  # up to three are what UTF-16 and 32 leave of a line's end
        return ["zeros"], []
    if "\0" in text:
        return ["UTF-16" if 4 * text.count("\0") >= len(text) else "bytes"], []
    if "\ufffd" in text:
        return ["not UTF-8"], []
    if re.match(r"\s*[\d.+\-eE\s]+\s(#|//)", text):
        return ["comment behind"], []
    start = text.lstrip("\ufeff")[:40].lower()
    for mark, begins in (("DOTA header", ("imagesource:", "gsd:")), ("comment", ("#", "//")), *BEGINNINGS):
        if start.startswith(begins):
            return [mark], []
    if start.startswith("{") or re.match(r'["\'][\w ]+["\']\s*:|\[?\s*\{|\[$|[\]}],?$', start):
        return ["JSON"], []
    for mark, letters in (("quotes", "\"'`\u201c\u201d"), ("brackets", "()[]{}")):
        if any(letter in text for letter in letters):
            marks.append(mark)
            text = "".join(" " if letter in letters else letter for letter in text)
    for mark, letter in (("semicolons", ";"), ("bars", "|")):
        if letter in text:
            marks.append(mark)
            text = text.replace(letter, " ")
    if "," in text:
        decimal = _decimal_commas(text.split())
        marks.append("decimal commas" if decimal else "commas")
        text = text.replace(",", "." if decimal else " ")
    if "%" in text:
        marks.append("per cent signs")
        text = re.sub(r"(\S+?)\s?%", lambda match: _hundredth(match[1]), text)
    for mark, letter in (("colons", ":"), ("equals signs", "=")):
        if letter in text:
            marks.append(mark)
            text = text.replace(letter, " ")
    return marks, text.split()


def _hundredth(word: str) -> str:
    return f"{as_number(word) / 100:.6g}" if _is_number(word) else word


def _decimal_commas(words: Sequence[str]) -> bool:
    """Whether commas stand where points should: ``0 0,5 0,5 0,25 0,1``, unlike ``0 10,20 30,40``."""
    found = [word for word in words if "," in word]
    if len(words) < 4 or not all(re.fullmatch(r"-?\d*,\d+", word) for word in found):
        return False
    whole = {word for word in words if "," not in word}
    return len(found) >= 3 and max(abs(float(word.replace(",", "."))) for word in found) <= 100 and len(whole) <= 2


def make_of(text: str) -> Make:
    """What tells a line from those that another program, or another part of it, writes."""
    marks, words = words_of(text)
    kinds = "".join("n" if _is_number(word) else "w" for word in words)
    kinds = re.sub("w+", "w", kinds)
    if len(kinds) > EXACT and set(kinds) == {"n"}:
        kinds = "n, even" if len(kinds) % 2 == 0 else "n, odd"
    return (*marks, f"/{kinds}")


def recognised(lines: Sequence[Wrong], names: Sequence[str], total: int) -> dict[Make, Dialect]:
    """What the wrong lines of a split are, by their make; nothing for makes that are not known.

    Args:
        lines: those that cannot be read.
        names: the classes of the data set.
        total: how many lines there are, with those that can be read.
    """
    groups: dict[Make, list[Wrong]] = {}
    for line in lines[:MOST]:
        groups.setdefault(make_of(line.text), []).append(line)
    found: dict[Make, Dialect] = {}
    for make, group in groups.items():
        enough = (
            len(group) >= FEW or 2 * len(group) >= total
        )  # one broken line among good ones has no columns of its own
        if dialect := _dialect(make, group, names, enough):
            found[make] = dialect
    return found


DOTA = (
    "write class cx cy w h: the number of the class, then the upright box around the four points, x divided by the "
    "picture's width and y by its height"
)
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
WHOLE = {
    "UTF-16": ("text in UTF-16 or UTF-32", "save it as UTF-8: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
    "DOTA header": (
        "a header line of DOTA's labels (x1 y1 x2 y2 x3 y3 x4 y4 name difficult)",
        "delete such lines: in a copy of the labels: sed -i '/^[a-z]*:/d' {files}",
    ),
    "comment": ("a comment", "delete such lines: label files have none: {sed} '/^[#/]/d' {files}"),
    "comment behind": (
        "a comment behind the numbers",
        "take it away: label files have none: {sed} 's|[#/].*||' {files}",
    ),
    "Git LFS": ("a pointer of Git LFS, not the file itself", "fetch the files: git lfs pull"),
    "HTML": ("a web page", "download the labels again: this is what a server said instead"),
    "zeros": (
        "zero bytes at the end: the file was cut off while it was written, or is damaged",
        "write it again, or take them away: {sed} 's/\\x00//g' {files}",
    ),
    "bytes": ("bytes that are no text", "replace the file, or delete it"),
    "not UTF-8": ("text in another encoding than UTF-8", "save it as UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW"),
    "XML": ("XML", "convert it: thinyolo convert voc --help"),
    "JSON": ("JSON", "convert it, if it is COCO's: thinyolo convert coco --help; else export as YOLO"),
}
"""Lines of which one look tells all."""
SED = {
    "quotes": ("""words in quotes""", """s/["'`]//g"""),
    "brackets": ("numbers in brackets", "s/[][(){}]/ /g"),
    "semicolons": ("semicolons between the numbers", "s/;/ /g"),
    "bars": ("bars between the numbers", "s/|/ /g"),
    "commas": ("commas between the numbers", "s/,/ /g"),
    "decimal commas": ("commas instead of decimal points", "s/,/./g"),
    "per cent signs": ("numbers with per cent signs", "s/%//g"),
    "colons": ("colons between the numbers", "s/:/ /g"),
    "equals signs": ("key=value pairs", "s/=/ /g"),
}
"""Marks that other programs write, and what sed makes spaces of."""


def _dialect(make: Make, lines: Sequence[Wrong], names: Sequence[str], enough: bool) -> Dialect | None:
    """What lines of one make are; None: not known. Of columns nothing is said where there are not `enough` lines."""
    files = f"{lines[0].file.parent}/*.txt"
    marks, kinds = make[:-1], make[-1][1:]
    if marks and marks[0] in WHOLE:
        text, what = WHOLE[marks[0]]
        return _told([text], [what.replace("{sed}", f"{COPY}: sed -i").replace("{files}", files)], lines)
    told = [SED[mark][0] for mark in marks]
    scripts = [SED[mark][1] for mark in reversed(marks) if SED[mark][1]]
    todo = [f'{COPY}: sed -i "{"; ".join(scripts)}" {files}'.replace("`", "")] if scripts else []
    rows = [words_of(line.text)[1] for line in lines]
    if "n" not in kinds or (kinds.count("w") > 1 and kinds.count("n") < 4):
        first = all(row and not any(letter.isdigit() for letter in row[0]) for row in rows)
        plain = _for_sed(lines[0].text[:SHOWN])
        what = f"delete such lines, if they are headers: {COPY}: sed -i '/^{plain}/d' {files}"
        return _told(["a line of words, such as a header"], [what], lines) if first else None
    if kinds == "n" and not marks and rows and all(row[0].isdigit() for row in rows):
        text = "a count of the objects: one whole number alone"
        return _told([text], [f"delete such lines: {COPY}: sed -i '1{{/^[0-9]*$/d}}' {files}"], lines)
    if "per cent signs" in marks:
        todo.append("divide what had them by 100")
    known = any(not _is_number(word) and word in names for row in rows for word in row)
    columns = _columns(kinds, rows, lines, names, files) if enough or known else None
    if columns is not None:
        told += [text for text in columns[0] if text]
        todo += [text for text in columns[1] if text]
    return _told(told, todo, lines) if told else None


def _told(told: Sequence[str], todo: Sequence[str], lines: Sequence[Wrong]) -> Dialect:
    few = f" ({len(lines)} such line{'s' if len(lines) > 1 else ''} to go by)" if len(lines) < FEW else ""
    return Dialect(f"is not `{FORM}`; looks like {' and '.join(told)}{few}", "; then ".join(todo) or f"write {FORM}")


_Parts = tuple[list[str], list[str]]


def _columns(
    kinds: str, rows: list[list[str]], lines: Sequence[Wrong], names: Sequence[str], files: str
) -> _Parts | None:
    """What the words of the lines are, and what to do about it; None: not known."""
    named = "first" if re.fullmatch("wn+", kinds) else "last" if re.fullmatch("n+w", kinds) else ""
    if re.fullmatch("n{8}wn?", kinds):
        return ["DOTA's x1 y1 x2 y2 x3 y3 x4 y4 name difficult"], [DOTA]
    if re.fullmatch("wn{14,15}", kinds):
        text = "write class cx cy w h: left, top, right and bottom are the numbers 5 to 8, in pixels"
        return ["KITTI's name, truncated, occluded, angle and a box in pixels"], [text]
    if "w" in kinds and not named:
        return None
    table = [[as_number(word) for word in row if _is_number(word)] for row in rows]
    sizes = np.array([line.size for line in lines], float).reshape(-1, 2)
    finite = [place for place, row in enumerate(table) if all(abs(value) < LARGE for value in row)]
    table, sizes = [table[place] for place in finite], sizes[finite]
    if not table:
        return None
    told, todo = [], []
    if named == "first" and all(row[0].lower().endswith(PICTURES) for row in rows):
        named = ""
        told.append("the name of a picture in each line")
        todo.append(f"take it away: {COPY}: sed -i 's/^[^ ,;]*[ ,;]*//' {files}")
    elif named:
        told.append("class names in place of numbers")
        todo.append(_numbers_for(rows, named, names, files))
    classes = None if named else len(names)
    if len({len(row) for row in table}) == 1:
        if len(table[0]) == (4 if named else 5) and (mixed := of_two_units(np.array(table)[:, -4:])):
            return [*told, mixed[0]], [*todo, mixed[1]]
        found = guesses(np.array(table), sizes, classes)
        usual = bool(found) and found[0].box == CENTRE and found[0].unit == SHARES
        if not usual and (more := box_and_more(table, sizes, classes)):
            return [*told, more[0]], [*todo, more[1]]
        if found:
            plain = usual and found[0].layout == ("B" if named else "cB")
            if not plain or len(found) > 1:
                told.append(phrase(found, named))
                todo.append("" if named and plain else recipe(found, bool(named)))
            return told, todo
    # Brackets around brackets are several objects.
    outline = None
    if not any("[[" in line.text for line in lines):
        outline = box_and_more(table, sizes, classes) or _outline(table, sizes, bool(named))
    if outline is not None:
        told.append(outline[0])
        todo.append(outline[1])
    return (told, todo) if told else None


def _for_sed(text: str) -> str:
    """Text as a pattern of sed that means it, between slashes and single quotes."""
    return re.sub(r"([\\.\[\]*^$/])", r"\\\1", text).replace("'", ".")


def _numbers_for(rows: Sequence[Sequence[str]], named: str, names: Sequence[str], files: str) -> str:
    """How to write numbers for the names in the lines."""
    said: list[str] = []
    for row in rows:
        words = [word for word in row if not _is_number(word)]
        name = " ".join(words)[:SHOWN]
        if name not in said and len(said) < 50:
            said.append(name)
    known = [name for name in said if name in names]
    if not known:
        listed = ", ".join(map(repr, said[:3]))
        return f"write the number of the class; the names in the data set's file have no {listed}"
    name = known[0]
    plain, number = _for_sed(name), names.index(name)
    script = f"s/^{plain} /{number} /" if named == "first" else f"s/^\\(.*\\) {plain}$/{number} \\1/"
    text = f"write the number of the class: {', '.join(f'{name!r} is {names.index(name)}' for name in known[:5])}"
    text += f"; {COPY}, for each class: sed -i '{script}' {files}"
    missing = [name for name in said if name not in names]
    return text + (f" ({', '.join(map(repr, missing[:3]))} not among the names)" if missing else "")


def _outline(table: Sequence[Sequence[float]], sizes: np.ndarray, classless: bool) -> tuple[str, str] | None:
    """Whether the numbers are the points of outlines, with something more or less than ``class x y x y ...``."""
    whole = [[value == int(value) for value in row] for row in table]
    first, last = (float(np.mean([row[place] for row in whole])) >= ALMOST_ALL for place in (0, -1))
    even = all(len(row) % 2 == 0 for row in table)
    odd = all(len(row) % 2 == 1 for row in table)
    if min(map(len, table)) < 6:
        return None
    shares = float(np.median([max(row[1 if first else 0 :]) for row in table])) <= 1 + NEAR
    unit = "" if shares else " in pixels"
    limits = np.ones_like(sizes) if shares else np.where(np.isfinite(sizes), sizes, np.inf)
    divide = "" if shares else "divide x by the picture's width, y by its height"
    if (even and not first) or (even and classless) or (even and not shares):
        if _points_fit(table, limits, slice(0, None)):
            todo = "write class x y x y ...: the number of the class before the points"
            return f"outlines without a class{unit}", "; ".join(filter(None, [todo, divide]))
        return None
    if odd and not first and last and _points_fit(table, limits, slice(0, -1)):
        todo = (
            'write class x y x y ...: awk \'{printf $NF; for (i = 1; i < NF; i++) printf " " $i; print ""}\' OLD > NEW'
        )
        return f"outlines with the class at the end{unit}", "; ".join(filter(None, [todo, divide]))
    if odd and first and not shares and not classless and _points_fit(table, limits, slice(1, None)):
        return "outlines in pixels", f"write class x y x y ...: {divide}"
    if even and first and not classless and _points_fit(table, limits, slice(1, -1)):
        todo = "leave out the last number of each line: awk '{$NF = \"\"; print}' OLD > NEW"
        return "outlines with one number more, such as a confidence", todo
    return None


def _points_fit(table: Sequence[Sequence[float]], limits: np.ndarray, part: slice) -> bool:
    """Whether almost all points lie in the picture; of numbers that may be a class as well, not only zeros."""
    inside = []
    for row, limit in zip(table, limits, strict=True):
        values = np.array(row[part])
        values = values[: len(values) // 2 * 2].reshape(-1, 2)
        inside.append(bool(((values >= -NEAR * limit) & (values <= (1 + NEAR) * limit)).all()))
    return float(np.mean(inside)) >= ALMOST_ALL
