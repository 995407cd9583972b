"""Where the pictures are that a person or a tool named: folders, list files, single pictures.

Paths come as tools export them: with ``../`` before a folder that lies beside the file, with backslashes, from another
working directory.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from common.errors import UserError
from common.log import say_once
from common.reading import exists, is_folder, lines_of, read_text, user_path, why_no_file

PICTURE_SUFFIXES = frozenset(
    [".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"]
)
UNREAD_SUFFIXES = frozenset([".avif", ".gif", ".heic", ".heif", ".jxl", ".tga", ".psd", ".dcm", ".dng", ".cr2", ".nef"])
"""Endings of pictures that are not read here; files with them are counted and told."""


class Finder:
    """Finds what an entry names, and remembers what it had to read otherwise than it is written.

    Args:
        roots: where relative entries start; the first that has the entry.
        beside: the folder of the file with the entries, where ``../NAME`` may stand for NAME.
        prefer_beside: NAME there wins over what ``../NAME`` names as it is written, unless `find` is given its roots.
    """

    def __init__(self, roots: Sequence[Path], beside: Path | None = None, prefer_beside: bool = False):
        self.roots, self.beside, self.prefer_beside = list(roots), beside, prefer_beside
        self.read_as: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def find(self, entry: str, roots: Sequence[Path] | None = None) -> Path | None:
        """The file or folder; None: there is no such thing.

        Raises:
            UserError: the entry cannot be a path.
        """
        roots = self.roots if roots is None else roots
        found = _first(entry, roots)
        if found is None and "\\" in entry:
            slashed = entry.replace("\\", "/")
            if (found := self.find(slashed, roots)) is not None:
                return self._say("backslashes are read as /", entry, found)
        inner = _without_ups(entry)
        preferred = self.prefer_beside and roots is self.roots
        if inner and self.beside is not None and (found is None or preferred):
            other = _first(inner, [self.beside] if preferred else [self.beside, *roots])
            if other is not None and other != found:
                instead = f", and not {found}, which exists too" if found else ""
                return self._say(f"what lies beside the file is taken for ../{instead}", entry, other)
        return found

    def _say(self, how: str, entry: str, found: Path) -> Path:
        self.read_as[how] += 1
        self._example.setdefault(how, f"{entry!r} is {found}")
        return found

    def announce(self, source: Path) -> None:
        """Log what was read otherwise than it is written."""
        for how, count in self.read_as.items():
            say_once(
                logging.WARNING,
                "%s: %s (%s%s)",
                source,
                how,
                self._example[how],
                f"; {count} times" if count > 1 else "",
            )


def _without_ups(entry: str) -> str:
    """`entry` without the ``../`` it begins with; "" where it begins with none."""
    inner, ups = entry, False
    while inner.startswith(("../", "./")):
        ups |= inner.startswith("../")
        inner = inner.split("/", 1)[1].lstrip("/")
    return inner if ups else ""


def _first(entry: str, roots: Iterable[Path]) -> Path | None:
    path = user_path(entry)
    for candidate in [path] if path.is_absolute() else [root / path for root in roots]:
        if exists(candidate):
            return Path(os.path.normpath(candidate))
    return None


def find_entry(entry: str, roots: Iterable[Path]) -> Path | None:
    """The file or folder that `entry` names, relative to the first of `roots` that has it; None: no such thing."""
    return Finder(list(roots)).find(entry)


def pictures_at(place: Path, roots: Sequence[Path], finder: Finder | None = None) -> list[Path]:
    """The pictures that `place` stands for: a folder's, searched below, those a list file names, or itself.

    Args:
        roots: where the relative lines of a list may start, before the list's own folder.
        finder: of whoever wants to know how the lines had to be read.
    """
    if is_folder(place):
        return pictures_under(place)[0]
    if place.suffix.lower() in PICTURE_SUFFIXES:
        return [place]
    return _pictures_listed(place, finder or Finder(roots))


def pictures_under(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder and of those below it, and the links that lead back to a folder above themselves.

    Links are followed, but no folder is entered twice.
    """
    pictures: list[Path] = []
    loops: list[Path] = []
    entered: set[str] = set()
    todo = [str(folder)]
    while todo:
        links: list[str] = []  # entered last: where a folder has a path without links, its pictures go by that
        for top in todo:
            for root, folders, files in os.walk(top):
                real = os.path.realpath(root)
                if real in entered:
                    folders.clear()
                    continue
                entered.add(real)
                pictures += [Path(root, name) for name in files if _is_picture(name)]
                for path in (os.path.join(root, name) for name in folders):
                    if os.path.islink(path):
                        back = Path(real).is_relative_to(os.path.realpath(path))
                        loops.append(Path(path)) if back else links.append(path)
        todo = sorted(links)
    return sorted(pictures), loops


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


def unread_pictures(folder: Path) -> list[Path]:
    """Files of a folder, and of those below it, that are pictures of a kind not read here."""
    found = (Path(root, name) for root, _, files in os.walk(folder) for name in files)
    return sorted(path for path in found if path.suffix.lower() in UNREAD_SUFFIXES)


def _pictures_listed(listing: Path, finder: Finder) -> list[Path]:
    """The pictures a list file names, one a line; a relative one starts at a root or at the list's folder."""
    if reason := why_no_file(listing):
        raise UserError(reason, where=listing, todo="name a folder of pictures or a text file with one picture a line")
    pictures = []
    text = read_text(listing)
    for number, line in enumerate(lines_of(text), 1):
        entry = line.strip()
        if not entry:
            continue
        if "\0" in entry or len(entry) > 4096:
            raise UserError("is not a text file with one picture a line", where=listing, line=number)
        # A line whose picture is absent stays in: the check reports it by name instead of shrinking the set.
        beside = listing.parent
        place = finder.find(entry, [beside] if entry.startswith("./") else [*finder.roots, beside])
        pictures.append(place or (finder.roots or [beside])[0] / entry)
    return pictures
