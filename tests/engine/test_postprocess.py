"""From decoded heads to boxes: what is kept, what is dropped, and where boxes lie in the original picture."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, box_convert, nms

from data.batch import Letterbox
from engine.postprocess import postprocess, to_original
from models.heads import AnchoredSpec

ANCHORED = AnchoredSpec(((8.0, 8.0),), 8, 2)


def decoded(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_confidence_is_objectness_times_class_probability():
    (boxes,) = postprocess(decoded([50, 40, 20, 10, 0.5, 0.2, 0.8]), ANCHORED, conf=0.3)
    assert boxes.tolist() == [pytest.approx([40, 35, 60, 45, 0.4, 1])]


def test_several_labels_a_box_only_where_asked_for():
    rows = decoded([50, 40, 20, 10, 1.0, 0.6, 0.8])
    assert [row[5] for row in postprocess(rows, ANCHORED, conf=0.5)[0].tolist()] == [1, 0]
    assert [row[5] for row in postprocess(rows, ANCHORED, conf=0.5, multi_label=False)[0].tolist()] == [1]


def test_a_box_that_a_file_put_out_for_two_classes_is_shown_once():
    rows = decoded([50, 50, 20, 20, 1, 0, 0.7], [80, 50, 20, 20, 1, 0.8, 0], [50, 50, 20, 20, 1, 0.9, 0])
    assert [round(float(row[4]), 3) for row in postprocess(rows, ANCHORED, multi_label=False)[0]] == [0.9, 0.8]
    assert len(postprocess(rows, ANCHORED)[0]) == 3


def test_suppression_is_within_a_class_unless_agnostic():
    rows = decoded([50, 50, 20, 20, 1, 0.9, 0], [51, 50, 20, 20, 1, 0.8, 0], [50, 50, 20, 20, 1, 0, 0.7])
    assert postprocess(rows, ANCHORED, conf=0.1)[0][:, 4].tolist() == pytest.approx([0.9, 0.7])
    assert postprocess(rows, ANCHORED, conf=0.1, class_agnostic=True)[0][:, 4].tolist() == pytest.approx([0.9])


def test_an_empty_picture_gives_no_rows_of_six_columns():
    rows = torch.zeros(2, 7, 8)
    assert [boxes.shape for boxes in postprocess(rows, ANCHORED)] == [(0, 6), (0, 6)]


def test_values_that_are_no_numbers_are_dropped():
    rows = decoded([50, 40, float("inf"), 10, 1, 0.9], [50, 40, 20, 10, float("nan"), 0.9], [9, 9, 4, 4, 1, 0.5])
    assert postprocess(rows, ANCHORED)[0][:, 4].tolist() == [0.5]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 400),
    limit=st.integers(1, 40),
    size=st.sampled_from([2, 15, 60]),
)
def test_stopping_early_keeps_exactly_what_full_suppression_keeps_first(seed, count, limit, size):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 7, generator=generator)
    rows[:, :2] *= 100
    rows[:, 2:4] = rows[:, 2:4] * size + 1
    (mine,) = postprocess(rows[None], ANCHORED, conf=0.05, iou=0.5, max_boxes=limit)
    confidence = rows[:, 4:5] * rows[:, 5:]
    row, label = (confidence > 0.05).nonzero(as_tuple=True)
    boxes = box_convert(rows[row, :4], "cxcywh", "xyxy")
    keep = batched_nms(boxes, confidence[row, label], label, 0.5)[:limit]
    expected = torch.cat((boxes[keep], confidence[row, label][keep, None], label[keep, None].float()), 1)
    torch.testing.assert_close(mine, expected)


@pytest.mark.parametrize("size, classes", [(60, 2), (400, 80)])
def test_thousands_of_candidates_are_suppressed_as_class_by_class(size, classes):
    spec = AnchoredSpec(((8.0, 8.0),), 8, classes)
    generator = torch.Generator().manual_seed(classes)
    rows = torch.rand(1500, 5 + classes, generator=generator)
    rows[:, :2] *= 100
    rows[:, 2:4] = rows[:, 2:4] * size + 1
    rows[:, 5:] *= torch.rand(1500, classes, generator=generator) < 4 / classes
    (mine,) = postprocess(rows[None], spec, conf=0.01, iou=0.5, max_boxes=300)
    confidence = rows[:, 4:5] * rows[:, 5:]
    row, label = (confidence > 0.01).nonzero(as_tuple=True)
    sure, order = confidence[row, label].sort(descending=True, stable=True)
    row, label = row[order], label[order]
    centre, half = rows[row, :2], rows[row, 2:4] / 2
    boxes = torch.cat((centre - half, centre + half), 1)
    keep = [torch.where(label == each)[0] for each in range(classes)]
    keep = torch.cat([places[nms(boxes[places], sure[places], 0.5)] for places in keep]).sort()[0][:300]
    assert len(row) > 1000
    torch.testing.assert_close(mine, torch.cat((boxes[keep], sure[keep, None], label[keep, None].float()), 1))


def test_boxes_return_to_the_original_picture_and_are_clipped_to_it():
    box = Letterbox(original=(100, 200), scale=(0.8, 0.8), pad=(0.0, 40.0))
    boxes = torch.tensor([[80.0, 60.0, 120.0, 100.0, 0.9, 2.0], [-5.0, 0.0, 500.0, 500.0, 0.5, 1.0]])
    original = to_original(boxes, box)
    assert original.tolist() == [
        pytest.approx([100, 25, 150, 75, 0.9, 2]),
        pytest.approx([0, 0, 200, 100, 0.5, 1]),
    ]
    assert boxes[1, 0] == -5, "the given boxes are left alone"
