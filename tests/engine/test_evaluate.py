"""`evaluate` on small data sets and tiny networks."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import data
import models
from common.errors import UserError
from engine.evaluate import detect, evaluate, score_pictures
from engine.metrics import PictureBoxes, coco_records
from models.network import Network

TINY = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=14
size=1
stride=1
pad=1
activation=linear
[yolo]
mask=0,1
anchors=8,8, 24,24
classes=2
num=2
"""


def head_convolution(net: Network) -> torch.nn.Conv2d:
    return [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)][-1]


@pytest.fixture
def net() -> Network:
    torch.manual_seed(0)
    net = Network(models.parse_cfg(TINY), ["square", "disc"])
    # an untrained head says "no" everywhere; this one says boxes near its anchors in every cell, each a bit different
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_(0, 0.3)
        head_convolution(net).bias.zero_()
    return net


def write_set(folder: Path, boxes_of: list[list[str]], size: tuple[int, int] = (80, 120)) -> Path:
    rng = np.random.default_rng(1)
    for split, contents in (("train", boxes_of[:1]), ("val", boxes_of)):
        for part in ("images", "labels"):
            (folder / part / split).mkdir(parents=True)
        for number, boxes in enumerate(contents):
            picture = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"images/{split}/{number}.png"), picture)
            (folder / f"labels/{split}/{number}.txt").write_text("\n".join(boxes))
    (folder / "set.yaml").write_text("train: images/train\nval: images/val\nnames: [square, disc]\n")
    return folder / "set.yaml"


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    boxes = [["0 .5 .5 .4 .6", "1 .2 .3 .12 .2"], [], ["1 .6 .6 .3 .5"], ["0 .4 .5 .7 .9"]]
    # boxes of the larger anchor's size all over the picture: some of what an untrained network says is right
    places = [(x, y) for x in (0.25, 0.4, 0.6, 0.75) for y in (0.3, 0.5, 0.7)]
    boxes.append([f"{label} {x} {y} .375 .56" for label in (0, 1) for x, y in places])
    return write_set(tmp_path / "set", boxes)


def test_a_network_scores_as_pycocotools_says_of_its_detections(net, small_set):
    score = evaluate(net, small_set, batch_size=2)
    dataset = data.Dataset(data.load_spec(small_set), "val", size=net.image_size)
    pictures, _ = detect(net, data.make_loader(dataset, 3, shuffle=False))
    truth, found = coco_records(pictures, 2)
    assert len(found) > 50
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert score.map50 > 0
    np.testing.assert_allclose([score.map50_95, score.map50, score.map75], evaluation.stats[:3], atol=1e-9)
    assert (score.images, score.boxes) == (5, 28)


def test_boxes_are_compared_in_pixels_of_the_original_picture(net, tmp_path):
    yaml = write_set(tmp_path / "set", [["0 .5 .5 .5 .5"]], size=(80, 120))
    dataset = data.Dataset(data.load_spec(yaml), "val", size=(64, 64))
    (picture,), (sample,) = detect(net, data.make_loader(dataset, 1, shuffle=False), keep=1)
    assert picture.truth.tolist() == [pytest.approx([0, 30, 20, 90, 60], abs=0.5)]
    assert picture.size == (80, 120)
    assert sample.image.shape == (64, 64, 3)
    assert sample.truth[0, 1:].max() <= 64
    assert picture.detections[:, [0, 2]].max() <= 120
    assert picture.detections[:, [1, 3]].max() <= 80


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_and_tensors_are_as_before(net, small_set, training):
    net.train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    evaluate(net, small_set)
    assert net.training is training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_batch_size_does_not_change_the_score(net, small_set):
    one, four = (evaluate(net, small_set, batch_size=size).as_dict(classes=True) for size in (1, 4))
    assert one == pytest.approx(four)


def test_a_network_that_finds_nothing_scores_zero(net, small_set):
    with torch.no_grad():
        head_convolution(net).weight.zero_()
        head_convolution(net).bias.fill_(-30)
    score = evaluate(net, small_set)
    assert (score.map50_95, score.map50, score.precision, score.recall, score.f1) == (0, 0, 0, 0, 0)


def test_without_any_true_box_there_is_nothing_to_score(net, tmp_path):
    yaml = write_set(tmp_path / "set", [[], []])
    with pytest.raises(UserError):
        evaluate(net, yaml)
    empty = PictureBoxes(np.zeros((0, 6)), np.zeros((0, 5)))
    with pytest.raises(UserError, match="2 pictures and not one true box"):
        score_pictures([empty, empty], ["square"])


def test_a_network_of_other_classes_is_refused(net, small_set):
    text = small_set.read_text().replace("[square, disc]", "[square, disc, star]")
    small_set.write_text(text)
    with pytest.raises(UserError, match="2 classes, the data set 3"):
        evaluate(net, small_set)


def test_figures_are_written_where_asked_for(net, small_set, tmp_path):
    evaluate(net, small_set, plots_dir=tmp_path / "plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        "PR_curve.png",
        "F1_curve.png",
        "confusion_matrix.png",
        "predictions.jpg",
    }


def test_the_flat_form_has_the_logged_names_and_leaves_out_what_has_no_truth(net, small_set):
    score = evaluate(net, small_set)
    flat = score.as_dict(classes=True)
    assert {"mAP50-95", "mAP50", "mAP75", "precision", "recall", "F1", "AP50/square", "AP50-95/disc"} <= set(flat)
    assert "mAP50-95-large" not in flat, "no object is larger than 96 x 96"
    assert score.by_size["large"] is None
    assert flat["mAP50"] == pytest.approx((flat["AP50/square"] + flat["AP50/disc"]) / 2)
    assert score.per_class["square"]["boxes"] == 14


@pytest.mark.parametrize(("scored", "expected", "crowded"), [(100, 0.832, 1), (130, 1.0, 0)])
def test_boxes_past_the_cap_count_where_it_is_raised(scored, expected, crowded):
    """120 perfect boxes of a class in a picture."""
    corners = np.array([[10.0 * number, 10, 10 * number + 8, 20] for number in range(120)])
    truth = np.concatenate((np.zeros((120, 1)), corners), 1)
    sure = np.concatenate((corners, np.linspace(0.9, 0.8, 120)[:, None], np.zeros((120, 1))), 1)
    score = score_pictures([PictureBoxes(sure, truth, (1200, 1200))], ["square"], scored=scored)
    assert score.map50 == pytest.approx(expected, abs=1e-3)
    assert (score.scored, score.crowded) == (scored, crowded)
