"""What every converter shares: which split a picture belongs to, and the folder that is written.

A converter reads its format into `Annotated` pictures; `write` checks them, and puts pictures, labels and ``data.yaml``
into the usual layout. What cannot be converted is left out, counted, and named with file and line.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.log import log
from common.reading import exists, is_folder, user_path
from data.convert_boxes import Kept, refuse_the_remains, with_boxes
from data.convert_objects import Annotated
from data.describe import checked_names, names_listed, read_names_node
from data.places import split_from_name
from data.problems import LEFT_OUT, WARNING, Problem, summary
from data.spec import SPLITS
from data.yaml_tree import compose
from data.yolo_text import data_yaml, label_text

Shares = tuple[float, float, float]
"""Parts for train, val and test in any unit: (80, 10, 10)."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        data_yaml: the new data set's description.
        names: its classes.
        pictures, boxes: number by split.
        problems: everything left out or mended.
    """

    data_yaml: Path
    names: tuple[str, ...]
    pictures: dict[str, int]
    boxes: dict[str, int]
    problems: list[Problem]


def split_from_folders(path: Path) -> str | None:
    """The split a folder on the way to `path` is called after ("training_data" counts as train), the nearest first."""
    for part in reversed(path.parts[:-1]):
        if split := split_from_name(part):
            return split
    return None


def split_all_by_share(keys: Iterable[str], shares: Shares) -> dict[str, str]:
    """The split of each key, as `split_by_share` has it; but of a few, one goes to a part that would be empty."""
    found = {key: split_by_share(key, shares) for key in keys}
    for split, share in zip(SPLITS, shares, strict=True):
        most, count = Counter(found.values()).most_common(1)[0] if found else ("", 0)
        if share > 0 and split not in found.values() and count > 1:
            found[next(key for key in sorted(found, key=_point) if found[key] == most)] = split
    return found


def share_out(items: Sequence[Annotated], keys: Sequence[str], shares: Shares) -> None:
    """Give each picture its split by its key."""
    found = split_all_by_share(keys, shares)
    for item, key in zip(items, keys, strict=True):
        item.split = found[key]


def _point(key: str) -> float:
    """Where in 0..1 a key lies."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def split_by_share(key: str, shares: Shares) -> str:
    """A split that depends on `key` alone, so that adding pictures later moves none."""
    point = _point(key) * sum(shares)
    if point < shares[0]:
        return "train"
    return "val" if point < shares[0] + shares[1] else "test"


def read_names(text: str | None) -> list[str] | None:
    """Class names from the command line: ``cat,dog``, a text file with one a line, or a data set's yaml."""
    if text is None:
        return None
    path = user_path(text)
    if not exists(path):
        if path.suffix in (".txt", ".names", ".yaml", ".yml"):
            raise UserError(f"there is no file of names {text[:200]!r}", todo="give --names a file or a list: cat,dog")
        names = [name.strip() for name in text.split(",")]
    elif path.suffix in (".yaml", ".yml"):
        found = next((value for key, value in compose(path).value if key.value == "names"), None)
        names = [name for name, _ in read_names_node(found, path)]
        if not names:
            raise UserError("is not a yaml with `names:`", where=path, todo="add e.g. names: [cat, dog]")
    else:
        names = list(names_listed(path))
    doubled = [name for name, count in Counter(names).items() if count > 1 or not name]
    if doubled or not names:
        raise UserError(f"--names has an empty or a repeated name: {doubled or text}", todo="name every class once")
    return names


def write(
    items: Sequence[Annotated],
    names: Sequence[str],
    out: Path,
    *,
    problems: Iterable[Problem] = (),
    link: bool = False,
    force: bool = False,
    only_named: bool = False,
    as_written: bool = False,
    source: str = "",
) -> Converted:
    """Write `items` in the usual layout.

    Args:
        items: the pictures; those that cannot be read are left out.
        names: the classes, in their order.
        out: the new data set's folder.
        problems: what reading the annotations has found so far.
        link: symbolic links to the pictures instead of copies.
        force: replace an earlier conversion in `out`.
        only_named: leave out objects of other classes instead of refusing.
        as_written: take the numbers for what the format says, though all together they look like something else.
        source: for the comment on top of ``data.yaml``.

    Raises:
        UserError: `out` is in use or cannot be written, a class is not in `names`, boxes are not what their format
            says, or nothing or little is left to write.
    """
    found = list(problems)
    _refuse_to_overwrite(out, items, force)
    _refuse_two_of_one(items)
    _check_classes(items, names, only_named, found)
    found += _nearly_the_same(names, out)
    kept = with_boxes(items, names, found, as_written)
    if not kept:
        reasons = f":\n{summary(found)}" if found else ""
        raise UserError(f"no picture could be converted{reasons}", todo="check the folders given")
    if not as_written or not any(boxes for _, boxes, _ in kept):
        refuse_the_remains(kept, names, found)
    checked_names([(name, None) for name in names], out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{out.name}.converting.", dir=out.parent))
        try:
            pictures, boxes = _fill(place, kept, link)
            splits = {split: f"images/{split}" for split in SPLITS if pictures[split]}
            text = data_yaml(splits, names, f"Converted from {source}.")
            # A folder's name need not be UTF-8.
            (place / "data.yaml").write_text(text, encoding="utf-8", errors="replace")
            _put(place, out)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        reason = f"the data set cannot be written: {error.strerror or error}"
        raise UserError(
            reason, where=error.filename or out, todo="name another folder with --out, or free space"
        ) from error
    if found:
        log.warning("%s: %s", out, summary(found))
    for split in SPLITS:
        if pictures[split]:
            log.info("%s: %d pictures, %d boxes", split, pictures[split], boxes[split])
        if pictures[split] and not boxes[split]:
            log.warning("no picture of %s has a box, and no training would start on that; divide otherwise", split)
    if "val" not in splits:
        log.warning("%s has no val split, which training needs: convert again with --shares 80 10 10", out)
    return Converted(out / "data.yaml", tuple(names), dict(pictures), dict(boxes), found)


def _refuse_to_overwrite(out: Path, items: Sequence[Annotated], force: bool) -> None:
    if not exists(out) or (is_folder(out) and not any(out.iterdir())):
        return
    if not force or not out.is_dir():
        raise UserError("the output folder is in use", where=out, todo="name a new folder with --out, or add --force")
    inside = out.resolve()
    for item in items:
        for path in (item.picture, item.annotation):
            if inside in path.resolve().parents:
                raise UserError(
                    f"--force would delete what is being converted: {path} lies in the output folder",
                    where=out,
                    todo="name another folder with --out",
                )


def _refuse_two_of_one(items: Sequence[Annotated]) -> None:
    """A picture with two annotations, which would be written over one another: no other name of it would help."""
    first: dict[tuple[str, Path], Annotated] = {}
    for item in items:
        other = first.setdefault((item.split, item.picture), item)
        if other is not item:
            raise UserError(
                f"two annotations are of the picture {item.picture}: this one and {other.annotation}",
                where=item.annotation,
                todo="keep one, or put their objects together; if they are of two pictures of one name, give --images "
                "a folder in which these lie as the annotations do",
            )


def _nearly_the_same(names: Sequence[str], out: Path) -> list[Problem]:
    """Classes whose names differ in capitals only."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.strip().casefold(), []).append(name)
    kind, todo = "names that differ in capitals only stay different classes", "if they are one, write one name for both"
    several = [group for group in alike.values() if len(group) > 1]
    return [Problem(WARNING, kind, out, None, ", ".join(map(repr, group)), todo) for group in several]


def _check_classes(items: Sequence[Annotated], names: Sequence[str], only_named: bool, found: list[Problem]) -> None:
    strangers = [(item, thing) for item in items for thing in item.objects if thing.name not in set(names)]
    if not strangers:
        return
    if not only_named:
        item, thing = strangers[0]
        counts = Counter(thing.name for _, thing in strangers)
        raise UserError(
            f"class {thing.name!r} is not among the names ({', '.join(names)}); "
            f"{len(strangers)} objects are of such classes: {dict(counts.most_common(10))}",
            where=item.annotation,
            line=thing.line,
            todo="add it to --names, or leave such objects out with --only-named",
        )
    for item, thing in strangers:
        found.append(Problem(LEFT_OUT, "class not among the names", item.annotation, thing.line, thing.name))


def _fill(place: Path, kept: Sequence[Kept], link: bool) -> tuple[Counter[str], Counter[str]]:
    """Write pictures and labels; returns the numbers of pictures and boxes by split."""
    pictures: Counter[str] = Counter()
    boxes: Counter[str] = Counter()
    names = _own_names([(item.split, item.picture) for item, _, _ in kept])
    for (item, found, (height, width)), name in zip(kept, names, strict=True):
        target = place / "images" / item.split / name
        label = (place / "labels" / item.split / name).with_suffix(".txt")
        if label.exists():
            raise UserError(
                f"two pictures would become {item.split}/{name}",
                where=item.picture,
                todo="give the pictures different names",
            )
        for path in (target, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        _copy(item.picture, target, link)
        label.write_text(label_text(found, width, height), encoding="utf-8")
        pictures[item.split] += 1
        boxes[item.split] += len(found)
    return pictures, boxes


def _own_names(pictures: Sequence[tuple[str, Path]]) -> list[str]:
    """What each picture of a split is called in its new folder.

    A label file is named after the stem, so pictures of one stem take the names of so many folders with them as tell
    them apart, at most from the one that all lie in; and a number where that is another picture's name.
    """
    parents = [os.path.abspath(picture.parent) for _, picture in pictures]
    top = Path(os.path.commonpath(parents)).parent if parents else Path()
    alike: dict[tuple[str, str], list[Path]] = {}
    for split, picture in pictures:
        alike.setdefault((split, picture.stem), []).append(picture)
    taken = {key for key, group in alike.items() if len(group) == 1}
    names = {}
    for (split, stem), group in alike.items():
        if len(group) == 1:
            names[split, group[0]] = group[0].name
            continue
        folders = [Path(os.path.abspath(picture.parent)).relative_to(top).parts for picture in group]
        for depth in range(1, max(1, *map(len, folders)) + 1):
            stems = ["_".join([*f[-depth:], stem, p.suffix[1:]]) for f, p in zip(folders, group, strict=True)]
            if len(set(stems)) == len(stems):
                break
        for picture, own in zip(group, stems, strict=True):
            number, free = 1, own
            while (split, free) in taken:
                number, free = number + 1, f"{own}_{number + 1}"
            taken.add((split, free))
            names[split, picture] = free + picture.suffix
    return [names[each] for each in pictures]


def _copy(source: Path, target: Path, link: bool) -> None:
    if link:
        try:
            target.symlink_to(source.resolve())
            return
        except OSError as error:
            raise UserError(
                f"pictures cannot be linked here: {error}", where=target.parent, todo="leave --link out to copy them"
            ) from error
    shutil.copyfile(source, target)


def _put(place: Path, out: Path) -> None:
    """Move the finished parts into `out`, in place of those of an earlier conversion; other files there stay."""
    place.chmod(0o755)  # mkdtemp's folders are private
    if not out.exists() or not any(out.iterdir()):
        os.replace(place, out)
        return
    for part in ("images", "labels"):
        if (out / part).exists():
            shutil.rmtree(out / part)
    for part in ("images", "labels", "data.yaml"):
        os.replace(place / part, out / part)
