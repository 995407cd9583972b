"""`benchmarks/foreign_scores.py`: what another program scores differently, beside the scores it gave itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

import data
import models
from benchmarks import foreign_scores
from engine.metrics import PictureBoxes
from tests.shared import shared


def picture(detections: list[list[float]], truth: list[list[float]]) -> PictureBoxes:
    return PictureBoxes(np.array(detections).reshape(-1, 6), np.array(truth).reshape(-1, 5), (100, 100))


OBJECT = [0, 10, 10, 50, 50]


@pytest.mark.parametrize(
    "detections, wanted",
    [
        ([[10, 10, 50, 50, 0.9, 0]], 1.0),
        ([], 0.0),
        ([[60, 60, 90, 90, 0.9, 0]], 0.0),
        ([[10, 10, 50, 50, 0.9, 1]], 0.0),
        # The more confident of two boxes has the object, at the other the curve has ended.
        ([[10, 10, 50, 50, 0.9, 0], [10, 10, 50, 50, 0.8, 0]], 1.0),
        # A wrong box before it: precision .5 all along, but for the last step down to 0.
        ([[60, 60, 90, 90, 0.9, 0], [10, 10, 50, 50, 0.8, 0]], 0.5),
    ],
)
def test_the_area_below_the_curve(detections: list[list[float]], wanted: float) -> None:
    found = foreign_scores.trapezoids([picture(detections, [OBJECT])], 2)
    assert found == pytest.approx((wanted, wanted), abs=0.006)


def test_a_box_finds_only_the_object_it_overlaps_most() -> None:
    near = [0, 12, 10, 52, 50]
    boxes = picture([[10, 10, 50, 50, 0.9, 0], [10.1, 10, 50.1, 50, 0.8, 0]], [OBJECT, near])
    assert foreign_scores._right(boxes)[:, 0].tolist() == [True, False]


@pytest.mark.parametrize("name", ["yolov8n_hands.pt", "yolo11n_hands.pt"])
def test_scores_are_those_of_the_program_itself(name: str) -> None:
    told = json.loads(shared("pretrained/ultralytics/expected.json").read_text())[name]["scores"]["test"]
    net = models.load(shared(f"pretrained/ultralytics/{name}"))
    spec = data.load_spec(shared("datasets/hand_gesture/data.yaml"))
    found = foreign_scores.rows(net, spec, "test")
    assert found["its mean"] == pytest.approx((told["map50"], told["map50_95"]), abs=0.005)
    assert found["ours"] == pytest.approx((told["map50"], told["map50_95"]), abs=0.01)
