"""What the file of a data set says: its yaml, or Darknet's ``.data``. Nothing it names is looked for here.

YAML is taken as it is written, not as YAML 1.1 reads it: a class called ``no`` is no false, and ``1e3`` no thousand.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from common.errors import UserError, closest
from common.log import log
from common.reading import exists, is_file, is_folder, lines_of, read_text, user_path
from data.places import Finder
from data.yaml_tree import COMPARE, compose, pairs

MOST_CLASSES = 100_000
"""More classes than this are a slip of the pen: no data set has them."""
ONE_PLACE = "name a folder, a list file (.txt, one picture a line), or a list of these: [images/a, images/b]"
ONE_NAME = "write one name an entry: names: [cat, dog]; or a map: names: {0: cat, 1: dog}"
_KEYS = {"path", "names", "nc", "kpt_shape", "pixel_range", "max_det", "train", "val", "test"}


@dataclass
class Description:
    """What a data set's file says.

    Attributes:
        names: the classes.
        entries: split -> what it is made of, as written: folders, list files, pictures.
        roots: where relative entries start.
        pathless: the file has no ``path:`` of its own, so that its entries are meant from where it lies.
        keypoints: how many points with how many numbers each follow a box (``kpt_shape``); (0, n): none; None: unsaid.
        pixel_range: the values of pictures of more than 8 bits that become black and white.
        max_det: boxes of a class that are scored in a picture; None: unsaid.
        near: "train", "val" or "test", where it is not given -> a key that may mean it, and its line.
    """

    names: tuple[str, ...]
    roots: list[Path]
    entries: dict[str, list[str]] = field(default_factory=dict)
    pathless: bool = False
    keypoints: tuple[int, int] | None = None
    pixel_range: tuple[float, float] | None = None
    max_det: int | None = None
    near: dict[str, tuple[str, int]] = field(default_factory=dict)


def line_of(source: Path, key: str) -> int | None:
    """1-based line on which `key` is set, or None."""
    try:
        lines = lines_of(read_text(source))
    except UserError:
        return None
    for number, line in enumerate(lines, 1):
        if re.match(rf"\s*['\"]?{re.escape(key)}['\"]?\s*[:=]", line):
            return number
    return None


def read_names_node(node: yaml.Node | None, source: Path) -> list[tuple[str, int]]:
    """The classes of a ``names:`` node, as written, each with its line; [] for what is no list or map of words."""
    if isinstance(node, yaml.SequenceNode):
        return [(_word(each, source, "names", ONE_NAME), each.start_mark.line + 1) for each in node.value]
    if not isinstance(node, yaml.MappingNode):
        return []
    numbered: dict[int, tuple[str, int]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        text = _word(key, source, "names")
        if not re.fullmatch(r"[0-9]{1,9}", text):
            todo = "write `names: [cat, dog]`, or one `0: cat` a line"
            if all(isinstance(each, yaml.ScalarNode) and each.value.isdigit() for _, each in node.value):
                todo = "number first, then name: " + ", ".join(f"{v.value}: {k.value}" for k, v in node.value[:3])
            problem = f"the class numbers in `names` must be whole numbers, not {text[:40]!r}"
            raise UserError(problem, where=source, line=line, todo=todo)
        if int(text) in numbered:
            raise UserError(f"class {int(text)} has two names", where=source, line=line, todo="delete one of the two")
        numbered[int(text)] = _word(value, source, "names"), line
    absent = [number for number in range(len(numbered)) if number not in numbered]
    if absent:
        todo = "number the classes without gaps, from 0, and the labels like them"
        if sorted(numbered) == list(range(1, len(numbered) + 1)):
            todo = "number the classes from 0, and the labels like them if they begin at 1 too"
        elif len(numbered) > 1:
            todo += f"; or name what no label shows: {absent[0]}: unused"
        raise UserError(
            f"the class numbers in `names` must run from 0 to {len(numbered) - 1}; {absent[:5]} missing",
            where=source,
            line=node.start_mark.line + 1,
            todo=todo,
        )
    return [numbered[number] for number in range(len(numbered))]


def checked_names(found: Sequence[tuple[str, int | None]], source: Path) -> tuple[str, ...]:
    """The names, if each class has one of its own.

    Raises:
        UserError: a name is empty, holds control characters or stands there twice, or there are too many.
    """
    if len(found) > MOST_CLASSES:
        raise UserError(f"{len(found)} classes are more than {MOST_CLASSES:,}", where=source, todo="correct the file")
    first: dict[str, int] = {}
    for number, (name, line) in enumerate(found):
        if not name.strip():
            raise UserError(f"class {number} has no name", where=source, line=line, todo="write one, in quotes")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            problem = f"the name of class {number} holds a control character: {name[:40]!r}"
            raise UserError(problem, where=source, line=line, todo="write it in plain letters")
        if first.setdefault(name.strip(), number) != number:  # tables show no blanks
            raise UserError(
                f"classes {first[name.strip()]} and {number} are both called {name!r}",
                where=source,
                line=line,
                todo="give each class a name of its own: results are told by them",
            )
    return tuple(name for name, _ in found)


NEAR = {"valid": "val", "validation": "val", "eval": "val", "dev": "val", "training": "train", "testing": "test"}
NEAR |= {"classes": "names", "class_names": "names", "labels": "names", "categories": "names", "class": "names"}
"""What others call the keys."""


def from_yaml(source: Path) -> Description:
    """Read a data set's yaml."""
    content: dict[str, yaml.Node] = {}
    unknown = []
    near: dict[str, tuple[str, int]] = {}
    for key, value in pairs(compose(source)):
        text, line = _word(key, source, "a key"), key.start_mark.line + 1
        if text not in _KEYS:
            unknown.append(text[:40])
            plain = text.lower().strip()[:40]
            if meant := _meant(plain):
                near.setdefault(meant, (text[:40], line))
        elif text in content:
            raise UserError(f"`{text}` is given twice", where=source, line=line, todo="delete one of the two")
        content[text] = value
    if {"images", "annotations"} <= content.keys() and "train" not in content:
        todo = "convert it: thinyolo convert coco FILE --images FOLDER --out NEW"
        raise UserError("is COCO's JSON, not a data set's yaml", where=source, todo=todo)
    if unknown:
        log.info("%s: not used: %s", source, ", ".join(unknown[:20]))
    for meant, (text, line) in near.items():
        if meant not in content and meant not in ("train", "val", "test", "names"):
            log.warning("%s:%d: `%s` is not used -> call it `%s`, if that is meant", source, line, text, meant)
    path = _optional_word(content.get("path"), source, "path")
    names = _names(content, source, near)
    found = Description(names, [_root(path, source), source.parent], pathless=path is None)
    found.near = {meant: told for meant, told in near.items() if meant not in content}
    if path is not None and not exists(found.roots[0]):
        log.warning("%s: `path: %s` is not there; paths start at %s", source, path[:200], source.parent)
    for split in ("train", "val", "test"):
        if entries := _entries(content.get(split), source, split):
            found.entries[split] = entries
    found.keypoints = _keypoints(content.get("kpt_shape"), source)
    found.pixel_range = _pixel_range(content.get("pixel_range"), source)
    most = _optional_word(content.get("max_det"), source, "max_det")
    found.max_det = None if most is None else _whole(most, 1, 100_000, source, "max_det")
    return found


def _meant(key: str) -> str:
    """The key that somebody may have meant by one that is not known; "" for none."""
    begun = re.fullmatch(r"(train|val|test|names)[_ -].*", key)
    return key if key in _KEYS else NEAR.get(key) or (begun[1] if begun else "".join(closest(key, _KEYS, 0.8)))


def _word(node: yaml.Node, source: Path, what: str, todo: str = COMPARE) -> str:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    line = node.start_mark.line + 1
    raise UserError(f"{what} must be a word, not a list or a map", where=source, line=line, todo=todo)


def _optional_word(node: yaml.Node | None, source: Path, what: str, todo: str = COMPARE) -> str | None:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return None
    return _word(node, source, f"`{what}`", todo)


def _entries(node: yaml.Node | None, source: Path, split: str) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [_word(each, source, f"an entry of `{split}`", ONE_PLACE) for each in node.value]
    text = _optional_word(node, source, split, ONE_PLACE)
    return [text] if text else []


def _numbers(node: yaml.Node | None, source: Path, what: str) -> list[float] | None:
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")):
        return None
    try:
        if isinstance(node, yaml.SequenceNode):
            return [float(_word(each, source, what)) for each in node.value]
    except ValueError:
        pass
    line, todo = node.start_mark.line + 1, f"write e.g. {what}: {'[17, 3]' if what == 'kpt_shape' else '[0, 4095]'}"
    raise UserError(f"`{what}` must be a list of numbers", where=source, line=line, todo=todo)


def _whole(text: str, low: int, high: int, source: Path, what: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text) or not low <= int(text) <= high:
        problem = f"`{what}` must be a whole number from {low} to {high:,}, not {text[:40]!r}"
        raise UserError(
            problem, where=source, line=line_of(source, what), todo=f"write a whole number, or leave out `{what}`"
        )
    return int(text)


def _keypoints(node: yaml.Node | None, source: Path) -> tuple[int, int] | None:
    numbers = _numbers(node, source, "kpt_shape")
    if numbers is None:
        return None
    if not numbers:
        return 0, 2
    if len(numbers) == 2 and numbers[1] in (2, 3) and 0 <= numbers[0] <= 10_000 and numbers[0].is_integer():
        return int(numbers[0]), int(numbers[1])
    raise UserError(
        f"`kpt_shape` must be [how many points, 2 or 3], not {numbers[:5]}",
        where=source,
        line=line_of(source, "kpt_shape"),
        todo="write e.g. kpt_shape: [17, 3], or [] if the labels have no keypoints",
    )


def _pixel_range(node: yaml.Node | None, source: Path) -> tuple[float, float] | None:
    numbers = _numbers(node, source, "pixel_range")
    if numbers is None:
        return None
    if len(numbers) == 2 and -1e12 < numbers[0] < numbers[1] < 1e12:
        return numbers[0], numbers[1]
    raise UserError(
        f"`pixel_range` must be [black, white], the lower value first, not {numbers[:5]}",
        where=source,
        line=line_of(source, "pixel_range"),
        todo="write e.g. pixel_range: [0, 4095] for pictures of 12 bits",
    )


def _names(content: dict[str, yaml.Node], source: Path, near: dict[str, tuple[str, int]]) -> tuple[str, ...]:
    nc = _optional_word(content.get("nc"), source, "nc")
    count = None if nc is None else _whole(nc, 1, MOST_CLASSES, source, "nc")
    node = content.get("names")
    found = read_names_node(node, source)
    if node is None and "names" in near:
        text, line = near["names"]
        raise UserError(f"has no `names`, but `{text}`", where=source, line=line, todo="call it `names`, if it is that")
    if node is None and count is not None:
        return tuple(f"class{number}" for number in range(count))
    if not found:
        what = "" if node is None else ", and is " + ("empty" if not node.value else repr(str(node.value)[:80]))
        raise UserError(
            f"`names` must be a list or a map of class names{what}",
            where=source,
            line=None if node is None else node.start_mark.line + 1,
            todo=_names_todo(str(node.value) if isinstance(node, yaml.ScalarNode) else "", source),
        )
    if count is not None and count != len(found):
        names = f"{len(found)} name{'s' if len(found) > 1 else ''}"
        raise UserError(
            f"`nc: {nc}` disagrees with the {names} in `names`",
            where=source,
            line=line_of(source, "nc"),
            todo=f"write `nc: {len(found)}` or delete the line, if `names` is complete; else complete `names`",
        )
    return checked_names(found, source)


def _names_todo(text: str, source: Path) -> str:
    """What to do about a word where the list of names should be."""
    if re.fullmatch(r"\s*[\[{].*[\]}]\s*", text, re.DOTALL):
        return "take away the quotes around the list"
    if text and (is_file(source.parent / text) or text.lower().endswith((".txt", ".names"))):
        return f"write the names themselves, not the file that has them: names: [cat, dog]; they are in {text[:80]}"
    words = re.split(r"[,;\s]+", text.strip())[:20]
    if len(words) > 1 or (text and not text.strip().isdigit()):
        return f"add brackets: names: [{', '.join(words)}]"
    return "add e.g. `names: [cat, dog]`"


def _root(path: str | None, source: Path) -> Path:
    if path is None:
        return source.parent
    root = user_path(path)
    if not exists(root) and "\\" in path:
        root = user_path(path.replace("\\", "/"))
    if not root.is_absolute():
        beside = source.parent / root
        root = root.absolute() if is_folder(root) and not is_folder(beside) else beside
    return Path(os.path.normpath(root))


def names_listed(path: Path) -> tuple[str, ...]:
    """The classes of a names file, one a line."""
    numbered = [(line.strip(), number) for number, line in enumerate(lines_of(read_text(path)), 1) if line.strip()]
    return checked_names(numbered, path)


def from_darknet(source: Path) -> Description:
    """Read a ``.data`` file."""
    options: dict[str, str] = {}
    for number, line in enumerate(lines_of(read_text(source)), 1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        key, equals, value = text.partition("=")
        if not equals:
            todo = "write `train = train.txt`, `valid = val.txt`, `names = obj.names`; or give --data a yaml"
            raise UserError(f"expected `key = value`, not {text[:80]!r}", where=source, line=number, todo=todo)
        options[key.strip()] = value.strip()
    # Darknet resolves paths against the working directory; files beside the .data file are the common other case.
    roots = [Path.cwd(), source.parent]
    if "names" not in options:
        raise UserError("has no `names = FILE`", where=source, todo="add it: a text file with one class a line")
    finder = Finder(roots, source.parent)
    names_file = finder.find(options["names"])
    finder.announce(source)
    if names_file is None:
        problem = f"the names file {options['names'][:80]!r} is not there"
        todo = "correct the path; relative ones start at the working directory, else at this file"
        if tail := finder.tail(options["names"]):
            todo = f"{tail} lies here: write `names = {tail}`"
        raise UserError(problem, where=source, line=line_of(source, "names"), todo=todo)
    names = names_listed(names_file)
    classes = options.get("classes")
    if not names or (classes is not None and _whole(classes, 1, MOST_CLASSES, source, "classes") != len(names)):
        raise UserError(
            f"`classes = {classes}` disagrees with the {len(names)} names in {names_file}",
            where=source,
            line=line_of(source, "classes"),
            todo=f"write `classes = {len(names)}`, if the names are complete; else add names, one a line",
        )
    splits = (("train", "train"), ("val", "valid"), ("test", "test"))
    found = Description(names, roots, {split: [options[key]] for split, key in splits if options.get(key)})
    if written := next((key for key in ("val", "validation") if options.get(key)), ""):
        found.near["val"] = written, line_of(source, written) or 1
    return found
