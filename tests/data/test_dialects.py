"""What other programs write in the place of ``class cx cy w h`` is recognised, from many lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.dialects import shown, words_of
from data.labels import check
from data.problems import Problem
from tests.data.made import write_set

WIDTH, HEIGHT = 320, 240
SIDES = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], float)
Row = Callable[[int, np.ndarray], str]


def boxes(count: int, seed: int = 3) -> np.ndarray:
    """(count, 4) cx, cy, w, h of boxes inside the picture."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.05, 0.4, (count, 2))
    return np.concatenate([rng.uniform(sides / 2, 1 - sides / 2), sides], axis=1)


def text(*numbers: object) -> str:
    return " ".join(f"{number:.6f}" if isinstance(number, float) else str(number) for number in numbers)


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def top_left(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] - box[2:] / 2, box[2:]])


def turned(box: np.ndarray) -> np.ndarray:
    shares = np.array([[-0.4, 0.1], [0.1, 0.4], [0.4, -0.1], [-0.1, -0.4]])
    return (box[:2] + shares * box[2:]).ravel()


def pixels(numbers: np.ndarray) -> list[int]:
    return [round(float(number)) for number in numbers * np.resize(SIDES, len(numbers))]


def shares(numbers: np.ndarray) -> list[float]:
    return list(map(float, numbers))


def line(number: int, box: np.ndarray) -> str:
    return text(number % 2, *shares(box))


def problems(tmp_path: Path, row: Row, encoding: str = "utf-8", count: int = 24) -> list[Problem]:
    found = boxes(count)
    pictures: list[tuple[np.ndarray, str | None]] = [
        (np.full((HEIGHT, WIDTH, 3), 60 + number, np.uint8), "x") for number in range(4)
    ]
    path = write_set(tmp_path, {"train": pictures}, "[cat, dog, m.2/x*]")
    for number in range(4):
        lines = [row(place, found[place]) for place in range(number, count, 4)]
        (tmp_path / f"labels/train/train00{number}.txt").write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return check(path, ["train"]).problems


NAMES = ("cat", "dog")
CASES: dict[str, tuple[Row, str, str]] = {
    "a confidence before the box": (
        lambda n, box: text(n % 2, 0.3 + n % 7 / 10, *shares(box)),
        "class confidence cx cy w h",
        "{print $1,$3,$4,$5,$6}",
    ),
    "a confidence after the box": (
        lambda n, box: text(n % 2, *shares(box), 0.3 + n % 7 / 10),
        "class cx cy w h confidence",
        "{print $1,$2,$3,$4,$5}",
    ),
    "a detector's output": (
        lambda n, box: text(*shares(corners(box) * SIDES), 0.3 + n % 7 / 10, n % 2),
        "x1 y1 x2 y2 confidence class, in pixels",
        "cx = (x1 + x2) / 2",
    ),
    "a track before the class": (
        lambda n, box: text(n + 1, n % 2, *shares(box)),
        "id class cx cy w h",
        "{print $2,$3,$4,$5,$6}",
    ),
    "the class at the end": (
        lambda n, box: text(*shares(box), n % 2),
        "cx cy w h class",
        "{print $5,$1,$2,$3,$4}",
    ),
    "no class": (lambda n, box: text(*shares(box)), "cx cy w h", "the number of its class first"),
    "four points without a class": (
        lambda n, box: text(*shares(turned(box))),
        "x1 y1 x2 y2 x3 y3 x4 y4",
        "the number of its class first",
    ),
    "outlines without a class": (
        lambda n, box: text(*shares(np.resize(turned(box), 12 + 2 * (n % 3)))),
        "outlines without a class",
        "the number of the class before the points",
    ),
    "outlines in pixels": (
        lambda n, box: text(n % 2, *pixels(np.resize(turned(box), 8 + 2 * (n % 3)))),
        "outlines in pixels",
        "divide x by the picture's width",
    ),
    "turned boxes in pixels": (
        lambda n, box: text(n % 2, *pixels(turned(box))),
        "outlines in pixels",
        "divide x by the picture's width",
    ),
    "DOTA": (
        lambda n, box: text(*shares(turned(box) * np.resize(SIDES, 8)), "large-vehicle", n % 2),
        "DOTA's x1 y1 x2 y2 x3 y3 x4 y4 name difficult",
        "the upright box around the four points",
    ),
    "degrees": (
        lambda n, box: text(n % 2, *shares(box), -90 + n * 7.3),
        "class cx cy w h angle",
        "w |cos a| + h |sin a|",
    ),
    "radians": (
        lambda n, box: text(n % 2, *shares(box), -1.5 + n * 0.13),
        "class cx cy w h angle",
        "w |cos a| + h |sin a|",
    ),
    "whole degrees, or tracks": (
        lambda n, box: text(n % 2, *shares(box), 7 * n),
        "class cx cy w h angle or class cx cy w h id",
        "compare a line with its picture",
    ),
    "outlines with a confidence, of many classes": (
        lambda n, box: text(n % 2, *shares(np.resize(turned(box), 12 + 2 * (n % 3))), 0.9),
        "outlines with one number more, such as a confidence",
        "leave out the last number",
    ),
    "a distance and a flag": (
        lambda n, box: text(n % 2, *shares(box), 5 + 0.7 * n, n % 2),
        "class cx cy w h and 2 more",
        "{print $1,$2,$3,$4,$5}",
    ),
    "a distance": (
        lambda n, box: text(n % 2, *shares(box), 5 + 0.7 * n),
        "class cx cy w h and 1 more",
        "{print $1,$2,$3,$4,$5}",
    ),
    "a distance, a track and a flag": (
        lambda n, box: text(n % 2, *shares(box), 5 + 0.7 * n, n + 4, n % 2),
        "class cx cy w h and 3 more",
        "{print $1,$2,$3,$4,$5}",
    ),
    "names, a distance and a flag": (
        lambda n, box: text(NAMES[n % 2], *shares(box), 5 + 0.7 * n, n % 2),
        "class names in place of numbers and class cx cy w h and 2 more",
        "keep the name and the four numbers behind it",
    ),
    "corners in pixels, a distance and a flag": (
        lambda n, box: text(n % 2, *pixels(corners(box)), 5 + 0.7 * n, n % 2),
        "class x1 y1 x2 y2, in pixels and 2 more",
        "w = x2 - x1",
    ),
    "centres as shares, sizes in pixels": (
        lambda n, box: text(n % 2, *shares(box)[:2], *pixels(box)[2:]),
        "class cx cy as shares of the picture, w h in pixels",
        "divide w by the picture's width and h by its height",
    ),
    "centres in pixels, sizes as shares": (
        lambda n, box: text(n % 2, *pixels(box)[:2], *shares(box)[2:]),
        "class cx cy in pixels, w h as shares of the picture",
        "divide cx by the picture's width and cy by its height",
    ),
    "x as shares, y in pixels": (
        lambda n, box: text(n % 2, shares(box)[0], pixels(box)[1], shares(box)[2], pixels(box)[3]),
        "class cx w as shares of the picture, cy h in pixels",
        "divide cy and h by the picture's height",
    ),
    "x in pixels, y as shares": (
        lambda n, box: text(n % 2, pixels(box)[0], shares(box)[1], pixels(box)[2], shares(box)[3]),
        "class cx w in pixels, cy h as shares of the picture",
        "divide cx and w by the picture's width",
    ),
    "triangles in pixels": (
        lambda n, box: text(n % 2, *pixels(turned(box)[:6])),
        "outlines in pixels",
        "divide x by the picture's width",
    ),
    "centres in pixels": (
        lambda n, box: text(n % 2, *shares(box * SIDES)),
        "class cx cy w h, in pixels",
        "cx and w divided by the picture's width",
    ),
    "corners in pixels": (
        lambda n, box: text(n % 2, *pixels(corners(box))),
        "class x1 y1 x2 y2, in pixels",
        "w = x2 - x1",
    ),
    "top left in pixels": (
        lambda n, box: text(n % 2, *pixels(top_left(box))),
        "class x1 y1 w h, in pixels",
        "cx = x1 + w / 2",
    ),
    "corners in pixels, y first": (
        lambda n, box: text(n % 2, *pixels(corners(box))[:2][::-1], *pixels(corners(box))[2:][::-1]),
        "class y1 x1 y2 x2, in pixels",
        "w = x2 - x1",
    ),
    "centres in pixels, y first": (
        lambda n, box: text(n % 2, *shares((box * SIDES)[[1, 0, 3, 2]])),
        "class cy cx h w, in pixels",
        "x before y, width before height",
    ),
    "top left in pixels, y first": (
        lambda n, box: text(n % 2, *pixels(top_left(box))[:2][::-1], *pixels(top_left(box))[2:][::-1]),
        "class y1 x1 h w, in pixels",
        "cx = x1 + w / 2",
    ),
    "sides in pixels, y first": (
        lambda n, box: text(n % 2, *(pixels(corners(box))[place] for place in (1, 3, 0, 2))),
        "class y1 y2 x1 x2, in pixels",
        "w = x2 - x1",
    ),
    "a detector's output, y first": (
        lambda n, box: text(*shares((corners(box) * SIDES)[[1, 0, 3, 2]]), 0.3 + n % 7 / 10, n % 2),
        "y1 x1 y2 x2 confidence class, in pixels",
        "cx = (x1 + x2) / 2",
    ),
    "names and corners in pixels, y first": (
        lambda n, box: text(NAMES[n % 2], *shares((corners(box) * SIDES)[[1, 0, 3, 2]])),
        "class names in place of numbers and name y1 x1 y2 x2, in pixels",
        "w = x2 - x1",
    ),
    "top, right, bottom, left": (
        lambda n, box: text(n % 2, *(pixels(corners(box))[place] for place in (1, 2, 3, 0))),
        "class y1 x2 y2 x1, in pixels",
        "w = x2 - x1",
    ),
    "parts of 65535": (
        lambda n, box: text(n % 2, *(round(65535 * float(side)) for side in box)),
        "class cx cy w h, in parts of 65535",
        "each divided by 65535",
    ),
    "per cent signs": (
        lambda n, box: text(n % 2, *(f"{100 * side:.2f}%" for side in box)),
        "numbers with per cent signs",
        "divide what had them by 100",
    ),
    "commas": (lambda n, box: line(n, box).replace(" ", ","), "commas between the numbers", "s/,/ /g"),
    "commas and spaces": (lambda n, box: line(n, box).replace(" ", ", "), "commas between the numbers", "s/,/ /g"),
    "semicolons": (lambda n, box: line(n, box).replace(" ", ";"), "semicolons between the numbers", "s/;/ /g"),
    "decimal commas": (lambda n, box: line(n, box).replace(".", ","), "commas instead of decimal points", "s/,/./g"),
    "semicolons and decimal commas": (
        lambda n, box: line(n, box).replace(".", ",").replace(" ", ";"),
        "semicolons between the numbers and commas instead of decimal points",
        "s/,/./g; s/;/ /g",
    ),
    "quotes": (lambda n, box: '"' + line(n, box).replace(" ", '" "') + '"', "words in quotes", "sed -i"),
    "brackets": (lambda n, box: f"[{line(n, box)}]", "numbers in brackets", "sed -i"),
    "colons": (lambda n, box: line(n, box).replace(" ", ": ", 1), "colons between the numbers", "s/:/ /g"),
    "names": (
        lambda n, box: text(NAMES[n % 2], *shares(box)),
        "class names in place of numbers",
        "'cat' is 0, 'dog' is 1; in a copy of the labels, for each class: sed -i 's/^cat /0 /'",
    ),
    "names with signs": (
        lambda n, box: text("m.2/x*", *shares(box)),
        "class names in place of numbers",
        r"sed -i 's/^m\.2\/x\* /2 /'",
    ),
    "names nobody knows": (
        lambda n, box: text(("fire truck", "zebra")[n % 2], *shares(box)),
        "class names in place of numbers",
        "have no 'fire truck', 'zebra'",
    ),
    "names and corners in pixels": (
        lambda n, box: text(NAMES[n % 2], *pixels(corners(box))),
        "class names in place of numbers and name x1 y1 x2 y2, in pixels",
        "w = x2 - x1",
    ),
    "names at the end": (
        lambda n, box: text(*pixels(corners(box)), NAMES[n % 2]),
        "class names in place of numbers and x1 y1 x2 y2 name, in pixels",
        r"s/^\(.*\) cat$/0 \1/",
    ),
    "thousandths": (
        lambda n, box: text(n % 2, *(round(1000 * float(side)) for side in box)),
        "class cx cy w h, in thousandths",
        "each divided by 1000",
    ),
    "a picture's name": (
        lambda n, box: f"images/{n}.png {line(n, box)}",
        "the name of a picture in each line",
        "take it away",
    ),
    "Git LFS": (lambda n, box: "version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS", "git lfs pull"),
    "a web page": (lambda n, box: "<!DOCTYPE html><html>", "a web page", "download the labels again"),
    "KITTI": (
        lambda n, box: text("Car", 0.0, 0, -1.5, *shares(corners(box) * SIDES), 1.6, 1.6, 3.6, -0.6, 1.7, 46.7, -1.5),
        "KITTI's name",
        "the numbers 5 to 8",
    ),
    "JSON": (lambda n, box: '{"bbox": [1, 2, 3, 4]}', "JSON", "thinyolo convert coco"),
    "XML": (lambda n, box: "<annotation>", "XML", "thinyolo convert voc"),
}


PARTLY = ("KITTI", "Git LFS")
"""Of these only the beginning is compared."""


@pytest.mark.parametrize("case", CASES)
def test_what_other_programs_write_is_named_with_what_to_do(tmp_path: Path, case: str) -> None:
    row, looks, todo = CASES[case]
    found = problems(tmp_path, row)
    assert {problem.severity for problem in found} == {"error"}
    assert {problem.kind for problem in found} == {f"is not `class cx cy w h`; looks like {looks}"} or case in PARTLY
    assert all(looks in problem.kind for problem in found)
    assert len(found) == 24, "one for each line"
    assert (found[0].file.name, found[0].line) == ("train000.txt", 1)
    assert found[0].detail == shown(row(0, boxes(24)[0])), "its beginning is shown"
    assert todo in found[0].todo


HEADERS = {
    "class x y w h": ("a line of words, such as a header", "delete such lines"),
    "class_id,x_center,y_center,width,height": ("a line of words, such as a header", "delete such lines"),
    "# drawn by hand": ("a comment", "delete such lines"),
    "6": ("a count of the objects", "delete such lines"),
    "imagesource:GoogleEarth": ("a header line of DOTA's labels", "delete such lines"),
    "gsd:0.146": ("a header line of DOTA's labels", "delete such lines"),
}


@pytest.mark.parametrize("header", HEADERS)
def test_a_line_before_good_ones_is_named_alone(tmp_path: Path, header: str) -> None:
    looks, todo = HEADERS[header]
    found = problems(tmp_path, lambda n, box: f"{header}\n{line(n, box)}" if n < 4 else line(n, box))
    assert [(problem.file.name, problem.line) for problem in found] == [(f"train00{n}.txt", 1) for n in range(4)]
    assert all(looks in problem.kind and todo in problem.todo for problem in found)
    if "words" in looks:
        assert f"sed -i '/^{header}/d'" in found[0].todo, "names of classes are no headers: only this line goes"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    found = problems(tmp_path, line, encoding)
    assert {problem.kind for problem in found} == {"is not `class cx cy w h`; looks like text in UTF-16 or UTF-32"}
    assert "iconv" in found[0].todo
    assert "\0" not in found[0].detail


@pytest.mark.parametrize("separator", [" ", "\t", "  ", "\u00a0"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spaces_and_tabs_of_any_kind_are_read(tmp_path: Path, separator: str, encoding: str) -> None:
    assert not problems(tmp_path, lambda n, box: line(n, box).replace(" ", separator), encoding)


def test_per_cent_and_pixels_are_told_apart_by_the_sizes_of_the_pictures(tmp_path: Path) -> None:
    found = problems(tmp_path, lambda n, box: text(n % 2, *shares(100 * box)), count=40)
    assert {problem.kind for problem in found} == {"is not `class cx cy w h`; looks like class cx cy w h, in per cent"}
    assert "divided by 100" in found[0].todo


def test_bytes_and_other_encodings_are_told(tmp_path: Path) -> None:
    found = problems(tmp_path / "latin", lambda n, box: f"caf\xe9 {text(*shares(box))}", "latin-1")
    assert {problem.kind for problem in found} == {
        "is not `class cx cy w h`; looks like text in another encoding than UTF-8"
    }
    found = problems(tmp_path / "bytes", lambda n, box: "a\0bcdefghij")
    assert {problem.kind for problem in found} == {"is not `class cx cy w h`; looks like bytes that are no text"}


def test_several_objects_in_a_line_are_told(tmp_path: Path) -> None:
    found = problems(tmp_path, lambda n, box: f"{line(n, box)} {line(n + 1, box)} {line(n, box)}")
    assert all("3 objects in one line" in problem.detail for problem in found)
    assert "xargs -n 5" in found[0].todo


def test_of_one_broken_line_among_good_ones_no_columns_are_claimed(tmp_path: Path) -> None:
    for broken in ("0 .5 .5 .1", "0 .5 .5 .1 .1 .9", "0 100 50 20 20"):
        (problem,) = problems(tmp_path / broken, lambda n, box, broken=broken: broken if n == 9 else line(n, box))
        assert "looks like" not in problem.kind
        assert repr(broken) in problem.detail


def test_what_fits_in_two_ways_is_told_as_two(tmp_path: Path) -> None:
    middle = 0.2 * boxes(24) + [
        0.4,
        0.4,
        0,
        0,
    ]  # small boxes in the middle: of centre and size, and of top left and size
    found = problems(tmp_path, lambda n, box: text(n % 2, *shares(middle[n] * SIDES)))
    assert "class cx cy w h, in pixels or class x1 y1 w h, in pixels" in found[0].kind
    assert "compare a line with its picture" in found[0].todo


def test_where_nothing_tells_whether_x_comes_first_both_are_named(tmp_path: Path) -> None:
    square = np.minimum(boxes(24), [0.6, 1, 0.2, 1])  # in the left part: of a picture as high as wide
    found = problems(tmp_path, lambda n, box: text(n % 2, *pixels(corners(square[n] * [0.7, 1, 0.7, 1]))))
    assert {problem.kind for problem in found} == {"is not `class cx cy w h`; looks like class x1 y1 x2 y2, in pixels"}
    assert "for y1 x1 y2 x2 looks the same: then exchange x and y" in found[0].todo


def test_class_numbers_from_one_are_told(tmp_path: Path) -> None:
    found = problems(tmp_path, lambda n, box: text(n % 3 + 1, *shares(box)))
    assert {problem.kind for problem in found} == {"class out of range"}
    assert "subtract 1" in found[0].todo
    found = problems(tmp_path / "other", lambda n, box: text(n % 4, *shares(box)))
    assert "subtract 1" not in found[0].todo


def test_the_whole_message_is_one_kind_with_places_and_what_to_do(tmp_path: Path) -> None:
    problems(tmp_path, CASES["commas"][0])
    with pytest.raises(UserError) as caught:
        check(tmp_path / "data.yaml", ["train"]).announce()
    message = str(caught.value)
    assert "24 x is not `class cx cy w h`; looks like commas between the numbers" in message
    assert "train000.txt:1: " in message
    assert message.count("-> ") == 1


@pytest.mark.parametrize(
    ("written", "marks", "words"),
    [
        ("0,0.5,0.5", ["commas"], "0 0.5 0.5"),
        ("0 10,20 30,40 50,60", ["decimal commas"], "0 10.20 30.40 50.60"),
        ("0 110,20 30,40 50,60", ["commas"], "0 110 20 30 40 50 60"),
        ("0 50% 7 %", ["per cent signs"], "0 0.5 0.07"),
        ("class=0 x=.5", ["equals signs"], "class 0 x .5"),
    ],
)
def test_words_are_found_between_marks(written: str, marks: list[str], words: str) -> None:
    assert words_of(written) == (marks, words.split())


def test_zeros_at_the_end_are_no_utf_16(tmp_path: Path) -> None:
    (first, *_) = problems(tmp_path, lambda number, box: line(number, box) + ("\n\0\0\0\0\0\0" if number == 3 else ""))
    assert "cut off while it was written" in first.todo + first.kind + first.detail
    assert "iconv" not in first.todo


def test_a_comment_behind_the_numbers_is_no_class_name(tmp_path: Path) -> None:
    (first, *_) = problems(tmp_path, lambda number, box: line(number, box) + "  # a cell")
    assert "a comment behind the numbers" in first.todo + first.kind + first.detail
    assert "class names" not in first.todo + first.kind
