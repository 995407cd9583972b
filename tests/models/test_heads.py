import math

import pytest
import torch

from models.heads import AnchoredSpec
from models.spec import HeadMatches

DARKNET = AnchoredSpec(((10.0, 20.0), (40.0, 30.0)), stride=8, classes=3, scale_x_y=1.05)
YOLOV5 = AnchoredSpec(((10.0, 20.0), (40.0, 30.0)), stride=8, classes=3, scale_x_y=2.0, new_coords=True)
REGION = AnchoredSpec(((10.0, 20.0), (40.0, 30.0)), stride=8, classes=3, softmax=True)
SPECS = [DARKNET, YOLOV5, REGION]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def matches_of(image, anchor, row, col) -> HeadMatches:
    cells = [torch.tensor(index) for index in (image, anchor, row, col)]
    count = len(cells[0])
    return HeadMatches(
        *cells, box=torch.zeros(count, 4), label=torch.zeros(count, dtype=torch.long), target=torch.arange(count)
    )


@pytest.mark.parametrize("spec", SPECS)
def test_decode_at_one_cell_is_darknets_formula(spec):
    logits = torch.zeros(1, 2, 3, 4, 8)
    logits[0, 1, 2, 3] = torch.tensor([0.4, -1.2, 0.3, -0.5, 1.5, 0.1, 2.0, -3.0])
    cx, cy, w, h, obj, *scores = spec.decode(logits)[0, 1, 2, 3].tolist()
    s = spec.scale_x_y
    assert cx == pytest.approx((sigmoid(0.4) * s - (s - 1) / 2 + 3) * 8, rel=1e-6)
    assert cy == pytest.approx((sigmoid(-1.2) * s - (s - 1) / 2 + 2) * 8, rel=1e-6)
    if spec.new_coords:
        assert w == pytest.approx((2 * sigmoid(0.3)) ** 2 * 40, rel=1e-6)
        assert h == pytest.approx((2 * sigmoid(-0.5)) ** 2 * 30, rel=1e-6)
    else:
        assert w == pytest.approx(math.exp(0.3) * 40, rel=1e-6)
        assert h == pytest.approx(math.exp(-0.5) * 30, rel=1e-6)
    assert obj == pytest.approx(sigmoid(1.5), rel=1e-6)
    total = sum(math.exp(z) for z in (0.1, 2.0, -3.0))
    for score, z in zip(scores, (0.1, 2.0, -3.0)):
        assert score == pytest.approx(math.exp(z) / total if spec.softmax else sigmoid(z), rel=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_matched_cells_decode_as_the_whole_head_does(spec):
    head = torch.randn(2, 2, 5, 7, 8)
    matches = matches_of([0, 1, 1], [1, 0, 1], [4, 0, 2], [6, 3, 0])
    boxes = spec.boxes_at(matches.pick(head), matches)
    torch.testing.assert_close(boxes, matches.pick(spec.decode(head))[:, :4])


def test_encode_undoes_decode():
    head = torch.randn(2, 2, 5, 7, 8, dtype=torch.float64)
    matches = matches_of([0, 1, 1], [1, 0, 1], [4, 0, 2], [6, 3, 0])
    offsets = DARKNET.encode(DARKNET.boxes_at(matches.pick(head), matches), matches)
    t = matches.pick(head)
    torch.testing.assert_close(offsets[:, :2], t[:, :2].sigmoid() * 1.05 - 0.025)
    torch.testing.assert_close(offsets[:, 2:], t[:, 2:4])


def test_encode_speaks_the_students_anchors_whoever_drew_the_box():
    matches = matches_of([0], [1], [2], [3])
    offsets = DARKNET.encode(torch.tensor([[28.0, 18.0, 80.0, 15.0]]), matches)
    expected = torch.tensor([[28 / 8 - 3, 18 / 8 - 2, math.log(80 / 40), math.log(15 / 30)]])
    torch.testing.assert_close(offsets, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_decoded_in_fp32(dtype):
    head = torch.randn(1, 2, 3, 4, 8).to(dtype)
    boxes = DARKNET.decode(head)
    assert boxes.dtype == torch.float32
    torch.testing.assert_close(boxes, DARKNET.decode(head.float()))


def test_a_matched_box_passes_its_gradient_to_its_cell_only():
    head = torch.randn(1, 2, 3, 4, 8, requires_grad=True)
    matches = matches_of([0], [1], [2], [3])
    DARKNET.boxes_at(matches.pick(head), matches).sum().backward()
    touched = head.grad.nonzero()
    assert touched[:, :4].unique(dim=0).tolist() == [[0, 1, 2, 3]]
    assert sorted(touched[:, 4].tolist()) == [0, 1, 2, 3]


def test_encoding_an_empty_set_of_matches_gives_an_empty_set():
    nothing = matches_of([], [], [], [])
    nothing = HeadMatches(
        *(index.long() for index in (nothing.image, nothing.anchor, nothing.row, nothing.col)),
        nothing.box,
        nothing.label,
        nothing.target,
    )
    assert DARKNET.encode(torch.zeros(0, 4), nothing).shape == (0, 4)
    assert DARKNET.boxes_at(torch.zeros(0, 8), nothing).shape == (0, 4)
