"""Pascal VOC: one XML file a picture, boxes as xmin, ymin, xmax, ymax in pixels."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from xml.parsers import expat

from common.errors import UserError
from common.reading import MOST_TEXT, read_bytes
from data.convert_lists import SplitLists
from data.convert_objects import Annotated, Corners
from data.convert_pictures import Pictures, annotation_files
from data.convert_writer import (
    Converted,
    Shares,
    share_out,
    split_from_folders,
    write,
)
from data.problems import LEFT_OUT, WARNING, Problem
from data.templates import CORNERS, POINTS

SIDES = ("xmin", "ymin", "xmax", "ymax")
Lines = dict[ElementTree.Element, int]
"""The line on which each element begins."""


def voc_to_yolo(
    annotations: Path,
    images: Path,
    out: Path,
    names: Sequence[str] | None = None,
    splits: Path | Shares | None = None,
    *,
    skip_difficult: bool = False,
    one_based: bool = False,
    only_named: bool = False,
    as_written: bool = False,
    link: bool = False,
    force: bool = False,
) -> Converted:
    """Convert a folder of VOC XML files.

    Args:
        annotations: the folder of ``*.xml``, sub-folders included.
        images: the folder of the pictures, sub-folders included. A picture belongs to the XML file of the same name,
            else to the one whose ``<filename>`` names it. Of several of one name ``<filename>`` and the folders decide.
        out: the new data set's folder.
        names: the classes in their order; by default those found, in alphabetical order.
        splits: the folder with ``train.txt``, ``val.txt``, ``test.txt`` (VOC's ImageSets/Main; see `SplitLists`), or
            shares as (80, 10, 10); by default the pictures' folders decide (``images/val/...``), and all else is train.
        skip_difficult: leave out the objects marked ``<difficult>1``.
        one_based: pixels are counted from 1 and the last one belongs to the box, as in VOC's own releases; most
            tools that write VOC files do not do so.
        only_named, as_written, link, force: see `data.convert_writer.write`.

    Raises:
        UserError: nothing to convert, or nowhere to write.
    """
    files = annotation_files(annotations, ".xml")
    if not files:
        raise UserError("there are no .xml files in this folder", where=annotations, todo="give VOC's Annotations")
    pictures = Pictures(images)
    problems: list[Problem] = []
    pictures.expect(_name(file, annotations) for file in files)
    listed = SplitLists(splits, {file.stem for file in files}) if isinstance(splits, Path) else None
    items = []
    for file in files:
        split = listed.split_of(_name(file, annotations)) if listed else None
        if listed and not split:
            problems.append(Problem(LEFT_OUT, "in no split's list", file))
            continue
        item = _read(file, _name(file, annotations), pictures, problems, skip_difficult, one_based)
        if item is None:
            continue
        if split:
            item.split = split
        elif splits is None:
            item.split = split_from_folders(item.picture.relative_to(images)) or "train"
        items.append(item)
    if isinstance(splits, tuple):
        share_out(items, [item.annotation.stem for item in items], splits)
    annotated = {item.picture for item in items}
    problems += [
        Problem(LEFT_OUT, "picture without annotation", path)
        for path in pictures.all()
        if path not in annotated and listed is None
    ]
    problems += [*listed.problems, *listed.without_annotation()] if listed else []
    classes = list(names) if names else sorted({thing.name for item in items for thing in item.objects})
    return write(
        items,
        classes,
        out,
        problems=problems,
        link=link,
        force=force,
        only_named=only_named,
        as_written=as_written,
        source=f"the VOC annotations in {annotations.name}",
    )


def _name(file: Path, annotations: Path) -> str:
    """What the picture of an XML file is called: as the file, and in the same folders."""
    return file.relative_to(annotations).with_suffix("").as_posix()


def _read(
    file: Path, name: str, pictures: Pictures, problems: list[Problem], skip_difficult: bool, one_based: bool
) -> Annotated | None:
    try:
        root, lines = parse_with_lines(file)
    except expat.ExpatError as error:
        problems.append(Problem(LEFT_OUT, "not valid XML", file, error.lineno, expat.ErrorString(error.code)))
        return None
    except UserError as error:
        problems.append(Problem(LEFT_OUT, "annotation that cannot be read", file, error.line, error.problem))
        return None
    named = (root.findtext("filename") or "").strip().replace("\\", "/")
    last = named.rsplit("/", 1)[-1]
    picture = pictures.find(name, hint=file.parent.name, called=last)
    if picture is None and last and last.rsplit(".", 1)[0] != file.stem:
        name = named if last != named else (PurePosixPath(name).parent / named).as_posix()
        picture = pictures.find(name, hint=file.parent.name)
    if picture is None:
        problems.append(Problem(LEFT_OUT, "annotation without picture", file, None, pictures.without(name)))
        return None
    problems += pictures.doubt(name, picture, file)
    height, width = (_number(root.findtext(f"size/{side}")) or 0 for side in ("height", "width"))
    whole = math.isfinite(height) and math.isfinite(width)
    item = Annotated(picture, "train", file, size=(int(height), int(width)) if whole else None)
    size = root.find("size")
    item.size_line = None if size is None else lines[size]
    for element in root.findall("object"):
        if skip_difficult and (element.findtext("difficult") or "").strip() == "1":
            continue
        if thing := _object(element, lines, file, problems, one_based):
            item.objects.append(thing)
        else:
            item.lost += 1
    return item


def _object(
    element: ElementTree.Element, lines: Lines, file: Path, problems: list[Problem], one_based: bool
) -> Corners | None:
    name = (element.findtext("name") or "").strip()
    if not name:
        problems.append(Problem(LEFT_OUT, "object without a name", file, lines[element]))
        return None
    box = element.find("bndbox")
    if box is None or all(box.find(tag) is None for tag in SIDES):
        return _around(element, name, lines, file, problems)
    sides = []
    for tag in SIDES:
        side = _number(box.findtext(tag))
        if side is None:
            line = lines[next(iter(box.findall(tag)), box)]
            detail = f"{name}: {tag} is {box.findtext(tag)!r}"
            problems.append(Problem(LEFT_OUT, "box that is not of four numbers", file, line, detail))
            return None
        sides.append(side)
    first = 1.0 if one_based else 0.0
    return Corners(name, sides[0] - first, sides[1] - first, sides[2], sides[3], lines[box], name, CORNERS)


def _around(
    element: ElementTree.Element, name: str, lines: Lines, file: Path, problems: list[Problem]
) -> Corners | None:
    """The upright box around an object that has a turned one, or points, in place of `bndbox`; None, and said: neither.

    `robndbox` is roLabelImg's: centre, size and an angle in radians. Points are children x1, y1, x2, y2, ... (of a
    `polygon`, or of `bndbox` itself), or `pt` with x and y, as LabelMe writes them.
    """
    turned = element.find("robndbox")
    if turned is not None:
        values = [_number(turned.findtext(tag)) for tag in ("cx", "cy", "w", "h", "angle")]
        cx, cy, w, h, angle = (math.nan if value is None else value for value in values)
        if all(map(math.isfinite, (cx, cy, w, h, angle))):
            cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
            across, down = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
            kind = "object with a turned box (robndbox); the upright one around it is taken"
            problems.append(Problem(WARNING, kind, file, lines[turned], name))
            sides = cx - across, cy - down, cx + across, cy + down
            return Corners(name, *sides, lines[turned], name, POINTS)
    for outline in (found for tag in ("polygon", "bndbox") if (found := element.find(tag)) is not None):
        points: dict[str, list[float | None]] = {"x": [], "y": []}
        for part in outline.iter():
            if axis := re.fullmatch(r"([xy])\d*", part.tag):
                points[axis[1]].append(_number(part.text))
        xs, ys = ([value for value in points[axis] if value is not None and math.isfinite(value)] for axis in "xy")
        if len(xs) == len(ys) >= 3 and len(xs) + len(ys) == len(points["x"]) + len(points["y"]):
            kind = "object with an outline and no box; the box around it is taken"
            problems.append(Problem(WARNING, kind, file, lines[outline], name))
            return Corners(name, min(xs), min(ys), max(xs), max(ys), lines[outline], name, POINTS)
    box = element.find("bndbox")
    kind = "object without a box" if box is None else "box that is not of four numbers"
    detail = name if box is None else f"{name}: {', '.join(part.tag for part in box)[:60] or 'nothing'} in it"
    problems.append(Problem(LEFT_OUT, kind, file, lines[element if box is None else box], detail))
    return None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def parse_with_lines(file: Path) -> tuple[ElementTree.Element, Lines]:
    """The root of an XML file and the line of each element, which ElementTree alone does not keep.

    Raises:
        xml.parsers.expat.ExpatError: the file is not XML.
        UserError: it cannot be read, or has an encoding that Python does not know.
    """
    parser, builder = expat.ParserCreate(), ElementTree.TreeBuilder()
    lines: Lines = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(read_bytes(file, MOST_TEXT), True)
    except (ValueError, LookupError) as error:  # an encoding that Python does not know
        raise UserError(f"not valid XML: {error}", where=file, todo="save it as XML in UTF-8") from error
    return builder.close(), lines
