"""Where the pictures are that a person or a tool named: folders, list files, single pictures.

Paths come as tools export them: with ``../`` before a folder that lies beside the file, with backslashes, from another
working directory.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PureWindowsPath

from common.errors import UserError
from common.log import say_once
from common.reading import exists, is_file, is_folder, lines_of, read_text, user_path, why_no_file


def _endings(*words: str) -> frozenset[str]:
    return frozenset(f".{word}" for each in words for word in each.split())


PICTURE_SUFFIXES = _endings(
    "bmp dib jpeg jpg jpe jfif jif mpo jp2 j2k png apng tif tiff webp ppm pgm pbm pnm pam ras sr"
)
UNREAD_SUFFIXES = _endings(
    "avif avifs gif heic heics heif hif jxl jxr tga psd dcm ico cur hdr exr pfm pic pcx sgi dds svg eps bpg",
    "dng cr2 cr3 nef arw orf rw2 raf srw pef",
)
"""Endings of pictures that are not read here; files with them are counted and told."""
VIDEO_SUFFIXES = _endings("avi mkv mov mp4 mpeg mpg m4v webm wmv")
OTHER_SUFFIXES = _endings(
    "txt json xml yaml yml csv md cache npy npz mat html pdf zip tar gz py ipynb names data db ini"
)
"""Endings of what is no picture, though it may lie among pictures."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP  ")
"""What files of pictures begin with."""
NAME_PICTURES = "name a folder of pictures or a text file with one picture a line"
LEVELS, ENTRIES = 4, 10_000
"""Folders below one that is looked through for a hint: how deep, and how many entries in all."""
MOST_FOLDERS = 64
"""Folders on a path that are looked through."""

FOLDER_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What folders are called that hold a split."""


def split_from_name(name: str) -> str | None:
    """The split a name begins or ends with, as in "val2017", "instances_val", "training_data"."""
    words = "".join(character if character.isalpha() else " " for character in name.lower()).split()
    return next((FOLDER_SPLITS[word] for word in words if word in FOLDER_SPLITS), None)


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
        if found is None and (tail := self._tail(entry, roots)) is not None and not _is_absolute(entry):
            return self._say("the folders that paths begin with are not there; what lies here is taken", entry, tail[1])
        return found

    def tail(self, entry: str) -> str:
        """How the end of a path of another machine would name what lies here; "" where nothing does."""
        return found[0] if _is_absolute(entry) and (found := self._tail(entry, self.roots)) else ""

    def _tail(self, entry: str, roots: Sequence[Path]) -> tuple[str, Path] | None:
        """The end of a path, and what it is here: data/obj_train_data/a.jpg of a folder whose name is not data."""
        if self.beside is None:
            return None
        parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for place in range(1, min(len(parts), MOST_FOLDERS)):
            # valid/images is not images, nor valid/list.txt list.txt; a folder's name alone says too little.
            if split_from_name(parts[place - 1]) or parts[place - 1] in ("images", "labels"):
                return None
            tail = "/".join(parts[place:])
            other = _first(tail, [self.beside, *roots])
            if other is not None and (place + 1 < len(parts) or not is_folder(other)):
                return tail, other
        return None

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


def _is_absolute(entry: str) -> bool:
    return entry.startswith(("/", "\\", "~")) or bool(PureWindowsPath(entry).drive)


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

    Raises:
        UserError: it is no list of pictures, or none of its pictures is there.
    """
    if is_folder(place):
        return pictures_under(place)[0]
    if place.suffix.lower() in PICTURE_SUFFIXES:
        return [place]
    return _pictures_listed(place, finder or Finder(roots))


def pictures_under(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder and of those below it, and the links that lead back to a folder above themselves."""
    return files_under(folder, PICTURE_SUFFIXES)


def files_under(folder: Path, suffixes: Container[str]) -> tuple[list[Path], list[Path]]:
    """The files with such endings of a folder and of those below it, and the links that lead back above themselves.

    Links are followed, but no folder is entered twice. Names that begin with a dot are none that somebody meant.
    """
    found: list[Path] = []
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
                here = Path(root)
                found += [here / name for name in files if _ends_with(name, suffixes)]
                for path in (os.path.join(root, name) for name in folders):
                    if os.path.islink(path):
                        back = Path(real).is_relative_to(os.path.realpath(path))
                        loops.append(Path(path)) if back else links.append(path)
        todo = sorted(links)
    # In the order of paths, in which a separator comes before all letters.
    found.sort(key=lambda path: os.path.normcase(path).replace(os.sep, "\0"))
    return found, loops


def _ends_with(name: str, suffixes: Container[str]) -> bool:
    return not name.startswith(".") and stem_and_suffix(name)[1] in suffixes


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A file's name up to its last dot, and what follows in lower case: as `os.path.splitext`, in less time."""
    dot = name.rfind(".")
    if dot <= 0 or name.startswith("."):
        stem, suffix = os.path.splitext(name)
        return stem, suffix.lower()
    return name[:dot], name[dot:].lower()


def walked(folder: Path) -> list[tuple[Path, list[str]]]:
    """The folders from here on, with the names of their files."""
    found, count = [], 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if len(Path(root).relative_to(folder).parts) >= LEVELS:
            folders.clear()
        found.append((Path(root), sorted(files)))
        count += len(files)
        if count > ENTRIES:
            break
    return found


NOT_READ = "picture of a kind that is not read"
OTHERWISE_NAMED = "picture whose name does not end like that of one; it is not read"
HIDDEN = "picture whose name begins with a dot; it is not read"
VIDEO = "video among pictures; it is not read"


def unread_files(folder: Path) -> list[tuple[str, Path]]:
    """Files of a folder, and of those below it, that take no part though they are pictures: why not, and which."""
    found = [
        (kind, Path(root, name))
        for root, _, files in os.walk(folder)
        for name in files
        if (kind := _unread(root, name))
    ]
    return sorted(found, key=lambda row: row[1])


def _unread(root: str, name: str) -> str:
    """Why a file is not read that is a picture; "" for all others."""
    suffix = stem_and_suffix(name)[1]
    if name.startswith("."):  # ._a.jpg is no picture but what macOS says of one
        return HIDDEN if suffix in PICTURE_SUFFIXES and not name.startswith("._") else ""
    if suffix in UNREAD_SUFFIXES:
        return NOT_READ
    if suffix in VIDEO_SUFFIXES:
        return VIDEO
    known = suffix in PICTURE_SUFFIXES or suffix in OTHER_SUFFIXES
    return OTHERWISE_NAMED if not known and _begins_like_a_picture(Path(root, name)) else ""


def _begins_like_a_picture(path: Path) -> bool:
    if not is_file(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as handle:
            return handle.read(12).startswith(SIGNATURES)
    except OSError:
        return False


def _pictures_listed(listing: Path, finder: Finder) -> list[Path]:
    """The pictures a list file names, one a line; a relative one starts at a root or at the list's folder."""
    if reason := why_no_file(listing):
        raise UserError(reason, where=listing, todo=NAME_PICTURES)
    pictures: list[Path] = []
    absent: list[tuple[int, str]] = []
    for number, line in enumerate(lines_of(read_text(listing, todo=NAME_PICTURES)), 1):
        entry = line.strip()
        if not entry:
            continue
        if "\0" in entry or len(entry) > 4096:
            problem = "is not a text file with one picture a line"
            raise UserError(problem, where=listing, line=number, todo=NAME_PICTURES)
        # A line whose picture is absent stays in: the check reports it by name instead of shrinking the set.
        beside = listing.parent
        place = finder.find(entry, [beside] if entry.startswith("./") else [*finder.roots, beside])
        pictures.append(place or (finder.roots or [beside])[0] / entry)
        if place is None:
            absent.append((number, entry))
    if pictures and all(picture.suffix.lower() == ".txt" for picture in pictures):
        problem = f"names text files such as {pictures[0].name[:80]!r}, and no pictures"
        raise NoneThereError(problem, where=listing, line=1, todo=f"{NAME_PICTURES}; their labels are found from them")
    if pictures and len(absent) == len(pictures):
        raise _none_there(listing, absent, finder)
    return pictures


class NoneThereError(UserError):
    """No picture that a list names is there."""


def _none_there(listing: Path, absent: Sequence[tuple[int, str]], finder: Finder) -> NoneThereError:
    number, entry = absent[0]
    problem = f"none of the {len(absent)} pictures listed is there; the first is {entry[:200]!r}"
    todo = "correct the paths; relative ones start at the list's folder"
    if re.search(r"\.\w{2,5}[ ,;]+[\d.]", entry):
        problem += ": the line looks like a picture and its boxes"
        todo = f"{NAME_PICTURES}; boxes go into a text file for each picture, class cx cy w h"
    elif entry[:1] in ("'", '"') and finder.find(entry.strip("'\""), [listing.parent, *finder.roots]):
        todo = f'take the quotes away: sed -i "s/[\'\\"]//g" {listing}'
    elif entry.startswith(("{", "[", "<", '"', "'")):
        todo = NAME_PICTURES
    elif tail := Finder([listing.parent, *finder.roots], listing.parent).tail(entry):
        front = entry[: len(entry) - len(tail)]
        plain = re.sub(r"([\\.\[\]*^$#])", r"\\\1", front)
        todo = f"the pictures lie here: leave out {front!r} in the list's lines, sed -i 's#^{plain}##' {listing}"
    elif (lying := _named_so(listing.parent, entry)) is not None:
        shown = os.path.relpath(lying, listing.parent)
        todo = f"{shown} lies here: write each line so, with the folder and the picture's ending"
    return NoneThereError(problem, where=listing, line=number, todo=todo)


def _named_so(folder: Path, entry: str) -> Path | None:
    """A picture below `folder` that is called as an entry ends, with or without its ending."""
    name = entry.replace("\\", "/").rsplit("/", 1)[-1]
    for place, names in walked(folder):
        for each in names:
            if _ends_with(each, PICTURE_SUFFIXES) and name in (each, os.path.splitext(each)[0]):
                return place / each
    return None
