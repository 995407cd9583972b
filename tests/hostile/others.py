"""Hostile files of annotations, tables and pictures."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

from tests.hostile.files import nested_json
from tests.models.test_unpickle import by_system

Row = tuple[str, str, str, Callable[[Path, Path], object], tuple[str, ...], bool]


def _xml(text: str) -> Callable[[Path, Path], None]:
    def make(folder: Path, _: Path) -> None:
        (folder / "voc").mkdir(exist_ok=True)
        (folder / "voc/train000.xml").write_text(text)

    return make


def _coco(text: str) -> Callable[[Path, Path], None]:
    return lambda folder, _: (folder / "instances_train.json").write_text(text)  # type: ignore[return-value]


VOC = ("convert", "voc", "voc", "--images", "images/train", "--out", "out", "--shares", "80", "10", "10")
COCO = ("convert", "coco", "instances_train.json", "--images", "images/train", "--out", "out")
ENTITIES = (
    '<!DOCTYPE n [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]>"
)
BOX = (
    "<annotation><size><width>64</width><height>64</height></size><object><name>{}</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"
)
FILE = '<!DOCTYPE n [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
OUTSIDE = (
    '{"images": [{"id": 1, "file_name": "../../../etc/passwd", "width": 64, "height": 64}], "categories": [{"id": 1, '
    '"name": "a"}], "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}]}'
)
HTML = "<script>alert(1)</script>"


def _mat(folder: Path, marker: Path) -> None:
    (folder / "hand").mkdir(exist_ok=True)
    for place in ("training_dataset/training_data/annotations", "annotations"):
        path = folder / "hand" / place
        path.mkdir(parents=True, exist_ok=True)
        (path / "train000.mat").write_bytes(pickle.dumps(by_system(marker), 2))


def _html_names(folder: Path, _: Path) -> None:
    path = folder / "data.yaml"
    path.write_text(path.read_text().replace("[red, blue]", f"['{HTML}', '\"><img src=x onerror=alert(1)>']"))


OTHERS: list[Row] = [
    ("VOC", "entities of entities", "convert voc", _xml(ENTITIES + BOX.format("&j;")), VOC, False),
    ("VOC", "an entity of a file", "convert voc", _xml(FILE + BOX.format("&x;")), VOC, True),
    ("VOC", "nested 100,000 deep", "convert voc", _xml("<a>" * 100_000), VOC, False),
    ("VOC", "a name that is a path", "convert voc", _xml(BOX.format("../../etc")), VOC, True),
    ("COCO", "nested 100,000 deep", "convert coco", _coco(nested_json()), COCO, False),
    ("COCO", "a picture outside", "convert coco", _coco(OUTSIDE), COCO, False),
    ("MAT", "a pickle", "convert hand", _mat, ("convert", "hand", "hand", "--out", "out"), False),
    ("HTML", "names that are HTML", "check --html", _html_names, ("check", "data.yaml", "--html", "page.html"), True),
]
