"""Annotations whose boxes are of another form or unit than their format has stop the conversion, with what they are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from data.convert import coco_to_yolo, voc_to_yolo
from data.convert_form import Annotations, wrong_form
from data.pictures import ANY_RANGE, picture_shapes, read_picture
from data.spec import find_label, load_spec
from data.templates import CORNERS, POINTS, TOP_LEFT
from tests.data.made import rectangle, write_picture
from tests.shared import shared
from thinyolo.main import main

WIDTH, HEIGHT = 160, 120
SIDES = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], float)
Form = Callable[[np.ndarray], np.ndarray]


def boxes(count: int, seed: int = 3) -> np.ndarray:
    """(count, 4) x1, y1, x2, y2 in pixels of boxes inside the picture."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.08, 0.4, (count, 2))
    centres = rng.uniform(sides / 2, 1 - sides / 2)
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1) * SIDES


def sized(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2], box[2:] - box[:2]])


def centred(box: np.ndarray) -> np.ndarray:
    return np.concatenate([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])


FORMS: dict[str, Form] = {
    "x1 y1 x2 y2, in pixels": lambda box: box,
    "x1 y1 w h, in pixels": sized,
    "cx cy w h, in pixels": centred,
    "y1 x1 y2 x2, in pixels": lambda box: box[[1, 0, 3, 2]],
    "y1 x1 h w, in pixels": lambda box: sized(box)[[1, 0, 3, 2]],
    "x1 x2 y1 y2, in pixels": lambda box: box[[0, 2, 1, 3]],
    "x2 y2 x1 y1, in pixels": lambda box: box[[2, 3, 0, 1]],
    "x1 y2 x2 y1, in pixels": lambda box: box[[0, 3, 2, 1]],
    "x1 y1 x2 y2, in shares of the picture": lambda box: box / SIDES,
    "x1 y1 w h, in shares of the picture": lambda box: sized(box) / SIDES,
    "cx cy w h, in shares of the picture": lambda box: centred(box) / SIDES,
    "x1 y1 x2 y2, in thousandths": lambda box: 1000 * box / SIDES,
    "x1 y1 w h, in thousandths": lambda box: 1000 * sized(box) / SIDES,
}


def coco(tmp_path: Path, form: Form, count: int = 60) -> Path:
    """A COCO file of `count` boxes in 12 pictures, and the pictures."""
    images, rows = [], []
    for number in range(12):
        write_picture(tmp_path / f"images/{number}.png", np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        images.append({"id": number, "file_name": f"{number}.png"})
    for number, box in enumerate(boxes(count)):
        bbox = form(box).tolist()
        rows.append({"id": number, "image_id": number % 12, "category_id": 1, "bbox": bbox})
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "cat"}]}, indent=0)
    )
    return path


def voc(tmp_path: Path, form: Form, count: int = 60) -> Path:
    """The same as VOC files."""
    (tmp_path / "xml").mkdir(parents=True)
    found = boxes(count)
    for number in range(12):
        write_picture(tmp_path / f"images/{number}.png", np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        objects = "\n".join(
            "<object><name>cat</name><bndbox>"
            + "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), form(box)))
            + "</bndbox></object>"
            for box in found[number::12]
        )
        (tmp_path / f"xml/{number}.xml").write_text(f"<annotation>\n{objects}\n</annotation>")
    return tmp_path / "xml"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("convert", ["coco", "voc"])
def test_boxes_of_another_form_stop_the_conversion_and_are_named(tmp_path: Path, convert: str, form: str) -> None:
    right = form == {"coco": "x1 y1 w h, in pixels", "voc": "x1 y1 x2 y2, in pixels"}[convert]
    source = (coco if convert == "coco" else voc)(tmp_path, FORMS[form])
    made, images, out = coco_to_yolo if convert == "coco" else voc_to_yolo, tmp_path / "images", tmp_path / "set"
    if right:
        done = made(source, images, out)
        assert (sum(done.boxes.values()), done.problems) == (60, [])
        return
    with pytest.raises(UserError, match=f"the numbers look like {form} ") as caught:
        made(source, images, out)
    assert caught.value.todo.startswith("write x y width height" if convert == "coco" else "write xmin ymin xmax ymax")
    assert (caught.value.line is None) == (convert == "coco")
    assert "(the first is " in caught.value.problem
    assert not out.exists()


def test_the_command_ends_with_status_2_and_says_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = coco(tmp_path, FORMS["x1 y1 x2 y2, in pixels"])
    arguments = ["convert", "coco", str(source), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "set")]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "of 60 boxes " in said
    assert "reach outside their picture" in said
    assert "width = x2 - x1, height = y2 - y1" in said


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_of_a_few_boxes_are_known(tmp_path: Path, count: int) -> None:
    with pytest.raises(UserError, match="smaller than a pixel"):
        coco_to_yolo(coco(tmp_path, lambda box: sized(box) / SIDES, count), tmp_path / "images", tmp_path / "set")


def test_the_unit_is_known_by_a_corner_that_all_boxes_of_large_pictures_lie_in() -> None:
    found, sizes, owners = boxes(40), np.full((40, 2), 900.0), np.arange(40)
    for part, unit in ((100, "per cent"), (255, "parts of 255")):
        wrong = wrong_form(Annotations(CORNERS, found / SIDES * part, sizes, owners))
        assert wrong is not None
        assert f"x1 y1 x2 y2, in {unit}" in wrong.problem
        assert f"divide each by {part}" in wrong.todo
    corner = found / SIDES * 60
    assert wrong_form(Annotations(CORNERS, corner, sizes, owners)) is None, "a part of the corner only"
    one = np.zeros(40, int)
    assert wrong_form(Annotations(CORNERS, found / SIDES * 255, sizes, one)) is None, "one picture shows nothing"


@pytest.mark.parametrize("name", ["face_mask", "bccd", "coco128", "deeppcb", "hand_gesture", "ir_flight"])
def test_real_boxes_and_careless_ones_are_what_they_should_be(name: str) -> None:
    """Of each real data set: as they are, by a few, and with a tenth of them drawn past an edge."""
    spec = load_spec(shared(f"datasets/{name}/data.yaml"))
    pictures = [path for paths in spec.splits.values() for path in paths][:150]
    rows, sizes, owners = [], [], []
    for place, (picture, shape) in enumerate(zip(pictures, picture_shapes(pictures, ANY_RANGE))):
        label = find_label(picture)
        for row in np.loadtxt(label, ndmin=2).reshape(-1, 5) if label and not isinstance(shape, str) else ():
            size = np.array(shape[::-1], float)
            rows.append(np.concatenate([(row[1:3] - row[3:] / 2) * size, (row[1:3] + row[3:] / 2) * size]))
            sizes.append(size)
            owners.append(place)
    found, limits, places = np.array(rows), np.array(sizes), np.array(owners)
    rng = np.random.default_rng(1)
    careless = found.copy()
    for side in range(4):
        which = rng.random(len(found)) < 0.025
        careless[which, side] = rng.uniform(-0.1, 0, which.sum()) if side < 2 else rng.uniform(1, 1.1, which.sum())
        careless[which, side] *= limits[which, side % 2]
    for each in (found, careless, np.maximum(careless, 0)):
        given = {CORNERS: each, TOP_LEFT: np.array([sized(box) for box in each]), POINTS: each}
        for form, numbers in given.items():
            assert wrong_form(Annotations(form, numbers, limits, places)) is None
            for _ in range(20):
                few = rng.choice(len(found), min(len(found), int(rng.integers(1, 30))), replace=False)
                if each is found:
                    assert wrong_form(Annotations(form, numbers[few], limits[few], places[few])) is None


def test_outlines_in_shares_are_known_too(tmp_path: Path) -> None:
    source = coco(tmp_path, sized)
    content = json.loads(source.read_text())
    for row, box in zip(content["annotations"], boxes(60)):
        x1, y1, x2, y2 = (box / SIDES).tolist()
        del row["bbox"]
        row["segmentation"] = [[x1, y1, x2, y1, x2, y2]]
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"smaller than a pixel, read as x y x y \.\.\., in pixels: .* in shares of"):
        coco_to_yolo(source, tmp_path / "images", tmp_path / "set")


# Sizes -------------------------------------------------------------------------------------------------------------


def sized_picture(
    tmp_path: Path, box: list[float], size: tuple[int, int], orientation: int = 1, stem: str = "a"
) -> Path:
    """A picture stored as 40 high and 80 wide with a bright box (x1 y1 x2 y2), and its XML file with a size (w, h)."""
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "xml").mkdir(exist_ok=True)
    inside = tuple(int(side) for side in box)
    image = rectangle((40, 80), inside, (255, 255, 255))  # type: ignore[arg-type]
    Image.fromarray(image).save(tmp_path / f"images/{stem}.png", exif=exif)
    sides = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), box))
    given = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size[0] else ""
    thing = f"<object><name>cat</name><bndbox>{sides}</bndbox></object>"
    (tmp_path / f"xml/{stem}.xml").write_text(f"<annotation>\n{given}{thing}</annotation>")
    return tmp_path / "xml"


def written(tmp_path: Path, **options: bool) -> tuple[np.ndarray, list[tuple[str, int | None]]]:
    """x1 y1 x2 y2 in pixels of the picture as it is read, and what was said."""
    done = voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path / "set", **options)
    _, x, y, w, h = np.loadtxt(tmp_path / "set/labels/train/a.txt")
    height, width = read_picture(tmp_path / "set/images/train/a.png").shape[:2]
    corners = np.array([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height])
    return corners, [(problem.kind, problem.line) for problem in done.problems]


@pytest.mark.parametrize("shrunk", [1, 3])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_the_picture_as_it_is_stored_turn_with_it(tmp_path: Path, orientation: int, shrunk: int) -> None:
    sized_picture(tmp_path, [5, 10, 25, 22], (80, 40), orientation)
    text = (tmp_path / "xml/a.xml").read_text()
    for tag, side in (("width", 80), ("height", 40), ("xmin", 5), ("ymin", 10), ("xmax", 25), ("ymax", 22)):
        text = text.replace(f"<{tag}>{side}<", f"<{tag}>{side * shrunk}<")
    (tmp_path / "xml/a.xml").write_text(text)
    corners, said = written(tmp_path)
    ys, xs = np.nonzero(read_picture(tmp_path / "images/a.png")[:, :, 0])
    np.testing.assert_allclose(corners, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], atol=1e-3)
    assert said == [
        ("boxes of the picture as it is stored, which are turned with it as its EXIF orientation says", 2),
    ]


@pytest.mark.parametrize(("size", "box"), [((40, 80), [5, 10, 25, 70]), ((80, 40), [5, 10, 25, 70])])
def test_boxes_of_the_picture_as_it_is_shown_stay(tmp_path: Path, size: tuple[int, int], box: list[float]) -> None:
    """Also where a program writes the stored size beside them: these do not fit it."""
    sized_picture(tmp_path, box, size, 6)
    corners, said = written(tmp_path)
    np.testing.assert_allclose(corners, box, atol=1e-3)
    assert len(said) == (size == (80, 40))


@pytest.mark.parametrize(("size", "orientation"), [((80, 40), 2), ((80, 40), 3), ((80, 40), 4), ((0, 0), 6)])
def test_what_is_mirrored_among_pictures_annotated_unturned_is_told(
    tmp_path: Path, size: tuple[int, int], orientation: int
) -> None:
    sized_picture(tmp_path, [5, 10, 25, 22], size, orientation)
    corners, said = written(tmp_path)
    assert said == [], "nothing tells"
    (tmp_path / "set").rename(tmp_path / "old")
    sized_picture(tmp_path, [5, 10, 25, 22], (80, 40), 6, "b")
    again, said = written(tmp_path)
    np.testing.assert_allclose(again, corners)
    assert said[1][0].startswith("boxes left as they are, though EXIF turns the picture")
    assert len(said) == 2


def test_boxes_that_fit_pictures_as_they_are_stored_only_name_exif(tmp_path: Path) -> None:
    for number in range(12):
        sized_picture(tmp_path, [5 + number, 10, 60 + number, 22], (0, 0), 6, f"{number}")
    with pytest.raises(UserError, match="drawn by a program that ignores EXIF orientation") as caught:
        voc_to_yolo(tmp_path / "xml", tmp_path / "images", tmp_path / "set")
    assert "exiftool -Orientation=" in caught.value.todo
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("size", "box", "said"),
    [
        (
            (40, 80),
            [5, 10, 70, 22],
            "the annotation's size cannot be meant; the picture's, which all boxes fit, is taken",
        ),
        (
            (60, 60),
            [5, 10, 78, 22],
            "the annotation's size cannot be meant; the picture's, which all boxes fit, is taken",
        ),
        (
            (640, 480),
            [64, 48, 320, 240],
            "the annotation's size, which alone all boxes fit, is taken as if the picture",
        ),
        ((79, 40), [8, 4, 40, 20], "the annotation's size is not the picture's"),
        ((813, 406), [81.3, 40.6, 406.5, 203], "the annotation's size is not the picture's"),
    ],
)
def test_a_size_of_another_aspect_is_taken_where_the_boxes_fit_no_other(
    tmp_path: Path, size: tuple[int, int], box: list[float], said: str
) -> None:
    sized_picture(tmp_path, box, size)
    corners, problems = written(tmp_path)
    expected = box if "cannot" in said else [8, 4, 40, 20]
    np.testing.assert_allclose(corners, expected, atol=0.6)
    ((kind, line),) = problems
    assert kind.startswith(said)
    assert line == 2


@pytest.mark.parametrize(
    ("size", "box", "todo"),
    [
        ((40, 80), [5, 10, 25, 22], "exchange width and height; if the picture was turned later"),
        ((40, 80), [5, 10, 25, 70], "exchange width and height; if the picture was turned later"),
        ((640, 480), [5, 10, 25, 22], "0: not known, the picture's are taken"),
        ((60, 60), [5, 10, 25, 70], "0: not known, the picture's are taken"),
    ],
)
def test_a_size_of_another_aspect_is_refused_where_the_boxes_do_not_tell(
    tmp_path: Path, size: tuple[int, int], box: list[float], todo: str
) -> None:
    sized_picture(tmp_path, box, size)
    if size == (60, 60):
        sized_picture(tmp_path, [5, 10, 79, 22], size, stem="b")
    with pytest.raises(UserError, match=f"size is {size[0]} x {size[1]}, but .*a.png has 80 x 40") as caught:
        written(tmp_path)
    assert todo in caught.value.todo
    assert (caught.value.where, caught.value.line) == (tmp_path / "xml/a.xml", 2)
    assert not (tmp_path / "set").exists()


def test_a_size_of_another_aspect_is_meant_with_as_written(tmp_path: Path) -> None:
    sized_picture(tmp_path, [64, 48, 80, 40], (640, 480))
    sized_picture(tmp_path, [32, 12, 64, 36], (640, 480))
    corners, said = written(tmp_path, as_written=True)
    np.testing.assert_allclose(corners, [4, 1, 8, 3], atol=1e-3)
    assert said == [("the annotation's size is not the picture's", 2)]


# What is lost ------------------------------------------------------------------------------------------------------


def changed(tmp_path: Path, change: Callable[[dict], None], count: int = 60) -> Path:
    """A right COCO file, of which each annotation is changed."""
    source = coco(tmp_path, sized, count)
    content = json.loads(source.read_text())
    for row in content["annotations"]:
        change(row)
    source.write_text(json.dumps(content))
    return source


def kinds(tmp_path: Path, source: Path) -> tuple[int, set[str]]:
    done = coco_to_yolo(source, tmp_path / "images", tmp_path / "set")
    return sum(done.boxes.values()), {problem.kind for problem in done.problems}


def test_a_segmentation_without_bbox_gives_the_box_around_it_and_that_is_said(tmp_path: Path) -> None:
    def outlined(row: dict) -> None:
        x, y, w, h = row["bbox"]
        around = [x, y, x + w, y, x + w, y + h / 2]
        row["segmentation"] = ([[*around], [x, y + h, x, y, x, y]], [*around, x, y + h])[row["id"] % 2]
        row["bbox"] = (None, [], [0, 0, 0, 0])[row["id"] % 3]

    count, said = kinds(tmp_path, changed(tmp_path, outlined))
    assert (count, said) == (60, {"annotation without bbox; the box around its segmentation is taken"})
    rows = np.concatenate([np.loadtxt(tmp_path / f"set/labels/train/{n}.txt", ndmin=2) for n in range(12)])
    expected = np.concatenate([[centred(box) / SIDES for box in boxes(60)[n::12]] for n in range(12)])
    np.testing.assert_allclose(rows[:, 1:], expected, atol=2e-6)


LOST: dict[str, tuple[Callable[[dict], None], str]] = {
    "a dictionary": (
        lambda row: row.update(bbox=dict(zip(("x", "y", "width", "height"), row["bbox"]))),
        "none of 60 annotated objects became a box",
    ),
    "digits as keys": (lambda row: row.update(bbox=dict(zip("1234", row["bbox"]))), "none of 60"),
    "digits in a text": (lambda row: row.update(bbox="1234"), "none of 60"),
    "truth values": (lambda row: row.update(bbox=[True] * 4), "none of 60"),
    "a mask": (lambda row: row.update(bbox=None, segmentation={"counts": "x", "size": [1, 1]}), "is a mask"),
    "names of categories": (lambda row: row.update(category_id="cat"), "none of 60"),
    "most of them": (lambda row: row.update(bbox=row["bbox"][: 4 - (row["id"] % 5 > 1)]), "24 of 60 annotated objects"),
    "names of images": (lambda row: row.update(image_id=f"{row['image_id']}.png"), "60 of 60 annotations are of no"),
    "all crowds": (lambda row: row.update(iscrowd=1), "--keep-crowd"),
}


@pytest.mark.parametrize("case", LOST)
def test_where_nothing_or_little_is_left_the_conversion_stops(tmp_path: Path, case: str) -> None:
    change, said = LOST[case]
    with pytest.raises(UserError, match=said):
        kinds(tmp_path, changed(tmp_path, change))
    assert not (tmp_path / "set").exists()


def test_ids_that_are_text_on_one_side_are_the_same_where_only_one_can_be_meant(tmp_path: Path) -> None:
    def as_text(row: dict) -> None:
        row.update(image_id=str(row["image_id"]), category_id="1", bbox=[str(number) for number in row["bbox"]])

    source = changed(tmp_path, as_text)
    count, said = kinds(tmp_path, source)
    assert count == 60
    assert said == {"image_id is text and the image's id a number, or the reverse: taken for the same"}
    content = json.loads(source.read_text())
    for entry in content["images"]:
        entry["id"] = f"{entry['id']:04}"
    source.write_text(json.dumps(content))
    (tmp_path / "set").rename(tmp_path / "old")
    assert kinds(tmp_path, source)[0] == 60
    content["images"].append({"id": 0, "file_name": "gone.png"})
    content["annotations"] = [{**row, "image_id": int(row["image_id"])} for row in content["annotations"]]
    source.write_text(json.dumps(content))
    (tmp_path / "set").rename(tmp_path / "older")
    done = coco_to_yolo(source, tmp_path / "images", tmp_path / "set")
    assert sum(done.boxes.values()) == 55, "0 is the image 0, which is not there; not the image 0000"


def test_annotations_of_images_that_were_taken_out_are_left_out(tmp_path: Path) -> None:
    source = coco(tmp_path, sized)
    content = json.loads(source.read_text())
    content["images"] = content["images"][:3]
    source.write_text(json.dumps(content))
    assert kinds(tmp_path, source) == (15, {"annotation of an unknown image"})


def test_annotations_without_an_object_are_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "xml").mkdir()
    write_picture(tmp_path / "images/a.png", np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "xml/a.xml").write_text("<annotation><objects/></annotation>")
    arguments = ["--images", str(tmp_path / "images"), "--out", str(tmp_path / "set")]
    assert main(["convert", "voc", str(tmp_path / "xml"), *arguments]) == 2
    assert "there is no object" in capsys.readouterr().err


def voc_of(tmp_path: Path, *boxes: str) -> Path:
    (tmp_path / "xml").mkdir(exist_ok=True)
    write_picture(tmp_path / "images/a.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    text = "".join(f"<object>\n<name>cat</name>{box}</object>\n" for box in boxes)
    (tmp_path / "xml/a.xml").write_text(f"<annotation>\n{text}</annotation>")
    return tmp_path / "xml"


def test_turned_boxes_and_outlines_of_voc_files_give_the_box_around_them(tmp_path: Path) -> None:
    angle = math.radians(30)
    turned = f"<robndbox><cx>80</cx><cy>60</cy><w>40</w><h>20</h><angle>{angle}</angle></robndbox>"
    labelme = "<polygon><pt><x>10</x><y>20</y></pt><pt><x>50</x><y>20</y></pt><pt><x>30</x><y>60</y></pt></polygon>"
    numbered = "<x1>10</x1><y1>20</y1><x2>50</x2><y2>20</y2><x3>30</x3><y3>60</y3>"
    source = voc_of(tmp_path, turned, labelme, f"<polygon>{numbered}</polygon>", f"<bndbox>{numbered}</bndbox>")
    done = voc_to_yolo(source, tmp_path / "images", tmp_path / "set")
    assert sorted((problem.kind, problem.line) for problem in done.problems) == [
        ("object with a turned box (robndbox); the upright one around it is taken", 3),
        *[("object with an outline and no box; the box around it is taken", line) for line in (5, 7, 9)],
    ]
    wide, high = 40 * math.cos(angle) + 20 * math.sin(angle), 40 * math.sin(angle) + 20 * math.cos(angle)
    rows = np.loadtxt(tmp_path / "set/labels/train/a.txt")
    np.testing.assert_allclose(rows[0, 1:], [0.5, 0.5, wide / WIDTH, high / HEIGHT], atol=1e-6)
    np.testing.assert_allclose(rows[1:, 1:], [[30 / WIDTH, 40 / HEIGHT, 40 / WIDTH, 40 / HEIGHT]] * 3, atol=1e-6)


@pytest.mark.parametrize(
    "box",
    [
        "<robndbox><cx>80</cx></robndbox>",
        "<bndbox><x>1</x><y>1</y><width>5</width><height>5</height></bndbox>",
        "<polygon><x1>1</x1><y1>2</y1><x2>x</x2><y2>3</y2><x3>3</x3><y3>4</y3></polygon>",
    ],
)
def test_what_is_no_box_at_all_stops_the_conversion(tmp_path: Path, box: str) -> None:
    with pytest.raises(UserError, match="none of 1 annotated objects became a box"):
        voc_to_yolo(voc_of(tmp_path, box), tmp_path / "images", tmp_path / "set")


# Classes -----------------------------------------------------------------------------------------------------------


def of_categories(tmp_path: Path, categories: list[tuple[int, str]], used: list[int]) -> Path:
    source = changed(tmp_path, lambda row: row.update(category_id=used[row["id"] % len(used)]))
    content = json.loads(source.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in categories]
    source.write_text(json.dumps(content))
    return source


def test_two_categories_or_images_of_one_id_are_refused(tmp_path: Path) -> None:
    source = of_categories(tmp_path, [(1, "cat"), (2, "dog"), (1, "cow")], [1])
    with pytest.raises(UserError, match="two categories have the id 1: 'cat' and 'cow'"):
        kinds(tmp_path, source)
    source = of_categories(tmp_path / "same", [(1, "cat"), (1, "cat")], [1])
    assert kinds(tmp_path / "same", source) == (60, set()), "the same twice contradicts nothing"
    content = json.loads(source.read_text())
    content["images"][1]["id"] = 0
    source.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"two images have the id 0: 0\.png and 1\.png"):
        kinds(tmp_path / "same", source)


def test_categories_of_one_name_and_names_that_differ_in_capitals_are_told(tmp_path: Path) -> None:
    source = of_categories(tmp_path, [(1, "cat"), (7, "cat"), (8, "Cat")], [1, 7])
    done = coco_to_yolo(source, tmp_path / "images", tmp_path / "set")
    assert done.names == ("cat", "Cat")
    assert [(problem.kind, problem.detail) for problem in done.problems] == [
        ("categories of one name become one class", "'cat': ids 1, 7"),
        ("names that differ in capitals only stay different classes", "'cat', 'Cat'"),
    ]


@pytest.mark.parametrize("used", [[0, 1], [2, 3]])
def test_category_numbers_that_count_from_elsewhere_than_the_ids_are_refused(tmp_path: Path, used: list[int]) -> None:
    source = of_categories(tmp_path, [(1, "cat"), (2, "dog")], used)
    with pytest.raises(UserError, match="the categories have the ids 1 to 2"):
        kinds(tmp_path, source)
    strange = of_categories(tmp_path / "one", [(1, "cat"), (2, "dog")], [0, 1, 2])
    assert kinds(tmp_path / "one", strange) == (40, {"annotation of an unknown category"})


@pytest.mark.parametrize("number", [1.5, True, "x", None])
def test_a_category_without_a_whole_number_is_refused(tmp_path: Path, number: object) -> None:
    source = of_categories(tmp_path, [(number, "cat")], [1])  # type: ignore[list-item]
    with pytest.raises(UserError, match="lacks a whole number 'id'"):
        kinds(tmp_path, source)


@pytest.mark.parametrize("convert", [coco, voc], ids=["coco", "voc"])
def test_numbers_may_be_taken_for_what_the_format_says(tmp_path: Path, convert: Callable[..., Path]) -> None:
    source = convert(tmp_path, FORMS["cx cy w h, in pixels"])
    kind = "coco" if source.suffix == ".json" else "voc"
    command = ["convert", kind, str(source), "--images", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert main([*command, "--as-written"]) == 0


def test_few_objects_of_a_number_beside_the_ids_are_regions_that_do_not_count(tmp_path: Path) -> None:
    categories = [(number, f"kind {number}") for number in range(1, 11)]
    used = [number % 9 + 1 for number in range(58)] + [0, 0]
    source = of_categories(tmp_path, categories, used)
    assert kinds(tmp_path, source) == (58, {"annotation of an unknown category"})
