"""Boxes that are what they should be, though careless hands drew them or all lie in one place: no false alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.centres import Five, not_centres
from data.convert_form import Annotations, wrong_form
from data.templates import CORNERS, TOP_LEFT

WIDTH, HEIGHT = 640, 480
LARGE = [(10, 8, 648, 470), (20, 6, 630, 470), (0, 12, 630, 487), (3, 2, 637, 476), (16, 8, 630, 470)]
LOW = [(500, 300, 590, 360), (520, 320, 600, 370), (560, 340, 648, 410), (580, 300, 647, 360), (450, 250, 530, 300)]
LAMPS = [(100, -8, 130, 50), (200, 5, 230, 60), (300, -7, 330, 48), (420, 30, 450, 90), (500, 60, 520, 95)]


def as_lines(pictures: list[list[tuple[float, ...]]]) -> list[Five]:
    found = []
    for number, boxes in enumerate(pictures):
        for x1, y1, x2, y2 in boxes:
            box = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
            found.append(Five(Path(f"{number}.txt"), 1, " ".join(map(str, box)), box))
    return found


def as_annotations(
    form: str, pictures: list[list[tuple[float, ...]]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> Annotations:
    numbers = np.array([box for boxes in pictures for box in boxes], float)
    if form == TOP_LEFT:
        numbers[:, 2:] -= numbers[:, :2]
    owners = np.array([number for number, boxes in enumerate(pictures) for _ in boxes])
    return Annotations(form, numbers, np.tile(np.array(size, float), (len(numbers), 1)), owners)


@pytest.mark.parametrize("boxes", [LARGE, LOW, LAMPS], ids=["fill the picture", "low and right", "at the top"])
def test_a_few_pixels_over_the_edge_are_no_other_form(boxes: list[tuple[float, ...]]) -> None:
    pictures: list[list[tuple[float, ...]]] = [[box] for box in boxes]
    assert not not_centres(as_lines(pictures))
    for form in (TOP_LEFT, CORNERS):
        assert wrong_form(as_annotations(form, pictures)) is None
        assert wrong_form(as_annotations(form, 20 * pictures)) is None


def test_one_in_a_hundred_low_boxes_over_the_edge_is_no_other_form() -> None:
    rng = np.random.default_rng(0)
    first = rng.uniform((320, 240), (520, 400), (1000, 2))
    boxes = np.concatenate([first, first + (90, 60)], axis=1)
    boxes[::100, 2] = WIDTH + 8
    assert wrong_form(as_annotations(TOP_LEFT, [[tuple(box)] for box in boxes])) is None


def test_centres_that_leave_low_and_right_are_still_known() -> None:
    rng = np.random.default_rng(0)
    sides = rng.uniform(30, 120, (200, 2))
    centres = rng.uniform(sides / 2, (WIDTH, HEIGHT) - sides / 2)
    found = wrong_form(as_annotations(TOP_LEFT, [[(*c, *(c + s))] for c, s in zip(centres, sides)]))
    assert found is not None
    assert "cx cy w h, in pixels" in found.problem


@pytest.mark.parametrize(
    ("size", "box", "count"),
    [((1920, 1080), (20, 20, 220, 210), 5), ((640, 480), (8, 10, 90, 94), 5), ((3840, 2160), (100, 200, 800, 850), 6)],
    ids=["255", "per cent", "thousandths"],
)
def test_a_logo_in_the_corner_of_every_picture_is_no_unit(
    size: tuple[int, int], box: tuple[float, ...], count: int
) -> None:
    pictures: list[list[tuple[float, ...]]] = [[(box[0] + n, *box[1:])] for n in range(count)]
    for form in (TOP_LEFT, CORNERS):
        assert wrong_form(as_annotations(form, pictures, size)) is None


def test_boxes_of_whole_people_of_whom_much_is_outside_are_no_other_form() -> None:
    rng = np.random.default_rng(0)
    pictures: list[list[tuple[float, ...]]] = []
    for _ in range(12):
        left, top = rng.uniform(0, 560, 8), rng.uniform(150, 420, 8)
        pictures.append([(x, y, x + 60, y + 180) for x, y in zip(left, top)])
    below = np.mean([y2 > 1.05 * HEIGHT for boxes in pictures for *_, y2 in boxes])
    assert 0.2 < below < 0.5, "else it shows nothing"
    for form in (TOP_LEFT, CORNERS):
        assert wrong_form(as_annotations(form, pictures)) is None


def test_close_ups_among_small_objects_are_no_files_of_another_form() -> None:
    small: list[list[tuple[float, ...]]] = [[(50 + 9 * n, 40 + 6 * n, 75 + 9 * n, 70 + 6 * n)] for n in range(60)]
    close: list[list[tuple[float, ...]]] = [[(-45 + n, 20, 555 + n, 490)] for n in range(5)]
    assert not not_centres(as_lines(small + close))


def test_objects_one_pixel_wide_are_told_the_option() -> None:
    pictures: list[list[tuple[float, ...]]] = [[(50, 100, 50, 200)] * 2 + [(300, 200, 309, 230)] * 5] * 3
    found = wrong_form(as_annotations(CORNERS, pictures))
    assert found is not None
    assert "--one-based" in found.todo
