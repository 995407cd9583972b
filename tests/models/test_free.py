"""Anchor-free heads: what their logits mean, how a cfg says them, and that every room reads them as a family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import engine
import models
from common.errors import UserError
from data.anchors import choose_anchors
from data.spec import DataSpec
from distill.losses.bounded import bounded
from distill.losses.gap import gap
from distill.losses.hinton import hinton
from distill.losses.scaled import scaled
from distill.teacher import Teacher
from models.heads import AnchoredSpec, FreeSpec
from models.spec import HeadMatches, Matches, Outputs, Places
from prune.heads import head_shares
from tests import nets
from tests.shared import shared

SPECS = [FreeSpec(8, 3, bins=5), FreeSpec(16, 2, bins=1)]


def network(classes: int = 3, bins: int = 4, seed: int = 0) -> models.Network:
    """With loud heads, so that scores and distances differ from place to place."""
    torch.manual_seed(seed)
    net = models.init_weights(models.Network(models.parse_cfg(nets.detect(classes, bins))))
    for number in net.head_convolutions:
        torch.nn.init.normal_(net.convolutions[number].conv.weight, std=2.0)
    return net.eval()


def places_of(image: Sequence[int], row: Sequence[int], col: Sequence[int]) -> Places:
    cells = [torch.tensor(index) for index in (image, [0] * len(image), row, col)]
    return Places(*cells)


def box_by_hand(logits: list[float], spec: FreeSpec, row: int, col: int) -> list[float]:
    sides = []
    for side in range(4):
        own = logits[side * spec.bins : (side + 1) * spec.bins]
        weights = [math.exp(z) for z in own]
        mean = sum(number * w for number, w in enumerate(weights)) / sum(weights)
        sides.append((own[0] if spec.bins == 1 else mean) * spec.stride)
    x, y = (col + 0.5) * spec.stride, (row + 0.5) * spec.stride
    x1, y1, x2, y2 = x - sides[0], y - sides[1], x + sides[2], y + sides[3]
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]


@pytest.mark.parametrize("spec", SPECS)
def test_decode_gives_distances_from_the_middle_of_the_cell_and_class_probabilities(spec: FreeSpec) -> None:
    head = torch.randn(2, 1, 3, 4, spec.channels, generator=torch.Generator().manual_seed(0))
    decoded = spec.decode(head)
    assert decoded.shape == (2, 1, 3, 4, 4 + spec.classes)
    logits = head[1, 0, 2, 3].tolist()
    assert decoded[1, 0, 2, 3, :4].tolist() == pytest.approx(box_by_hand(logits, spec, 2, 3), rel=1e-5)
    assert torch.equal(decoded[..., 4:], head[..., 4 * spec.bins :].sigmoid())


@pytest.mark.parametrize("spec", SPECS)
def test_chosen_places_decode_as_the_whole_head_does_and_encode_undoes_it(spec: FreeSpec) -> None:
    head = torch.randn(2, 1, 5, 7, spec.channels, dtype=torch.float64)
    places = places_of([0, 1, 1], [4, 0, 2], [6, 3, 0])
    boxes = spec.boxes_at(places.pick(head), places)
    torch.testing.assert_close(boxes, places.pick(spec.boxes(head)))
    sides = spec.encode(boxes, places)
    expected = [[d / spec.stride for d in row] for row in sides_of(boxes, places, spec).tolist()]
    torch.testing.assert_close(sides, torch.tensor(expected, dtype=torch.float64))
    if spec.bins == 1:
        torch.testing.assert_close(sides, places.pick(head)[:, :4])


def sides_of(boxes: Tensor, places: Places, spec: FreeSpec) -> Tensor:
    """Left, top, right, lower distance in pixels."""
    middle = (torch.stack((places.col, places.row), 1) + 0.5) * spec.stride
    return torch.cat((middle - boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2 - middle), 1)


@pytest.mark.parametrize("name, prefix", [("yolov8n", ""), ("yolo11n", ""), ("yolo26n", "one2many__")])
def test_raw_maps_of_another_program_decode_to_its_predictions(name: str, prefix: str) -> None:
    told = np.load(shared(f"pretrained/ultralytics/{name}_alive_expected.npz"))
    rows = torch.from_numpy(np.concatenate((told[f"{prefix}boxes"], told[f"{prefix}scores"]), 1)).transpose(1, 2)
    bins, at, decoded = told[f"{prefix}boxes"].shape[1] // 4, 0, []
    for stride in (8, 16, 32):  # of a picture of 96 x 128
        spec, grid = FreeSpec(stride, 80, bins), (96 // stride, 128 // stride)
        count = grid[0] * grid[1]
        decoded.append(spec.decode(rows[:, at : at + count].reshape(1, 1, *grid, -1)).flatten(1, 3))
        at += count
    expected = torch.from_numpy(told["prediction"]).transpose(1, 2)
    found = torch.cat(decoded, 1)
    assert (found[..., :4] - expected[..., :4]).abs().max() < 1e-6 * expected[..., :4].abs().max()
    assert (found[..., 4:] - expected[..., 4:]).abs().max() < 1e-6


def test_cfg_builds_forwards_and_its_text_gives_the_same_network() -> None:
    net = network()
    images = torch.rand(2, 3, 64, 96)
    heads = net(images)
    assert [head.shape for head in heads] == [(2, 1, 8, 12, 19), (2, 1, 4, 6, 19)]
    assert net.specs == (FreeSpec(8, 3, bins=4), FreeSpec(16, 3, bins=4))
    assert net.convolutions_by_head == [[3, 6], [12, 15]]
    assert net.decode(heads).shape == (2, 8 * 12 + 4 * 6, 7)
    again = models.Network(models.parse_cfg(net.cfg.text())).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.decode(again(images)), net.decode(heads))


def test_sides_come_first_in_each_place() -> None:
    net = network()
    sides, classes = (net.convolutions[number].conv for number in net.convolutions_by_head[0])
    with torch.no_grad():
        for conv, value in ((sides, 2.0), (classes, -3.0)):
            conv.weight.zero_()
            conv.bias.fill_(value)
    head = net(torch.rand(1, 3, 64, 64))[0]
    assert head[..., :16].eq(2).all()
    assert head[..., 16:].eq(-3).all()


def test_new_classes_widen_the_class_convolutions_alone(tmp_path: Path) -> None:
    models.save(network(), tmp_path / "net.pt")
    net = models.load(tmp_path / "net.pt", classes=5)
    assert [net.output_channels(number) for number in net.head_convolutions] == [16, 5, 16, 5]
    assert {name.split(".")[1] for name in net.load_report.unfit} == {"6", "15"}


def test_heads_start_at_their_prior() -> None:
    net = network(classes=3)
    models.init_heads(net)  # five objects in a picture of 640 pixels
    scores = net.specs[0].class_scores(net(torch.rand(1, 3, 64, 64))[0])
    assert scores.sum(-1).mean().item() == pytest.approx(5 / (640 / 8) ** 2, rel=0.2)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("layers=-4,-1", "layers=-1", "reads 1 layers, but it has to read 2"),
        ("layers=-4,-1", "layers=-1,-4", "four sides of bins=4 need 16 channels, but 3 come in"),
        ("bins=4", "bins=0", "bins=0 has to be at least 1"),
        ("activation=linear", "activation=logistic", "activation=logistic feeds a \\[detect\\]"),
        ("bins=4", "mask=1", "mask=1: no such key is known"),
    ],
)
def test_sections_that_mean_nothing_are_refused(old: str, new: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        models.Network(models.parse_cfg(nets.detect().replace(old, new, 1)))


def test_heads_of_two_families_are_refused() -> None:
    yolo = "[route]\nlayers=0\n[convolutional]\nfilters=8\nactivation=linear\n[yolo]\nanchors=8,8\nclasses=3\nmask=0\n"
    with pytest.raises(UserError, match="of different families"):
        models.Network(models.parse_cfg(nets.detect() + yolo))


def test_confidence_of_a_box_is_its_class_probability() -> None:
    rows = torch.tensor([[[50.0, 40, 20, 10, 0.2, 0.8], [9, 9, 4, 4, 0.1, 0.2]]])
    (boxes,) = engine.postprocess(rows, FreeSpec(8, 2), conf=0.3)
    assert boxes.tolist() == [pytest.approx([40, 35, 60, 45, 0.8, 1])]
    again = FreeSpec(8, 2).decoded_rows(torch.tensor([[50.0, 40, 20, 10]]), torch.tensor([0.8]), torch.tensor([1.0]))
    assert engine.postprocess(again[None], FreeSpec(8, 2), conf=0.3)[0].tolist() == boxes.tolist()


def test_what_concerns_anchors_alone_says_so(tmp_path: Path) -> None:
    specs = network().specs
    nothing = DataSpec(("a", "b", "c"), {}, Path("set.yaml"))
    assert choose_anchors("fit", nothing, specs, (64, 64)) == (
        None,
        "anchors fit changes nothing: these heads have none",
    )
    with pytest.raises(UserError, match=r"these heads have none\n.*--drop-heads 8"):
        head_shares(np.ones((3, 2)), specs)
    with pytest.raises(UserError, match=r"\[1, 1\] anchors for heads with \[0, 0\]"):
        network().with_anchors([[(8.0, 8.0)], [(8.0, 8.0)]])
    with pytest.raises(UserError, match="no Darknet word"):
        models.save_darknet(network(), tmp_path / "net.cfg", tmp_path / "net.weights")


def matched(specs: Sequence[FreeSpec], heads: Sequence[Tensor]) -> Matches:
    """The place (0, 0, 1, 2) of every head answers for an object."""
    found = []
    for _ in heads:
        index = [torch.tensor([number]) for number in (0, 0, 1, 2)]
        box = torch.tensor([[20.0, 12.0, 9.0, 14.0]], dtype=torch.float64)
        found.append(HeadMatches(*index, box, torch.tensor([1]), torch.tensor([0])))
    return Matches(tuple(found))


def test_response_modes_read_free_heads_and_follow_the_teacher() -> None:
    specs = (FreeSpec(8, 3, bins=4), FreeSpec(16, 3, bins=4))
    shapes = ((6, 8), (3, 4))
    both = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        heads = [torch.randn(2, 1, *grid, 19, generator=generator, dtype=torch.float64) for grid in shapes]
        both.append(Outputs(heads, specs))
    student, teacher = both
    matches = matched(specs, student.heads)
    expected = {"hinton": {"hinton_cls"}, "scaled": {"scaled_obj", "scaled_cls", "scaled_box"}, "gap": {"gap"}}
    for loss in (hinton, scaled, gap):
        terms = {name: value for name, value in loss(student, teacher, matches).items() if "metric" not in name}
        assert set(terms) == expected[loss.__name__]
        assert all(value > 1e-6 for value in terms.values())
        same = loss(student, student, matches)
        assert all(float(same[name]) == pytest.approx(0, abs=1e-12) for name in terms)
    picked = [match.pick(head) for match, head in zip(matches.heads, student.heads)]
    near = [
        spec.encode(spec.boxes_at(rows, match), match) - spec.encode(match.box, match)
        for spec, rows, match in zip(specs, picked, matches.heads)
    ]
    gated = bounded(student, teacher, matches, margin=1e9)["bounded"]
    assert float(gated) == pytest.approx(float(sum(each.square().sum() for each in near)) / 2)


def test_teachers_of_one_family_are_aligned_by_class_names_and_averaged_as_probabilities() -> None:
    student, many = network(classes=2, bins=4), [network(classes=3, bins=4, seed=seed) for seed in (1, 2)]
    student.names, names = ["b", "a"], ["a", "x", "b"]
    for each in many:
        each.names = names
    images = torch.rand(1, 3, 64, 64)
    teacher = Teacher(many, student)
    assert teacher.specs == student.specs
    for place, head in enumerate(teacher.network(images)):
        apart = [each(images)[place] for each in many]
        classes = torch.stack([answer[..., 16:].sigmoid()[..., [2, 0]] for answer in apart]).mean(0)
        assert torch.allclose(head[..., 16:].sigmoid(), classes, atol=1e-5)
        sides = torch.stack([answer[..., :16].unflatten(-1, (4, 4)).softmax(-1) for answer in apart]).mean(0)
        assert torch.allclose(head[..., :16].unflatten(-1, (4, 4)).softmax(-1), sides, atol=1e-5)


def test_teacher_of_another_family_is_refused_naming_both() -> None:
    free = network()
    anchored = AnchoredSpec(((8.0, 8.0),), 8, 3)
    assert free.specs[0].pair_places(anchored) is None
    assert anchored.pair_places(free.specs[0]) is None


def test_counts_of_an_accumulating_step_follow_the_weights_of_each_batch() -> None:
    """count = sum of weights x (A n / N) / a, with A and a amounts and N and n pictures of step and batch."""
    empty = torch.zeros(0, dtype=torch.long)

    def with_weights(*weights: float) -> HeadMatches:
        rows = torch.zeros(len(weights), dtype=torch.long)
        return HeadMatches(rows, rows, rows, rows, torch.zeros(len(weights), 4), rows, rows, torch.tensor(weights))

    heads = (with_weights(0.5, 0.25), with_weights(0.75))
    assert Matches(heads).count == 1.5
    expected, amount = torch.tensor(6.0), torch.tensor(4.0)
    assert Matches(heads, expected=expected, amount=amount).count == 1.5 * 6 / 4
    unweighted = (HeadMatches(*[torch.zeros(2, dtype=torch.long)] * 4, torch.zeros(2, 4), empty, empty),)
    assert Matches(unweighted).count == 2
    assert Matches(unweighted, expected=expected).count == 6
    nobody = (with_weights(),)
    assert Matches(nobody, expected=expected, amount=torch.tensor(0.0)).count == 6
