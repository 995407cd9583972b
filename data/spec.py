"""Which pictures and which classes: the data set's yaml (or Darknet `.data`) becomes a `DataSpec`.

Layout: pictures anywhere; the labels of `a/images/b/c.jpg` are in `a/labels/b/c.txt`; `label_places` has the rest.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.log import log

PICTURE_SUFFIXES = frozenset(
    [".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm"]
)
BUILT_IN = "shapes"
SPLITS = ("train", "val", "test")
_OTHER_KEYS = {"path", "names", "nc", *SPLITS}
PICTURE_FOLDERS = ("images", "JPEGImages", "raw")
"""Folders for which Darknet looks for labels in the folder `labels` beside them."""


@dataclass(frozen=True)
class DataSpec:
    """A data set as the user described it; nothing in it has been opened yet.

    Attributes:
        names: class names, the index being the class number a network is trained on.
        splits: the pictures of "train", "val" and "test", as far as they were found.
        source: the yaml or `.data` file.
        label_classes: number of classes the label files use; differs from ``len(names)`` only with `single_cls`.
        single_cls: every label counts as class 0.
        missing: split -> why it has no pictures (what was looked for), for splits the file names but the disk lacks.
        folders: split -> the folders the file names for it (list files and single pictures are none).
    """

    names: tuple[str, ...]
    splits: dict[str, tuple[Path, ...]]
    source: Path
    label_classes: int = 0
    single_cls: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    folders: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.label_classes:
            object.__setattr__(self, "label_classes", len(self.names))

    @property
    def classes(self) -> int:
        return len(self.names)

    def require(self, split: str) -> tuple[Path, ...]:
        """The pictures of `split`.

        Raises:
            UserError: the split is not named in the file, its files are not there, or it holds no picture.
        """
        pictures = self.splits.get(split, ())
        if pictures:
            return pictures
        line = _line_of(self.source, "valid" if split == "val" and self.source.suffix == ".data" else split)
        if split in self.missing:
            raise UserError(
                f"'{split}' has no pictures: {self.missing[split]}",
                where=self.source,
                line=line,
                todo="correct the path (relative paths start at `path:`, itself relative to this file)",
            )
        raise UserError(
            f"names no '{split}' split; it has {', '.join(self.splits) or 'none'}",
            where=self.source,
            todo=f"add a line `{split}: images/{split}` (a folder, a list file, or a list of these)",
        )


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


def label_path(picture: str | Path) -> Path:
    """The label file of `picture`, or where it would be if there is none."""
    return find_label(picture) or label_places(picture)[0]


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
    source = Path(path).expanduser()
    if str(path) == BUILT_IN and not source.exists():
        from data.shapes import ensure  # it writes a data set, and so knows this module

        source = ensure()
    if not source.is_file():
        raise UserError(
            f"there is no data set file {str(path)!r}",
            todo="give --data the path of a yaml like cfg/datasets/example.yaml, or 'shapes', the built-in set",
        )
    source = Path(os.path.abspath(source))
    spec = _from_darknet(source) if source.suffix == ".data" else _from_yaml(source)
    if not any(spec.splits.values()):
        for split in spec.missing:
            spec.require(split)
        raise UserError("names no pictures", where=source, todo="add `train:` and `val:` with folders or list files")
    return _as_single_class(spec) if single_cls else spec


def _as_single_class(spec: DataSpec) -> DataSpec:
    if spec.single_cls:
        return spec
    name = spec.names[0] if spec.classes == 1 else "object"
    return replace(spec, names=(name,), single_cls=True)


def _from_yaml(source: Path) -> DataSpec:
    content = _read_yaml(source)
    names = _names(content.get("names"), content.get("nc"), source)
    unknown = [str(key) for key in content if key not in _OTHER_KEYS]
    if unknown:
        log.info("%s: not used: %s", source, ", ".join(unknown))
    root = _root(content.get("path"), source)
    spec = DataSpec(names, {}, source)
    for split in SPLITS:
        if content.get(split):
            _collect(spec, split, content[split], [root, source.parent])
    return spec


def _read_yaml(source: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8-sig"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(
            f"is not valid yaml: {getattr(error, 'problem', None) or error}",
            where=source,
            line=mark.line + 1 if mark else None,
            todo="compare it with cfg/datasets/example.yaml",
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"cannot be read as text: {error}", where=source) from error
    if not isinstance(content, dict):
        raise UserError(
            "is not a data set (a map with train, val and names)",
            where=source,
            todo="compare it with cfg/datasets/example.yaml",
        )
    return content


def _names(names: Any, nc: Any, source: Path) -> tuple[str, ...]:
    line = _line_of(source, "names")
    if isinstance(names, dict):
        try:
            numbers = sorted(int(key) for key in names)
        except (TypeError, ValueError):
            raise UserError(
                f"the class numbers in `names` must be whole numbers, not {list(names)[:5]}", where=source, line=line
            ) from None
        if numbers != list(range(len(numbers))):
            absent = sorted(set(range(len(numbers))) - set(numbers))
            raise UserError(
                f"the class numbers in `names` must run from 0 to {len(numbers) - 1}; {absent[:5]} missing",
                where=source,
                line=line,
                todo="number the classes without gaps, from 0",
            )
        by_number = {int(key): value for key, value in names.items()}
        names = [by_number[number] for number in numbers]
    if names is None and isinstance(nc, int) and not isinstance(nc, bool) and nc > 0:
        return tuple(f"class{number}" for number in range(nc))
    if not isinstance(names, list) or not names:
        raise UserError(
            f"`names` must be a list or a map of class names, not {names!r}",
            where=source,
            line=line,
            todo="add e.g. `names: [cat, dog]`",
        )
    if nc is not None and nc != len(names):
        raise UserError(
            f"`nc: {nc}` disagrees with the {len(names)} names",
            where=source,
            line=_line_of(source, "nc"),
            todo="remove `nc`, or complete `names`",
        )
    return tuple(str(name) for name in names)


def _root(path: Any, source: Path) -> Path:
    if path is None:
        return source.parent
    root = Path(str(path)).expanduser()
    if not root.is_absolute():
        beside = source.parent / root
        root = root.absolute() if root.is_dir() and not beside.is_dir() else beside
    return Path(os.path.normpath(root))


def _from_darknet(source: Path) -> DataSpec:
    options: dict[str, str] = {}
    for number, line in enumerate(source.read_text(encoding="utf-8-sig").splitlines(), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"expected `key = value`, not {text!r}", where=source, line=number)
        options[key.strip()] = value.strip()
    # Darknet resolves paths against the working directory; files beside the .data file are the common other case.
    roots = [Path.cwd(), source.parent]
    if "names" not in options:
        raise UserError("has no `names = FILE`", where=source)
    names_file = find_entry(options["names"], roots)
    if names_file is None:
        raise UserError(
            f"the names file {options['names']!r} is not there", where=source, line=_line_of(source, "names")
        )
    names = [line.strip() for line in names_file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    classes = options.get("classes")
    if classes is not None and not classes.isdigit():
        raise UserError(f"`classes` must be a number, not {classes!r}", where=source, line=_line_of(source, "classes"))
    if not names or (classes is not None and int(classes) != len(names)):
        raise UserError(
            f"`classes = {classes}` disagrees with the {len(names)} names in {names_file}",
            where=source,
            line=_line_of(source, "classes"),
            todo="make them agree",
        )
    spec = DataSpec(tuple(names), {}, source)
    for split, key in (("train", "train"), ("val", "valid"), ("test", "test")):
        if options.get(key):
            _collect(spec, split, options[key], roots)
    return spec


def _collect(spec: DataSpec, split: str, entries: Any, roots: list[Path]) -> None:
    """Fill in a split from a folder, list file, picture, or a list of these; say in `missing` what is absent."""
    found: dict[Path, Path] = {}  # the picture under its real folder -> as the user knows it
    folders: list[Path] = []
    absent = []
    real = cache(os.path.realpath)
    for entry in entries if isinstance(entries, list) else [entries]:
        place = find_entry(str(entry), roots)
        if place is None:
            absent.append(f"{entry!r} is not in {roots[0]}")
            continue
        if place.is_dir():
            folders.append(place)
        for picture in pictures_at(place, roots):
            found.setdefault(Path(real(picture.parent), picture.name), picture)
    if found:
        spec.splits[split], spec.folders[split] = tuple(found.values()), tuple(folders)
        for text in absent:
            log.warning("%s: part of '%s' is left out: %s", spec.source, split, text)
    else:
        spec.missing[split] = "; ".join(absent) or f"no picture in {entries!r}"


def pictures_at(place: Path, roots: list[Path]) -> list[Path]:
    """The pictures that `place` stands for: a folder's, searched below, those a list file names, or itself.

    Args:
        roots: where the relative lines of a list may start, before the list's own folder.
    """
    if place.is_dir():
        return _pictures_under(place)
    return [place] if place.suffix.lower() in PICTURE_SUFFIXES else _pictures_listed(place, roots)


def find_entry(entry: str, roots: Iterable[Path]) -> Path | None:
    """The file or folder that `entry` names, relative to the first of `roots` that has it; None: no such thing."""
    path = Path(entry).expanduser()
    for candidate in [path] if path.is_absolute() else [root / path for root in roots]:
        if candidate.exists():
            return Path(os.path.normpath(candidate))
    return None


def _pictures_under(folder: Path) -> list[Path]:
    """The pictures of a folder and of those below it; links are followed, but no folder is entered twice."""
    pictures: list[Path] = []
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
                links += [path for path in (os.path.join(root, name) for name in folders) if _leads_on(path, real)]
        todo = sorted(links)
    return sorted(pictures)


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


def _leads_on(path: str, parent: str) -> bool:
    """Whether `path` in the real folder `parent` is a link to a folder that does not contain it."""
    if not os.path.islink(path):
        return False
    return not Path(parent).is_relative_to(os.path.realpath(path))


def _pictures_listed(listing: Path, roots: list[Path]) -> list[Path]:
    """The pictures a list file names, one a line; a relative one starts at the root or at the list's folder."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError("is not a text file with one picture a line", where=listing) from None
    pictures = []
    for line in lines:
        text = line.strip()
        if text:
            # A line whose picture is absent stays in: the check reports it by name instead of shrinking the set.
            place = find_entry(text, [listing.parent] if text.startswith("./") else [*roots, listing.parent])
            pictures.append(place or roots[0] / text)
    return pictures


def _line_of(source: Path, key: str) -> int | None:
    """1-based line on which `key` is set, or None."""
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for number, line in enumerate(lines, 1):
        if re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*[:=]", line):
            return number
    return None
