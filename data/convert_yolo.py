"""Pictures with YOLO labels that are no data set yet: folders as labelling programs export them, undivided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.reading import is_folder
from data.convert_objects import Annotated, Corners
from data.convert_writer import Converted, Shares, split_all_by_share, split_from_folders, write
from data.describe import from_darknet, from_yaml, names_listed
from data.label_lines import how_to_read, read_label_file
from data.layouts import names_file
from data.near_names import nearly_named, told, what_to_do
from data.pairing import looked_for
from data.pictures import ANY_RANGE, picture_shapes
from data.places import pictures_under
from data.problems import ERROR, LEFT_OUT, WARNING, Problem, remedy, summary
from data.spec import find_label


def yolo_to_yolo(
    folder: Path,
    out: Path,
    names: Sequence[str] | None = None,
    splits: Shares | None = None,
    *,
    link: bool = False,
    force: bool = False,
) -> Converted:
    """Divide a folder of pictures with YOLO labels, and write it in the usual layout.

    Args:
        folder: the pictures and their labels, sub-folders included: ``images`` with ``labels`` beside it, or all in
            one folder.
        out: the new data set's folder.
        names: the classes; by default those of a data.yaml, a .data, classes.txt or obj.names in the folder.
        splits: shares such as (80, 10, 10); by default the pictures' folders decide, and all else is train.
        link, force: see `data.convert_writer.write`.

    Raises:
        UserError: there are no pictures, no names, labels that are wrong, or nowhere to write.
    """
    if not is_folder(folder):
        raise UserError("there is no such folder", where=folder, todo="give the folder of the pictures and labels")
    pictures = pictures_under(folder)[0]
    if not pictures:
        raise UserError("there is no picture in this folder", where=folder, todo="give the folder of the pictures")
    classes = list(names) if names else _names(folder)
    labels = {picture: path for picture in pictures if (path := find_label(picture))}
    near = nearly_named(picture for picture in pictures if picture not in labels)
    if not labels:
        problem = f"no picture has a label file; that of {pictures[0].name} is looked for in {looked_for(pictures[0])}"
        put = "put the labels there; other formats: thinyolo convert --help"
        raise UserError(problem, where=folder, todo=what_to_do(near) or put)
    paired = {picture for picture, _, _ in near}
    without = [path for path in pictures if path not in labels and path not in paired]
    problems = told(near) + [Problem(LEFT_OUT, "picture without a label file", path) for path in without]
    shapes = dict(zip(labels, picture_shapes(list(labels), ANY_RANGE), strict=True))
    sizes = {labels[picture]: (shape[1], shape[0]) for picture, shape in shapes.items() if not isinstance(shape, str)}
    reading, wrong = how_to_read(list(labels.values()), classes, sizes=sizes)
    problems += wrong
    shared = split_all_by_share((picture.stem for picture in labels), splits) if splits else {}
    items = []
    for picture, path in labels.items():
        rows, found = read_label_file(path, len(classes), reading)
        problems += found
        split = shared[picture.stem] if splits else split_from_folders(picture.relative_to(folder))
        item = Annotated(picture, split or "train", path)
        shape = shapes[picture]
        if not isinstance(shape, str):
            high, wide = shape
            for number, cx, cy, w, h in rows.astype(float):
                sides = (cx - w / 2) * wide, (cy - h / 2) * high, (cx + w / 2) * wide, (cy + h / 2) * high
                item.objects.append(Corners(classes[int(number)], *sides))
        items.append(item)
    if errors := [problem for problem in problems if problem.severity == ERROR]:
        raise UserError(f"the labels have errors: {summary(errors)}", where=folder, todo=remedy(errors[0]))
    return write(
        items,
        classes,
        out,
        problems=[problem for problem in problems if problem.severity in (LEFT_OUT, WARNING)],
        link=link,
        force=force,
        source=f"the YOLO labels in {folder.name}",
    )


def _names(folder: Path) -> list[str]:
    """The classes that a file in the folder names."""
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            return list(from_yaml(path).names)
        except UserError:
            continue
    if listed := names_file(folder):
        return list(names_listed(listed))
    for path in sorted(folder.glob("*.data")):
        return list(from_darknet(path).names)
    todo = "give them in the order of their numbers: --names cat,dog, or a file with one a line"
    raise UserError(
        "no file in this folder names the classes (classes.txt, obj.names, data.yaml)", where=folder, todo=todo
    )
