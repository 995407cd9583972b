"""What lies in a folder that somebody takes for a data set, and the yaml that would make one of it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from common.errors import UserError
from common.reading import read_text
from data.describe import names_listed
from data.places import PICTURE_SUFFIXES, split_from_name, walked

START = 100_000
"""Characters in which a data set's file names a split or its classes, however it is called itself."""
NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt", "names.txt", "predefined_classes.txt")
"""Files in which programs leave the names of the classes, one a line."""


def what_lies_in(folder: Path) -> str:
    """What to do with a folder that was given for a data set's file."""
    seen = walked(folder)
    yamls = [path / name for path, names in seen for name in names if name.lower().endswith((".yaml", ".yml"))]
    darknet = [path / name for path, names in seen for name in names if name.lower().endswith(".data")]
    if described := [path for path in [*yamls, *darknet] if path.parent == folder] or yamls or darknet:
        return f"name the file: {described[0]}"
    if not (places := _picture_folders(seen)):
        return f"{_others(seen)}; give --data the path of a yaml like cfg/datasets/example.yaml"
    names = _names(folder, seen)
    splits = {split: place for place in places if (split := _split(place, folder))}
    if "train" in splits and "val" in splits:
        lines = [f"{split}: {os.path.relpath(place, folder)}" for split, place in splits.items()]
        lines.append(f"names: {yaml.safe_dump(names, default_flow_style=True, width=10**6).strip()}")
        return f"it has no yaml; write {folder / 'data.yaml'}, and name that:\n     " + "\n     ".join(lines)
    return (
        f"it has no yaml and no parts for train and val; `thinyolo convert yolo {folder} --out NEW --shares 80 10 10` "
        "divides its pictures and writes one"
    )


def what_else(file: Path) -> str:
    """What to do with a file that is no yaml by its name; "" where nothing is known."""
    suffix = file.suffix.lower()
    with contextlib.suppress(UserError):  # what it is, its reader says
        if re.search(r"^[\s{]*[\"']?(train|val|names)[\"']?\s*:", read_text(file, lossy=True)[:START], re.MULTILINE):
            return ""
    if suffix in PICTURE_SUFFIXES:
        return "give --data the yaml of a data set; pictures are looked at by `thinyolo predict --source`"
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z"):
        return "unpack it, and give --data the yaml in it"
    if suffix == ".json" and file.name != "notes.json":
        return "COCO's annotations become a data set by `thinyolo convert coco`; then give --data the yaml it writes"
    if suffix == ".xml":
        return "VOC's annotations become a data set by `thinyolo convert voc`; then give --data the yaml it writes"
    if suffix in (".txt", ".names", ".labels", ".csv", ".json"):
        return f"give --data the data set's yaml. In {file.parent}: {what_lies_in(file.parent)}"
    return ""


def _picture_folders(seen: Sequence[tuple[Path, list[str]]]) -> list[Path]:
    return [
        path for path, names in seen if any(os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES for name in names)
    ]


def folders_with_pictures(folder: Path) -> list[str]:
    """The first five folders below, as a data set's file in `folder` would name them."""
    return [os.path.relpath(place, folder) for place in _picture_folders(walked(folder))][:5]


def _split(place: Path, folder: Path) -> str | None:
    parts = place.relative_to(folder).parts
    return next((split for part in reversed(parts) if (split := split_from_name(part))), None)


def _names(folder: Path, seen: Sequence[tuple[Path, list[str]]]) -> list[str]:
    """The classes, from a file that has them; or words to be replaced."""
    if found := names_file(folder, seen):
        try:
            return list(names_listed(found))
        except UserError:
            pass
    return ["first class", "second class"]


def names_file(folder: Path, seen: Sequence[tuple[Path, list[str]]] | None = None) -> Path | None:
    """The file with the names of the classes in a folder, or below."""
    for path, names in walked(folder) if seen is None else seen:
        for name in names:
            if name in NAMES_FILES or name.endswith(".names"):
                return path / name
    return None


def _others(seen: Sequence[tuple[Path, list[str]]]) -> str:
    """What is in a folder without pictures."""
    for suffix, text in ((".zip", "archives: unpack them"), (".json", "JSON files"), (".xml", "XML files")):
        if any(name.lower().endswith(suffix) for _, names in seen for name in names):
            return f"it holds no pictures, but {text}"
    return "it holds no pictures"
