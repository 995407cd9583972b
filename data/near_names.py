"""Label files whose names are nearly those of their pictures: a.TXT, a.jpg.txt, another letter case or Unicode form.

They are not read, and their pictures would train as background.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data.places import PICTURE_SUFFIXES, stem_and_suffix
from data.problems import ERROR, WARNING, Problem
from data.spec import label_places

Pair = tuple[Path, Path, bool]
"""A picture, the file that seems to have its labels, and whether nothing else can be meant."""
_Key = Callable[[str], str]


def composed(name: str) -> str:
    """One of the two forms that Unicode has for letters with accents: macOS writes the other into names of files."""
    return unicodedata.normalize("NFC", name)


def same(stem: str) -> str:
    """What names have in common that nobody would give to different pictures."""
    key = composed(unicodedata.normalize("NFKC", stem).casefold()).strip()
    while (parts := os.path.splitext(key))[1].strip() in (".txt", *PICTURE_SUFFIXES):
        key = parts[0].strip()
    return key


def alike(stem: str) -> str:
    """What names have in common that programs write otherwise: blanks, hyphens, leading zeros."""
    key = re.sub(r"[\s_\-]+|%20", "_", same(stem))
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", key)


def nearly_named(absent: Iterable[Path]) -> list[Pair]:
    """The label files that seem to belong to pictures without one; each picture and each file once at most.

    Args:
        absent: pictures for which none is found.
    """
    folders: dict[Path, list[Path]] = {}
    for picture in absent:
        folders.setdefault(picture.parent, []).append(picture)
    pairs: list[Pair] = []
    for folder, pictures in folders.items():
        taken = {f"{stem}.txt" for stem, suffix in map(stem_and_suffix, _names(folder)) if suffix in PICTURE_SUFFIXES}
        places = dict.fromkeys(place.parent for place in label_places(folder / "any.jpg"))
        files = [
            place / name
            for place in places
            for name in _names(place)
            if name not in taken and name.strip().lower().endswith(".txt") and not name.startswith(".")
        ]
        for key, certain in ((same, True), (alike, False)):
            found = _matched(pictures, files, key)
            pairs += [(picture, file, certain and _may_be_labels(file)) for picture, file in found.items()]
            pictures = [picture for picture in pictures if picture not in found]
            files = [file for file in files if file not in set(found.values())]
    return pairs


def _may_be_labels(file: Path) -> bool:
    """Whether a file is empty or begins as labels do, which notes beside pictures do not."""
    try:
        with open(file, "rb") as handle:
            lines = handle.read(4096).split(b"\n")
    except OSError:
        return True  # what cannot be read is told where it is read
    words = next((line.split() for line in lines if line.strip()), None)
    return words is None or (len(words) >= 5 and all(re.fullmatch(rb"[-+.\deE]+", word) for word in words[-4:]))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []  # what cannot be looked into is told where it is read


def _matched(pictures: Sequence[Path], files: Sequence[Path], key: _Key) -> dict[Path, Path]:
    """Pictures and the files of the same key, where there is one of each."""
    named: dict[str, tuple[list[Path], list[Path]]] = {}
    for picture in pictures:
        named.setdefault(key(picture.stem), ([], []))[0].append(picture)
    for file in files:
        if (text := key(file.name)) in named:
            named[text][1].append(file)
    return {mine[0]: theirs[0] for mine, theirs in named.values() if len(mine) == len(theirs) == 1}


def told(pairs: Sequence[Pair]) -> list[Problem]:
    """What to say of them: one line for each folder of labels."""
    problems = []
    for certain, severity, kind in (
        (True, ERROR, "labels under nearly the names of pictures, which would count as background"),
        (False, WARNING, "labels that may be those of pictures without any, which count as background"),
    ):
        folders: dict[Path, list[Pair]] = {}
        for pair in pairs:
            if pair[2] == certain:
                folders.setdefault(pair[1].parent, []).append(pair)
        for group in folders.values():
            picture, file, _ = group[0]
            detail = f"{len(group)} picture{'s' if len(group) > 1 else ''}; "
            detail += f"the labels of {picture.name} seem to be in {file.name!r}"
            if composed(file.name) == composed(f"{picture.stem}.txt"):
                detail += ", the same letters in another form of Unicode"
            problems.append(Problem(severity, kind, file, None, detail, what_to_do(group)))
    return problems


def what_to_do(pairs: Sequence[Pair]) -> str:
    """How to rename the files of `pairs`; "" where there are none."""
    if not pairs:
        return ""
    picture, file, certain = pairs[0]
    rename = f"mv {shlex.quote(str(file))} {shlex.quote(str(file.with_name(f'{picture.stem}.txt')))}"
    text = f"rename them, in a copy of the labels: {rename}{', and the others alike' if len(pairs) > 1 else ''}"
    return text if certain else f"look whether they are; if so, {text}"
