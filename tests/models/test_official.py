"""Where official weights are to be had, said where one of them is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import models
from common.errors import UserError
from models.official import SIZES, where_to_get


@pytest.mark.parametrize(
    ("name", "project"),
    [
        ("yolov5s.pt", "ultralytics/yolov5"),
        ("yolov8n.pt", "ultralytics/ultralytics"),
        ("yolo11m.pt", "ultralytics/ultralytics"),
        ("yolo26n.pt", "ultralytics/ultralytics"),
        ("yolov3.weights", "pjreddie/darknet"),
        ("yolov4.conv.137", "AlexeyAB/darknet"),
    ],
)
def test_a_file_that_is_not_there_is_said_to_be_published_by_its_project(
    tmp_path: Path, name: str, project: str
) -> None:
    cfg = None if name.endswith(".pt") else name.split(".")[0]
    with pytest.raises(UserError, match=project) as refused:
        models.load(*((cfg, tmp_path / name) if cfg else (tmp_path / name,)))
    assert "does not exist" in str(refused.value)
    assert name in refused.value.todo


@pytest.mark.parametrize(("typed", "right"), [("yolov11n.pt", "yolo11n.pt"), ("yolo8s.pt", "yolov8s.pt")])
def test_a_slip_in_the_name_is_corrected(typed: str, right: str) -> None:
    assert f"it is called {right}" in where_to_get(f"somewhere/{typed}")


def test_of_other_files_nothing_is_said() -> None:
    for name in ("mine.pt", "best.pt", "yolov5n_mine.pt", "yolov3-mine.weights"):
        assert where_to_get(name) == ""


def test_the_sizes_are_those_of_the_page_on_weights() -> None:
    page = (Path(__file__).resolve().parents[2] / "weights/README.md").read_text().replace("\u00a0", " ")
    for name, (_, size) in SIZES.items():
        assert f"| `{name}` | {size:,} |".replace(",", " ") in page
