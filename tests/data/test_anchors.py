from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from data.anchors import assign_to_heads, boxes_wh, check_anchors, choose_anchors, fit_anchors, overlap
from data.spec import load_spec
from models.heads import AnchoredSpec
from tests.data.made import line, rectangle, write_set
from tests.shared import shared

COCO = [
    AnchoredSpec(((81, 82), (135, 169), (344, 319)), 32, 2),
    AnchoredSpec(((10, 14), (23, 27), (37, 58)), 16, 2),
]


def clusters(centres: list[tuple[float, float]], each: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([np.array(centre) * np.exp(rng.normal(0, 0.04, (each, 2))) for centre in centres])


def test_overlap_by_hand() -> None:
    got = overlap(np.array([[10.0, 10.0], [20.0, 5.0]]), np.array([[10.0, 10.0], [10.0, 20.0]]))
    np.testing.assert_allclose(got, [[1.0, 0.5], [50 / 150, 50 / 250]])


def test_recall_and_overlap_by_hand() -> None:
    recall, mean_iou = check_anchors(np.array([[10.0, 10], [39, 10], [41, 10], [10, 2]]), np.array([[10.0, 10]]))
    assert recall == 0.5, "4.1 times as wide and 5 times as low are out of reach"
    assert mean_iou == pytest.approx((1 + 10 / 39 + 10 / 41 + 0.2) / 4)
    assert check_anchors(np.zeros((0, 2)), np.array([[10.0, 10]])) == (1.0, 1.0)


def test_clusters_are_found() -> None:
    centres = [(12.0, 30.0), (40.0, 40.0), (120.0, 60.0), (200.0, 220.0)]
    got = fit_anchors(clusters(centres), 4)
    np.testing.assert_allclose(got, centres, rtol=0.08)


def test_the_fit_is_deterministic_and_sorted() -> None:
    boxes = np.random.default_rng(1).uniform(4, 200, (300, 2))
    first, again, other = fit_anchors(boxes, 6, 0), fit_anchors(boxes, 6, 0), fit_anchors(boxes, 6, 1)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (np.diff(first.prod(axis=1)) >= 0).all()


@pytest.mark.parametrize("boxes", [[[20.0, 30.0]], [[20.0, 30.0]] * 50, [[20.0, 30.0], [5.0, 5.0]]])
def test_fewer_boxes_than_anchors(boxes: list[list[float]]) -> None:
    got = fit_anchors(np.array(boxes), 6)
    assert got.shape == (6, 2)
    assert (got > 0).all()
    assert len(np.unique(got.round(4), axis=0)) == 6, "no two anchors compete for the same boxes"
    assert check_anchors(np.array(boxes), got) == (1.0, pytest.approx(1.0))


def test_no_boxes_cannot_be_fitted() -> None:
    with pytest.raises(UserError, match="no boxes to fit"):
        fit_anchors(np.zeros((0, 2)), 3)


def test_small_anchors_go_to_small_strides_whatever_the_order_of_heads() -> None:
    anchors = np.array([[100, 100], [1, 1], [50, 50], [5, 5], [10, 10], [2, 2]])
    coarse, fine = assign_to_heads(anchors, COCO)
    assert fine == ((1, 1), (2, 2), (5, 5))
    assert coarse == ((10, 10), (50, 50), (100, 100))
    assert assign_to_heads(anchors, COCO[::-1]) == [fine, coarse]


def some_set(root: Path, box: tuple[int, int, int, int]) -> Path:
    shape = (100, 200)
    return write_set(root, {"train": [(rectangle(shape, box), line(shape, box))]})


def test_box_sizes_are_those_in_the_letterboxed_input(tmp_path: Path) -> None:
    spec = load_spec(some_set(tmp_path, (20, 20, 60, 80)))
    np.testing.assert_allclose(boxes_wh(spec, (416, 416)), [[40 * 2.08, 60 * 2.08]], rtol=1e-4)
    np.testing.assert_allclose(boxes_wh(spec, (100, 416)), [[40, 60]], rtol=1e-4)


def test_auto_keeps_what_suits_and_replaces_what_does_not(tmp_path: Path) -> None:
    good = load_spec(some_set(tmp_path / "good", (20, 20, 60, 80)))
    anchors, message = choose_anchors("auto", good, COCO, (416, 416))
    assert anchors is None
    assert "suit the data" in message
    poor = load_spec(some_set(tmp_path / "poor", (0, 50, 200, 52)))
    anchors, message = choose_anchors("auto", poor, COCO, (416, 416))
    assert anchors is not None
    assert "0.000 -> 1.000" in message
    assert [len(head) for head in anchors] == [3, 3]
    assert choose_anchors("keep", poor, COCO, (416, 416))[0] is None
    assert choose_anchors("fit", good, COCO, (416, 416))[0] is not None


def test_modes_and_empty_sets(tmp_path: Path) -> None:
    empty = load_spec(write_set(tmp_path, {"train": [(np.zeros((10, 10, 3), np.uint8), None)]}))
    assert choose_anchors("auto", empty, COCO, (64, 64)) == (
        None,
        "anchors kept: there are no boxes to compare them with",
    )
    with pytest.raises(UserError, match="no boxes to fit"):
        choose_anchors("fit", empty, COCO, (64, 64))
    with pytest.raises(UserError, match="auto, keep or fit, not 'best'"):
        choose_anchors("best", empty, COCO, (64, 64))


def test_fitted_anchors_beat_coco_anchors_on_blood_cells() -> None:
    boxes = boxes_wh(load_spec(shared("datasets/bccd") / "data.yaml"), (320, 320))
    coco = np.array([anchor for head in COCO for anchor in head.anchors])
    assert check_anchors(boxes, fit_anchors(boxes, 6))[1] > check_anchors(boxes, coco)[1] + 0.1
