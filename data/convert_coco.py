"""COCO: one JSON file a split, boxes as x, y, width, height in pixels, category ids with gaps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.reading import MOST, read_text
from data.convert_writer import (
    Annotated,
    Converted,
    Corners,
    Pictures,
    Shares,
    split_by_share,
    split_from_folders,
    write,
)
from data.places import split_from_name
from data.problems import LEFT_OUT, Problem
from data.spec import SPLITS

EXPORT_AGAIN = "export the annotations again: the file may be cut off, or be of another format"
NUMBERS = 'write each category as {"id": 1, "name": "cat"}'


def coco_to_yolo(
    annotations: Path | Sequence[Path] | Mapping[str, Path],
    images: Path,
    out: Path,
    names: Sequence[str] | None = None,
    splits: Shares | None = None,
    *,
    keep_crowd: bool = False,
    only_named: bool = False,
    link: bool = False,
    force: bool = False,
) -> Converted:
    """Convert COCO instance files.

    Args:
        annotations: the JSON files: split -> file, or files whose names tell the split (``instances_val2017.json``; a
            name that tells none leaves it to the pictures' folders, and then to train).
        images: the folder of the pictures, sub-folders included.
        out: the new data set's folder.
        names: the classes in their order; by default every category, in the order of the ids, which get contiguous
            numbers (COCO's 1 to 90 become 0 to 79).
        splits: shares such as (80, 10, 10) to divide the pictures by, whatever the files are called.
        keep_crowd: convert the boxes around crowds (``iscrowd: 1``) too; left out and counted by default, because one
            such box covers many objects.
        only_named, link, force: see `data.convert_writer.write`.

    Raises:
        UserError: a file is not COCO JSON, nothing to convert, or nowhere to write.
    """
    if isinstance(annotations, Path):
        annotations = [annotations]
    if isinstance(annotations, Mapping):
        sources: list[tuple[str | None, Path]] = list(annotations.items())
    else:
        sources = [(split_from_name(path.stem), path) for path in annotations]
    pictures = Pictures(images)
    problems: list[Problem] = []
    categories: dict[int, str] = {}
    items: list[Annotated] = []
    for split, file in sources:
        if split not in (None, *SPLITS):
            raise UserError(f"{split!r} is not a split", todo=f"write one of {', '.join(SPLITS)}, as in val={file}")
        content = _read(file)
        for number, name in _categories(content, file).items():
            if categories.setdefault(number, name) != name:
                raise UserError(
                    f"category {number} is {name!r} here and {categories[number]!r} in another file",
                    where=file,
                    todo="convert the files one by one",
                )
        for item, key in _annotated(content, categories, file, pictures, split or "", keep_crowd, problems):
            if splits:
                item.split = split_by_share(key, splits)
            else:
                item.split = split or split_from_folders(item.picture.relative_to(images)) or "train"
            items.append(item)
    classes = list(names) if names else list(dict.fromkeys(categories[number] for number in sorted(categories)))
    return write(
        items,
        classes,
        out,
        problems=problems,
        link=link,
        force=force,
        only_named=only_named,
        source=", ".join(file.name for _, file in sources),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file, MOST, "give COCO's instances_*.json"))
    except json.JSONDecodeError as error:
        raise UserError(f"is not valid JSON: {error.msg}", where=file, line=error.lineno, todo=EXPORT_AGAIN) from error
    except (ValueError, RecursionError) as error:  # a number of more than 4300 digits, lists in lists without end
        raise UserError(f"is not JSON that can be read: {str(error)[:100]}", where=file, todo=EXPORT_AGAIN) from error
    absent = [
        key
        for key in ("images", "annotations", "categories")
        if not isinstance(content, dict) or not isinstance(content.get(key), list)
    ]
    if absent:
        raise UserError(
            f"is not a COCO instance file: no list {' and no list '.join(map(repr, absent))}",
            where=file,
            todo="give COCO's instances_*.json (not captions or key points)",
        )
    return content


def _categories(content: dict[str, Any], file: Path) -> dict[int, str]:
    try:
        return {int(entry["id"]): _text(entry["name"]) for entry in content["categories"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"a category lacks a whole number 'id' or a 'name' ({str(error)[:100]})", where=file, todo=NUMBERS
        ) from error


def _text(value: Any) -> str:
    """A name, which may be written as a number.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, (str, int)):
        raise ValueError(f"{str(value)[:40]!r} is no name")
    text = str(value)
    text.encode()  # JSON may hold half of a character that UTF-8 has no form for
    return text


def _annotated(
    content: dict[str, Any],
    categories: Mapping[int, str],
    file: Path,
    pictures: Pictures,
    hint: str,
    keep_crowd: bool,
    problems: list[Problem],
) -> list[tuple[Annotated, str]]:
    """The pictures of one file, each with the name the file gives it."""
    found: dict[Any, tuple[Annotated, str]] = {}
    known: set[Any] = set()
    for place, entry in enumerate(content["images"]):
        try:
            number, name = _plain(entry["id"]), _text(entry["file_name"])
            size = int(entry.get("height") or 0), int(entry.get("width") or 0)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.append(
                Problem(LEFT_OUT, "image without id or file_name", file, None, f"images[{place}]: {str(error)[:100]}")
            )
            continue
        known.add(number)
        picture = pictures.find(name, hint)
        if picture is None:
            problems.append(Problem(LEFT_OUT, "annotated picture is not there", file, None, f"image {number}: {name}"))
        else:
            found[number] = Annotated(picture, "train", file, size=size), name
    for place, entry in enumerate(content["annotations"]):
        what = f"annotation {str(entry.get('id', f'[{place}]'))[:40] if isinstance(entry, dict) else f'[{place}]'}"
        thing, fault = _object(entry, what, categories)
        if thing is None:
            problems.append(Problem(LEFT_OUT, fault, file, None, what))
        elif _plain(entry.get("image_id")) not in known:
            detail = f"{what}: image_id {str(entry.get('image_id'))[:40]}"
            problems.append(Problem(LEFT_OUT, "annotation of an unknown image", file, None, detail))
        elif entry.get("iscrowd") and not keep_crowd:
            problems.append(Problem(LEFT_OUT, "crowd (one box around many objects)", file, None, what))
        elif (number := _plain(entry["image_id"])) in found:
            found[number][0].objects.append(thing)
    return list(found.values())


def _plain(key: Any) -> Any:
    """An id, or None for what no id can be (a list, which no table could look up)."""
    if isinstance(key, float) and key.is_integer():
        return int(key)  # some tools write 1.0
    return key if isinstance(key, (int, str)) and not isinstance(key, bool) else None


def _object(entry: Any, what: str, categories: Mapping[int, str]) -> tuple[Corners | None, str]:
    """One annotation, or None and what is wrong with it."""
    if not isinstance(entry, dict):
        return None, "annotation that is not an object"
    if _plain(entry.get("category_id")) not in categories:
        return None, "annotation of an unknown category"
    try:
        x, y, width, height = (float(value) for value in entry["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None, "annotation whose bbox is not four numbers"
    return Corners(categories[_plain(entry["category_id"])], x, y, x + width, y + height, None, what), ""
