"""Which pictures and which classes: the data set's yaml (or Darknet `.data`) becomes a `DataSpec`.

Layout: pictures anywhere; the labels of `a/images/b/c.jpg` are in `a/labels/b/c.txt`; `label_places` has the rest.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.log import log
from common.reading import is_file, is_folder, user_path, why_no_file
from data.describe import Description, from_darknet, from_yaml, line_of
from data.layouts import folders_with_pictures, what_else, what_lies_in
from data.places import PICTURE_SUFFIXES, Finder, NoneThereError, find_entry, pictures_at, pictures_under

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "PICTURE_SUFFIXES",
    "DataSpec",
    "find_entry",
    "find_label",
    "label_places",
    "load_spec",
    "pictures_at",
]

BUILT_IN = "shapes"
SPLITS = ("train", "val", "test")
PICTURE_FOLDERS = ("images", "JPEGImages", "raw")
"""Folders for which Darknet looks for labels in the folder `labels` beside them."""
SCORED = 100
"""Boxes of a class in a picture that count towards mAP (COCO's maxDets)."""


@dataclass(frozen=True)
class DataSpec:
    """A data set as the user described it; nothing in it has been opened yet.

    Attributes:
        names: class names, the index being the class number a network is trained on.
        splits: the pictures of "train", "val" and "test", as far as they were found; those of "train" as often as
            list files name them, as in Darknet and YOLOv5, all others once.
        source: the yaml or `.data` file.
        label_names: the classes the label files use; `names` has them in another order, or with others, after
            `among`, and one in their place with `single_cls`.
        single_cls: every label counts as class 0.
        missing: split -> why it has no pictures (what was looked for), for splits the file names but the disk lacks.
        advice: split -> what to do about that, where more is known than that a path is wrong.
        near: "train", "val" or "test" -> what the file has instead: a word that may mean it, and its line.
        folders: split -> the folders the file names for it (list files and single pictures are none).
        loops: links below these folders that lead back to a folder above themselves.
        keypoints: as `data.describe.Description`.
        pixel_range: the values that become black and white of pictures with more than 8 bits; None: 0 and the highest.
        max_det: boxes of a class that are scored in a picture.
        again: split -> how many lines of list files name a picture that a line before them named, and the first such.
    """

    names: tuple[str, ...]
    splits: dict[str, tuple[Path, ...]]
    source: Path
    label_names: tuple[str, ...] = ()
    single_cls: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)
    near: dict[str, tuple[str, int]] = field(default_factory=dict)
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    loops: tuple[Path, ...] = ()
    keypoints: tuple[int, int] | None = None
    pixel_range: tuple[float, float] | None = None
    max_det: int = SCORED
    again: dict[str, tuple[int, Path]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.label_names:
            object.__setattr__(self, "label_names", self.names)

    @property
    def classes(self) -> int:
        return len(self.names)

    def among(self, names: Sequence[str], order: Sequence[int]) -> DataSpec:
        """This data set with the classes of a network that has its own, in any order, and perhaps others.

        Args:
            names: those of the network.
            order: class k of this data set is ``names[order[k]]``, however that is spelt.
        """
        wider = list(names)
        for number, name in zip(order, self.names, strict=True):
            wider[number] = name  # in its own spelling, by which its labels are found
        return replace(self, names=tuple(wider))

    def renumber(self, rows: np.ndarray) -> None:
        """Rows ``(N, 5)`` of a label file as the network is trained on them, in place: the class comes first."""
        if self.single_cls:
            rows[:, 0] = 0
        elif self.label_names != self.names:
            numbers = [self.names.index(name) for name in self.label_names]
            rows[:, 0] = [numbers[int(number)] for number in rows[:, 0]]

    @cached_property
    def distinct(self) -> dict[str, Sequence[Path]]:
        """The splits with each picture once: a list file may name one several times."""
        return {
            split: listed if len(set(map(str, listed))) == len(listed) else list(dict.fromkeys(listed))
            for split, listed in self.splits.items()
        }

    @cached_property
    def picture_folders(self) -> dict[str, frozenset[str]]:
        """Split -> the folders its pictures lie in."""
        return {
            split: frozenset(str(picture).rpartition(os.sep)[0] for picture in pictures)
            for split, pictures in self.splits.items()
        }

    def require(self, split: str) -> tuple[Path, ...]:
        """The pictures of `split`.

        Raises:
            UserError: the split is not named in the file, its files are not there, or it holds no picture.
        """
        pictures = self.splits.get(split, ())
        if pictures:
            return pictures
        darknet = self.source.suffix == ".data"
        key = "valid" if split == "val" and darknet else split
        if split in self.missing:
            paths = "the working directory" if darknet else "`path:`, itself relative to this file"
            raise UserError(
                f"'{split}' has no pictures: {self.missing[split]}",
                where=self.source,
                line=line_of(self.source, key),
                todo=self.advice.get(split) or f"correct the path (relative paths start at {paths})",
            )
        has = f"names no '{split}' split; it has {', '.join(self.splits) or 'none'}"
        if split in self.near:
            written, line = self.near[split]
            todo = f"call it `{key}`, as it is called here"
            raise UserError(f"{has}, and a key `{written}`", where=self.source, line=line, todo=todo)
        todo = f"add a line `{split}: images/{split}` (a folder, a list file, or a list of these)"
        if darknet:
            todo = f"add a line `{key} = {key}.txt`: a file with one picture a line"
        if split == "val" and self.splits.get("train"):
            todo += f"; or divide the pictures: thinyolo convert yolo {self.source.parent} --out NEW --shares 80 10 10"
        raise UserError(has, where=self.source, todo=todo)


def label_places(picture: str | Path) -> tuple[Path, ...]:
    """Where the labels of `picture` may be, the likeliest first.

    As in Darknet a folder `images`, `JPEGImages` or `raw` on the way to it becomes `labels` (the last such folder
    first), or a folder such as `train_images` becomes `train_labels`; else they lie beside the picture.
    """
    path = Path(picture)
    parts = path.parts
    backwards = range(len(parts) - 2, -1, -1)
    renamed = [(place, name) for place in backwards if (name := labels_folder(parts[place]))]
    renamed.sort(key=lambda row: row[1] != "labels")  # the whole names first
    places = [Path(*parts[:place], name, *parts[place + 1 :]) for place, name in renamed]
    return tuple(place.with_suffix(".txt") for place in [*places, path])


def labels_folder(name: str) -> str | None:
    """What the folder of labels is called that goes with a folder of pictures; None: it has none of its own."""
    if name in PICTURE_FOLDERS:
        return "labels"
    return name.replace("images", "labels") if "images" in name else None


def find_label(picture: str | Path) -> Path | None:
    """The label file of `picture`: the first of `label_places` that is there; None: it has none."""
    hidden = None  # in a folder nobody may look into: to be reported, not to be taken for absent
    for place in label_places(picture):
        try:
            place.lstat()  # so is a link whose target is gone: it is there, and reading it fails
            return place
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            hidden = hidden or place
    return hidden


def load_spec(path: str | Path | DataSpec, single_cls: bool = False) -> DataSpec:
    """Read a data set's yaml or Darknet `.data` file.

    Args:
        path: the file; "shapes" is the built-in set, drawn at its first use; a `DataSpec` is passed on.
        single_cls: treat all classes as one.

    Raises:
        UserError: the file is absent or is not a data set, names and `nc` disagree, or no split has a picture.
    """
    if isinstance(path, DataSpec):
        return _as_single_class(path) if single_cls else path
    source = user_path(path)
    if str(path) == BUILT_IN and not source.exists():
        from data.shapes import ensure  # it writes a data set, and so knows this module

        source = ensure()
    if not is_file(source):
        reason = why_no_file(source)
        text = "there is no data set file" if reason == "does not exist" else f"the data set's file {reason}:"
        todo = "give --data the path of a yaml like cfg/datasets/example.yaml, or 'shapes', the built-in set"
        if is_folder(source):
            todo = what_lies_in(source)
        raise UserError(f"{text} {str(path)[:200]!r}", todo=todo)
    source = Path(os.path.abspath(source))
    if source.suffix.lower() not in (".data", ".yaml", ".yml") and (todo := what_else(source)):
        raise UserError("is no data set's yaml", where=source, todo=todo)
    spec = _found(from_darknet(source) if source.suffix == ".data" else from_yaml(source), source)
    if not any(spec.splits.values()):
        for split in spec.missing:
            spec.require(split)
        raise UserError("names no pictures", where=source, todo="add `train:` and `val:` with folders or list files")
    return _as_single_class(spec) if single_cls else spec


def _as_single_class(spec: DataSpec) -> DataSpec:
    if spec.single_cls or spec.classes == 1:  # of which it is one already, and called what it is
        return spec
    return replace(spec, names=("object",), single_cls=True)


def _found(said: Description, source: Path) -> DataSpec:
    """The data set, its pictures looked for."""
    finder = Finder(said.roots, source.parent, prefer_beside=said.pathless)
    spec = DataSpec(
        said.names,
        {},
        source,
        keypoints=said.keypoints,
        pixel_range=said.pixel_range,
        max_det=said.max_det or SCORED,
        near=said.near,
    )
    loops: list[Path] = []
    for split, entries in said.entries.items():
        loops += _collect(spec, split, entries, finder)
    finder.announce(source)
    return replace(spec, loops=tuple(dict.fromkeys(loops)))


SEVERAL = r"\s*[,;|]\s*|\s+"
"""What stands between places in a line that should be a list."""


def _several(entry: str, finder: Finder) -> bool:
    parts = re.split(SEVERAL, entry.strip())
    return 1 < len(parts) <= 100 and all(part and finder.find(part) for part in parts)


def _collect(spec: DataSpec, split: str, entries: list[str], finder: Finder) -> list[Path]:
    """Fill in a split from its entries; say in `missing` what is absent. Returns the links that lead back."""
    found: dict[tuple[str, str], Path] = {}  # the picture's real folder and name -> as the user knows it
    lines: Counter[tuple[str, str]] = Counter()  # how often a line names it
    chosen: list[Path] = []
    folders: list[Path] = []
    loops: list[Path] = []
    absent = []
    real = cache(os.path.realpath)
    for entry in entries:
        place = finder.find(entry)
        if place is None:
            absent.append(f"{entry[:200]!r} is not in {finder.roots[0]}")
            if tail := finder.tail(entry):
                spec.advice[split] = f"{tail} lies here: write `{tail}` in the place of {entry[:200]!r}"
            elif _several(entry, finder):
                spec.advice[split] = f"write a list: {split}: [{', '.join(re.split(SEVERAL, entry.strip()))}]"
            elif any(sign in entry for sign in "*?["):
                spec.advice[split] = (
                    f"patterns are not read: name the folder, {re.split(r'/?[^/]*[*?[]', entry)[0] or '.'}"
                )
            elif "://" in entry:
                spec.advice[split] = "download the pictures, and name their folder: nothing is fetched here"
            elif lying := folders_with_pictures(spec.source.parent):
                spec.advice[split] = f"correct the path; there are pictures in {', '.join(lying)}"
            continue
        if is_folder(place):
            folders.append(place)
            pictures, back = pictures_under(place)
            loops += back
        else:
            try:
                pictures = pictures_at(place, finder.roots, finder)
            except NoneThereError as error:
                absent.append(f"{error.where}:{error.line}: {error.problem}")
                spec.advice[split] = error.todo
                continue
        listed = not is_folder(place)
        for picture in pictures:
            parent, _, name = str(picture).rpartition(os.sep)
            key = real(parent or picture.parent), name
            if again := listed and lines[key] > 0:
                count, first = spec.again.get(split, (0, picture))
                spec.again[split] = count + 1, first
            if key not in found or (again and split == "train"):
                chosen.append(found.setdefault(key, picture))
            if listed:
                lines[key] += 1
    if chosen:
        spec.splits[split], spec.folders[split] = tuple(chosen), tuple(folders)
        for text in absent:
            log.warning("%s: part of '%s' is left out: %s", spec.source, split, text)
    else:
        spec.missing[split] = "; ".join(absent) or f"no picture in {', '.join(map(repr, entries))[:300]}"
        if not absent and (lying := folders_with_pictures(spec.source.parent)):
            spec.advice[split] = f"name another folder; there are pictures in {', '.join(lying)}"
    return loops
