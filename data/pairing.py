"""Pictures without a label file and label files without a picture: is either a mistake?

A picture without a label file counts as background. That is right for some pictures of a folder, and wrong for all of
them where the labels are only looked for in the wrong place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypeVar

from common.reading import is_folder
from data.places import stem_and_suffix, walked
from data.problems import ERROR, WARNING, Problem
from data.spec import PICTURE_SUFFIXES, DataSpec, label_places, labels_folder

T = TypeVar("T")

NONE_FOUND = "no label file is found for any picture of this folder"
MOVE_OR_EMPTY = (
    "correct the paths or move the labels there; labels of another format: `thinyolo convert`; if the pictures show no "
    "object on purpose, give each an empty label file"
)


def without_labels(spec: DataSpec, split: str, pictures: Sequence[Path], absent: Iterable[Path]) -> list[Problem]:
    """What to say of the pictures `absent`, those of `pictures` that have no label file.

    A source in which no picture has one is an error. A source is a folder as the data set's file names it; pictures of
    a list file, and folders `images` below a source, go by the folder whose labels are together (`images`,
    `JPEGImages`, ...).
    """
    lacking = set(absent)
    if not lacking:
        return []
    named = frozenset(spec.folders.get(split, ()))
    top = _common({picture.parent for picture in pictures})
    source = cache(lambda folder: _source(folder, named, top))
    problems = []
    known: set[Path] = set()  # pictures an error speaks for
    for folder, members in _groups(pictures, lambda picture: source(picture.parent)).items():
        if lacking.issuperset(members):
            todo = "; ".join(filter(None, [labels_elsewhere(spec, members), MOVE_OR_EMPTY]))
            problems.append(Problem(ERROR, NONE_FOUND, folder, None, _looked_for(members), todo))
            known.update(members)
    for folder, members in _groups(pictures, lambda picture: picture.parent).items():
        if len(members) > 1 and lacking.issuperset(members) and not known.issuperset(members):
            problems.append(Problem(WARNING, f"{NONE_FOUND}: all are background", folder, None, _looked_for(members)))
    return problems + [
        Problem(WARNING, "no label file: the picture counts as background", picture)
        for picture in pictures
        if picture in lacking and picture not in known
    ]


def shared_labels(pictures: Sequence[Path], files: Sequence[str | None]) -> list[Problem]:
    """Pictures that go by the same label file, as a.jpg and a.png do."""
    there = [file for file in files if file is not None]
    if len(set(there)) == len(there):
        return []
    owners: dict[str, list[Path]] = {}
    for picture, file in zip(pictures, files, strict=True):
        if file is not None:
            owners.setdefault(file, []).append(picture)
    todo = "rename one of the pictures, or delete it if it is a copy: a label file goes with the name before the dot"
    return [
        Problem(
            WARNING,
            "label file of several pictures",
            Path(file),
            None,
            ", ".join(each.name for each in group[:4]),
            todo,
        )
        for file, group in owners.items()
        if len(group) > 1
    ]


def labels_twice(
    pictures: Sequence[Path], files: Sequence[str | None], contradict: Callable[[Path, Path, Path], str]
) -> list[Problem]:
    """Where pictures have labels in two places, in labels/ and beside them, say, that are not the same.

    Args:
        files: those that are read.
        contradict: how two label files of a picture differ, for a message; "" where they say the same.
    """
    names = cache(lambda folder: frozenset(_labels_in(folder)))
    folders = cache(lambda folder: [place.parent for place in label_places(Path(folder, "any.jpg"))])
    owners = {str(picture).rpartition(os.sep)[0] for picture in pictures}
    if all(sum(map(bool, map(names, folders(owner)))) < 2 for owner in owners):
        return []
    found: dict[tuple[Path, Path], list[tuple[Path, str]]] = {}
    for picture, file in zip(pictures, files, strict=True):
        if file is None:
            continue
        parent, _, name = file.rpartition(os.sep)
        for folder in folders(str(picture).rpartition(os.sep)[0]):
            if name in names(folder) and str(folder) != parent:
                read = Path(file)
                told = contradict(picture, read, folder / name)
                found.setdefault((read.parent, folder), []).append((read, told))
    problems = []
    for (read, unread), rows in found.items():
        different = [(label, told) for label, told in rows if told]
        if different:
            (label, told), count = different[0], len(different)
            kind = f"labels in two places: read are those in {read}, not those in {unread}, and they differ"
            detail = f"{count} of {len(rows)} pictures; the first: {told}"
            todo = "delete those that are wrong"
            problems.append(Problem(WARNING, kind, unread / label.name, None, detail, todo))
    return problems


def _labels_in(folder: Path) -> Iterator[str]:
    if is_folder(folder):
        yield from (name for name in os.listdir(folder) if name.endswith(".txt"))


def looked_for(picture: Path) -> str:
    """The places in which the labels of a picture are looked for, as a sentence has them."""
    return " or ".join(map(str, label_places(picture)))


def labels_elsewhere(spec: DataSpec, pictures: Sequence[Path]) -> str:
    """What to do with files that look like the labels of `pictures`, but lie elsewhere; "" where there are none."""
    wanted = {picture.stem: picture for picture in pictures}
    taken = {place for split in spec.splits.values() for picture in split for place in label_places(picture)}
    for folder, names in walked(spec.source.parent):
        for name in names:
            stem, suffix = os.path.splitext(name)
            picture = wanted.get(stem) or wanted.get(os.path.splitext(stem)[0])
            if picture is None:
                continue
            file = folder / name
            if suffix.lower() == ".txt" and file not in taken:
                return f"{file} looks like the labels of {picture.name}: it belongs to {label_places(picture)[0]}"
            if suffix.lower() == ".xml":
                return f"{file} looks like VOC's: thinyolo convert voc {folder} --images {picture.parent} --out NEW"
    return ""


def _looked_for(pictures: Sequence[Path]) -> str:
    return f"{len(pictures)} pictures; labels of {pictures[0].name} are looked for in {looked_for(pictures[0])}"


def _groups(pictures: Iterable[Path], key: Callable[[Path], T]) -> dict[T, list[Path]]:
    groups: dict[T, list[Path]] = {}
    for picture in pictures:
        groups.setdefault(key(picture), []).append(picture)
    return groups


def _common(folders: Iterable[Path]) -> Path | None:
    """The innermost folder that holds all of these."""
    shared = set.intersection(*({folder, *folder.parents} for folder in folders))
    return max(shared, key=lambda folder: len(folder.parts), default=None)


def _source(folder: Path, named: frozenset[Path], top: Path | None) -> Path:
    """What the pictures of `folder` came with: the innermost folder above that is named, or has labels of its own.

    What lies above `top`, in which all pictures are, tells none of them from the others.
    """
    for path in (folder, *folder.parents):
        if path in named or (labels_folder(path.name) and (top is None or path.is_relative_to(top))):
            return path
    return folder


def labels_without_picture(spec: DataSpec, split: str) -> list[Problem]:
    """Label files in the folders of a split's labels that no picture of the data set goes with."""
    pictured: dict[Path, set[str]] = {}  # folder of labels -> the pictures it may belong to
    for name in sorted(spec.splits, key=lambda other: other != split):  # this split's folders first
        for folder in map(Path, spec.picture_folders[name]):
            for labels in {place.parent for place in label_places(folder / "any.jpg")} - {folder}:
                if (name == split or labels in pictured) and is_folder(labels) and is_folder(folder):
                    pictured.setdefault(labels, set()).update(_pictures_in(folder))
    problems = []
    for labels, stems in sorted(pictured.items()):
        for name in sorted(os.listdir(labels)):
            stem = name.removesuffix(".txt")
            if stem != name and stem not in stems and name not in ("classes.txt", "README.txt"):
                problems.append(Problem(WARNING, "labels without a picture", labels / name))
    return problems


def _pictures_in(folder: Path) -> set[str]:
    return {stem for stem, suffix in map(stem_and_suffix, os.listdir(folder)) if suffix in PICTURE_SUFFIXES}
