"""COCO: one JSON file a split, boxes as x, y, width, height in pixels, category ids with gaps."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import UserError
from common.reading import MOST, read_text
from data.convert_objects import AS_WRITTEN, Annotated, Corners
from data.convert_pictures import Pictures
from data.convert_writer import (
    Converted,
    Shares,
    share_out,
    split_from_folders,
    write,
)
from data.places import split_from_name
from data.problems import LEFT_OUT, WARNING, Problem, summary
from data.spec import SPLITS
from data.templates import POINTS, TOP_LEFT

EXPORT_AGAIN = "export the annotations again: the file may be cut off, or be of another format"
ONE = "nothing, if they are one class; else give them different names in the file"
SAME = "nothing, if they are meant so"
TWICE = "picture listed under two ids; the boxes of both are taken"
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
    as_written: bool = False,
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
        only_named, as_written, link, force: see `data.convert_writer.write`.

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
    keys: list[str] = []
    merged: dict[str, set[int]] = {}
    for split, file in sources:
        if split not in (None, *SPLITS):
            raise UserError(f"{split!r} is not a split", todo=f"write one of {', '.join(SPLITS)}, as in val={file}")
        content = _read(file)
        for number, name in _categories(content, file).items():
            merged.setdefault(name, set()).add(number)
            if categories.setdefault(number, name) != name:
                raise UserError(
                    f"category {number} is {name!r} here and {categories[number]!r} in another file",
                    where=file,
                    todo="convert the files one by one",
                )
        if not as_written:
            _refuse_shifted(content["annotations"], categories, file)
        for item, key in _annotated(content, categories, file, pictures, split or "", keep_crowd, problems):
            if not splits:
                item.split = split or split_from_folders(item.picture.relative_to(images)) or "train"
            items.append(item)
            keys.append(key)
    if splits:
        share_out(items, keys, splits)
    for name, numbers in merged.items():
        if len(numbers) > 1:
            detail = f"{name!r}: ids {', '.join(map(str, sorted(numbers)))}"
            problems.append(
                Problem(WARNING, "categories of one name become one class", sources[0][1], None, detail, ONE)
            )
    classes = list(names) if names else list(dict.fromkeys(categories[number] for number in sorted(categories)))
    return write(
        items,
        classes,
        out,
        problems=problems,
        link=link,
        force=force,
        only_named=only_named,
        as_written=as_written,
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
    found: dict[int, str] = {}
    for entry in content["categories"]:
        try:
            number, name = _number(_plain(entry["id"])), _text(entry["name"])
            if number is None:
                raise ValueError(f"{str(entry['id'])[:40]!r} is no whole number")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"a category lacks a whole number 'id' or a 'name' ({str(error)[:100]})", where=file, todo=NUMBERS
            ) from error
        if found.setdefault(number, name) != name:
            raise UserError(
                f"two categories have the id {number}: {found[number]!r} and {name!r}",
                where=file,
                todo="give each category an id of its own, in `categories` and in the annotations of it",
            )
    return found


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
    """The pictures of one file with their objects, each with the name the file gives it."""
    found, known = _images(content["images"], file, pictures, hint, problems)
    unknown = _objects_into(found, known, content["annotations"], categories, file, keep_crowd, problems)
    without = sum(not item.objects for item, _ in found.values())
    if found and 2 * unknown > len(content["annotations"]) and 2 * without > len(found):
        raise UserError(
            f"{unknown} of {len(content['annotations'])} annotations are of no image of the file, and {without} of "
            f"{len(found)} pictures have none:\n{summary(problems)}",
            where=file,
            todo="write in `image_id` of each annotation the `id` that its image has in `images`",
        )
    return _once(found, file, problems)


def _images(
    entries: Sequence[Any], file: Path, pictures: Pictures, hint: str, problems: list[Problem]
) -> tuple[dict[Any, tuple[Annotated, str]], dict[Any, str]]:
    """Of a file's `images`: id -> (picture, its name there) of those that are found, id -> name of all."""
    found: dict[Any, tuple[Annotated, str]] = {}
    known: dict[Any, str] = {}
    pictures.expect(
        name for entry in entries if isinstance(entry, dict) and isinstance(name := entry.get("file_name"), str)
    )
    for place, entry in enumerate(entries):
        try:
            number, name = _plain(entry["id"]), _text(entry["file_name"])
            size = int(entry.get("height") or 0), int(entry.get("width") or 0)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problems.append(
                Problem(LEFT_OUT, "image without id or file_name", file, None, f"images[{place}]: {str(error)[:100]}")
            )
            continue
        if known.setdefault(number, name) != name:
            raise UserError(
                f"two images have the id {number}: {known[number]} and {name}",
                where=file,
                todo="give each image an id of its own, in `images` and in its annotations",
            )
        picture = pictures.find(name, hint)
        if picture is None:
            detail = f"image {number}: {pictures.without(name)}"
            problems.append(Problem(LEFT_OUT, "annotated picture is not there", file, None, detail))
        elif number not in found:
            problems += pictures.doubt(name, picture, file)
            found.setdefault(number, (Annotated(picture, "train", file, size=size), name))
    return found, known


def _objects_into(
    found: Mapping[Any, tuple[Annotated, str]],
    known: Mapping[Any, str],
    entries: Sequence[Any],
    categories: Mapping[int, str],
    file: Path,
    keep_crowd: bool,
    problems: list[Problem],
) -> int:
    """Give each picture its objects out of a file's `annotations`; how many are of no image of the file."""
    image_of = _lookup(known)
    unknown, as_text = 0, []
    for place, entry in enumerate(entries):
        plain = entry if isinstance(entry, dict) else {}
        what = f"annotation {str(plain.get('id', f'[{place}]'))[:40]}"
        key = image_of(_plain(plain.get("image_id")))
        thing, fault = _object(entry, what, categories)
        crowd = bool(plain.get("iscrowd")) and not keep_crowd
        if thing is None and not crowd:
            problems.append(Problem(LEFT_OUT, fault, file, None, what))
            if key in found:
                found[key][0].lost += 1
        elif key is None:
            detail = f"{what}: image_id {str(plain.get('image_id'))[:40]}"
            problems.append(Problem(LEFT_OUT, "annotation of an unknown image", file, None, detail))
            unknown += 1
        elif crowd:
            problems.append(Problem(LEFT_OUT, "crowd (one box around many objects)", file, None, what))
        elif key in found and thing is not None:
            found[key][0].objects.append(thing)
            if thing.form == POINTS:
                kind = "annotation without bbox; the box around its segmentation is taken"
                problems.append(Problem(WARNING, kind, file, None, what))
        if key is not None and _plain(plain["image_id"]) != key:
            as_text.append(f"{what}: {plain['image_id']!r} is {key!r}")
    if as_text:
        kind = "image_id is text and the image's id a number, or the reverse: taken for the same"
        problems.append(
            Problem(WARNING, kind, file, None, f"{len(as_text)} annotations; the first: {as_text[0]}", SAME)
        )
    return unknown


def _once(
    found: Mapping[Any, tuple[Annotated, str]], file: Path, problems: list[Problem]
) -> list[tuple[Annotated, str]]:
    """Each picture once, with the objects of all ids that it is listed under, as files put together have it.

    Raises:
        UserError: ids of one picture have other sizes, or other names.
    """
    first: dict[Path, Any] = {}
    for number, (item, name) in found.items():
        key = first.setdefault(item.picture, number)
        if key == number:
            continue
        kept, known = found[key]
        both = f"images {key} and {number}"
        if PurePosixPath(known.replace("\\", "/")) != PurePosixPath(name.replace("\\", "/")):
            raise UserError(
                f"{both}, {known} and {name}, would both be the picture {item.picture}",
                where=file,
                todo="give --images a folder in which they lie as the file names them, or convert one folder at a time",
            )
        if all(kept.size or ()) and all(item.size or ()) and kept.size != item.size:
            sizes = " and ".join(f"{width} x {height}" for height, width in filter(None, (kept.size, item.size)))
            raise UserError(
                f"{both} are the same picture, {name}, in two sizes: {sizes}",
                where=file,
                todo="correct width and height of the wrong one, or take it out with its annotations",
            )
        kept.size = kept.size if all(kept.size or ()) else item.size
        known_objects = {(thing.name, thing.sides) for thing in kept.objects}
        new = [thing for thing in item.objects if (thing.name, thing.sides) not in known_objects]
        kept.objects += new
        kept.lost += item.lost
        detail = f"{name}: ids {key} and {number}; boxes that both have, once: {len(item.objects) - len(new)}"
        problems.append(Problem(WARNING, TWICE, file, None, detail, SAME))
    return [found[number] for number in first.values()]


def _plain(key: Any) -> Any:
    """An id, or None for what no id can be (a list, which no table could look up)."""
    if isinstance(key, float) and key.is_integer():
        return int(key)  # some tools write 1.0
    return key if isinstance(key, (int, str)) and not isinstance(key, bool) else None


def _number(key: Any) -> int | None:
    """The number that an id is, which some tools write as text; None: it is none."""
    return int(key) if isinstance(key, int) or (isinstance(key, str) and re.fullmatch("[0-9]{1,18}", key)) else None


def _lookup(known: Iterable[Any]) -> Callable[[Any], Any]:
    """What finds an id among those known, also where one of both is text; None: it is none, or several may be meant."""
    ids = set(known)
    alike: dict[int | None, list[Any]] = {}
    for key in ids:
        alike.setdefault(_number(key), []).append(key)

    def find(key: Any) -> Any:
        same = alike.get(number, []) if (number := _number(key)) is not None else []
        return key if key in ids else same[0] if len(same) == 1 else None

    return find


def _refuse_shifted(annotations: Sequence[Any], categories: Mapping[int, str], file: Path) -> None:
    """Numbers of categories that begin at 0 in the annotations and at 1 in the list of categories, or the reverse.

    A number that few have is no class's: some sets give 0 to regions that are not to count.

    Raises:
        UserError: so they are; all objects would be of the class beside theirs.
    """
    plain = (entry if isinstance(entry, dict) else {} for entry in annotations)
    numbers = Counter(_number(_plain(entry.get("category_id"))) for entry in plain)
    strangers = {number for number in numbers if number is not None and number not in categories}
    if len(categories) < 2 or len(strangers) != 1:
        return
    (stranger,) = strangers
    low, high = min(categories), max(categories)
    below, above = stranger == low - 1 and high not in numbers, stranger == high + 1 and low not in numbers
    if (below or above) and numbers[stranger] > numbers.total() / (2 * len(categories)):
        used = [number for number in numbers if number is not None]
        raise UserError(
            f"the annotations use category_id {min(used)} to {max(used)}, the categories have the ids {low} to {high}: "
            "one of both counts from 0, the other from 1",
            where=file,
            todo="correct one of both, so that each category_id is the id of its category; or, if objects of "
            f"{stranger} are not to count: {AS_WRITTEN}",
        )


def _object(entry: Any, what: str, categories: Mapping[int, str]) -> tuple[Corners | None, str]:
    """One annotation, or None and what is wrong with it."""
    if not isinstance(entry, dict):
        return None, "annotation that is not an object"
    number = _number(_plain(entry.get("category_id")))
    if number is None or number not in categories:
        return None, "annotation of an unknown category"
    name, box = categories[number], entry.get("bbox")
    if not box or box == [0, 0, 0, 0]:
        if outline := _outline(entry.get("segmentation")):
            xs, ys = outline[::2], outline[1::2]
            return Corners(name, min(xs), min(ys), max(xs), max(ys), None, what, POINTS), ""
        if isinstance(entry.get("segmentation"), dict):
            return None, "annotation without bbox, whose segmentation is a mask (RLE)"
    numbers = _numbers(box)
    if numbers is None or len(numbers) != 4:
        return None, "annotation whose bbox is not four numbers"
    x, y, width, height = numbers
    return Corners(name, x, y, x + width, y + height, None, what, TOP_LEFT), ""


def _numbers(values: Any) -> list[float] | None:
    """The numbers of a list, which may be written as text; None: it is no list of numbers."""
    if not isinstance(values, list) or any(isinstance(value, bool) for value in values):
        return None
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError, OverflowError):
        return None


def _outline(segmentation: Any) -> list[float]:
    """All points x y x y ... of a segmentation in polygons; none where it is something else."""
    if not isinstance(segmentation, list) or not segmentation:
        return []
    parts = segmentation if isinstance(segmentation[0], list) else [segmentation]
    points: list[float] = []
    for part in parts:
        numbers = _numbers(part)
        if not numbers or len(numbers) % 2 or not all(map(math.isfinite, numbers)):
            return []
        points += numbers
    return points
