"""Lists of pictures, one file a split, as VOC's ImageSets/Main has them."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.reading import exists, lines_of, read_text
from data.convert_pictures import Folders, contradict, folders_and_name, nearness_of
from data.near_names import composed
from data.problems import WARNING, Problem
from data.spec import PICTURE_SUFFIXES, SPLITS


class SplitLists:
    """``train.txt``, ``val.txt`` and ``test.txt`` of a folder: a picture's name a line.

    A name may have folders (``cam1/0``), where they tell pictures of one name apart, a suffix, and a 1, 0 or -1 behind
    it, as in VOC's lists of one class.

    Attributes:
        problems: what is to be said of the lists.
    """

    def __init__(self, folder: Path, names: Collection[str]):
        """Read the lists.

        Args:
            folder: where they are.
            names: the annotations' own, without folders and suffix: they show where a name in a list ends.

        Raises:
            UserError: no list, none with a name in it, or one that cannot be read.
        """
        self.problems: list[Problem] = []
        names = {composed(name) for name in names}
        self._listed: dict[str, dict[Folders, str]] = {}
        self._unasked: dict[tuple[str, Folders], tuple[Path, int]] = {}
        for split in SPLITS:
            path = folder / f"{split}.txt"
            if not exists(path):
                continue
            for number, line in enumerate(lines_of(read_text(path)), 1):
                if not line.strip():
                    continue
                folders, name = folders_and_name(_named(line.strip(), names))
                others = self._listed.setdefault(name, {})
                self._unasked.setdefault((name, folders), (path, number))
                if others.setdefault(folders, split) != split:
                    detail = f"{'/'.join((*folders, name))} stays in {others[folders]}"
                    self.problems.append(Problem(WARNING, "picture in two splits", path, number, detail))
        if not self._listed:
            raise UserError(
                "has no train.txt, val.txt or test.txt with names in it",
                where=folder,
                todo="give --splits the folder ImageSets/Main",
            )

    def split_of(self, name: str) -> str | None:
        """The split of the picture called `name`, folders included, or None; the best agreeing folders decide."""
        own, last = folders_and_name(name)
        agreeing = {named: split for named, split in self._listed.get(last, {}).items() if not contradict(named, own)}
        if not agreeing:
            return None
        best = max(agreeing, key=lambda named: nearness_of(named, own))
        self._unasked.pop((last, best), None)
        return agreeing[best]

    def without_annotation(self) -> list[Problem]:
        """The names that `split_of` was never asked for."""
        return [
            Problem(WARNING, "name in a split's list without annotation", path, number, "/".join((*folders, name)))
            for (name, folders), (path, number) in self._unasked.items()
        ]


def _named(line: str, names: Collection[str]) -> str:
    """The name in a line of a list, without what stands behind it."""
    for name in (line, re.sub(r"\s+[-+]?[01]$", "", line)):
        stem, _, suffix = name.rpartition(".")
        known = folders_and_name(name)[1] in names
        if not known and f".{suffix.lower()}" in PICTURE_SUFFIXES:
            name, known = stem, folders_and_name(stem)[1] in names
        if known:
            return name
    return line
