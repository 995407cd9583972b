"""Letterbox or stretch: how pictures are resized belongs to the network, and is honoured wherever it meets one."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import data
import models
import prune
from common.errors import UserError
from data.anchors import boxes_wh
from data.augment import fit, letterbox
from data.options import AugmentConfig
from distill import Teacher
from engine.config import TrainConfig
from engine.evaluate import evaluate
from export.quantise import calibration_pictures
from models.network import Network
from models.resize import with_resize
from pipeline.stage import load_network
from reporting.predict import detect_picture
from tests import nets
from tests.alive import alive
from tests.data.made import line, rectangle, write_picture, write_set
from tests.engine.test_evaluate import TINY
from thinyolo.main import main

SIZE = (64, 64)
SHAPES = [(48, 160), (200, 90), (30, 100), (64, 64)]  # wide, high, shrinking one way and growing the other, as it is
DULL = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
STILL = AugmentConfig(mosaic=0, translate=0, scale=0, fliplr=0, **DULL)


def network(resize: str) -> Network:
    """One that finds something of everything."""
    net = alive(Network(models.parse_cfg(TINY), ["square", "disc"]), seed=1).eval()
    torch.nn.init.normal_(net.convolutions[2].conv.weight, std=0.5, generator=torch.manual_seed(0))
    return with_resize(net, resize)


def picture(number: int, shape: tuple[int, int]) -> tuple[np.ndarray, str]:
    """Noise, with a rectangle a third as wide and high as the picture; its label, and boxes all over the picture.

    Some of what an untrained network says is right then.
    """
    rng = np.random.default_rng(number)
    height, width = shape
    box = (width // 4, height // 5, width // 4 + width // 3, height // 5 + height // 3)
    image = rng.integers(0, 80, (*shape, 3)).astype(np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = (230, 60, 60)
    places = [(x, y) for x in (0.25, 0.4, 0.6, 0.75) for y in (0.3, 0.5, 0.7)]
    more = "".join(f"{label} {x} {y} .375 .375\n" for label in (0, 1) for x, y in places)
    return image, line(shape, box, number % 2) + more


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and the same with its pictures squashed to the size of the network beforehand."""
    folder = tmp_path_factory.mktemp("sets")
    originals = [picture(number, shape) for number, shape in enumerate(SHAPES)]
    squashed = [(fit(image, SIZE, "stretch"), text) for image, text in originals]
    one, other = (
        write_set(folder / name, dict.fromkeys(("train", "val"), pictures), names="[square, disc]")
        for name, pictures in (("original", originals), ("squashed", squashed))
    )
    return one, other


def test_stretched_networks_val_is_that_of_pictures_squashed_beforehand(sets: tuple[Path, Path]) -> None:
    original, squashed = sets
    stretched = evaluate(network("stretch"), original)
    beforehand = evaluate(network("letterbox"), squashed)
    assert stretched.map50 > 0.01
    assert (stretched.map50_95, stretched.map50) == pytest.approx((beforehand.map50_95, beforehand.map50), abs=1e-9)
    assert evaluate(network("letterbox"), original).map50_95 != pytest.approx(stretched.map50_95, abs=1e-4)


def test_predicted_boxes_come_back_by_each_sides_own_scale() -> None:
    image, _ = picture(0, (48, 160))
    found = detect_picture(network("stretch"), image)
    squashed = detect_picture(network("letterbox"), fit(image, SIZE, "stretch"))
    assert len(found) > 3
    back = squashed[:, :4] * [160 / 64, 48 / 64, 160 / 64, 48 / 64]
    np.testing.assert_allclose(found[:, :4], back, atol=1e-3)
    np.testing.assert_allclose(found[:, 4:], squashed[:, 4:], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_stretched_picture_fills_the_input_and_its_way_back_is_exact(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 200, np.uint8)
    made, record = letterbox(image, SIZE, resize="stretch")
    assert made.shape == (*SIZE, 3)
    assert (made == 200).all(), "nothing is grey"
    assert record.pad == (0, 0)
    assert record.scale == (64 / shape[1], 64 / shape[0])


def test_a_side_that_shrinks_is_averaged_while_the_other_grows() -> None:
    stripes = np.tile(np.array([0, 255, 0, 255], np.uint8), (16, 64))[..., None].repeat(3, 2)  # 16 x 256
    assert np.ptp(fit(stripes, SIZE, "stretch")) <= 2, "every fourth column would be black or white all over"


@pytest.mark.parametrize("augment", [STILL, AugmentConfig(mosaic=0, **DULL), AugmentConfig(**DULL)])
def test_training_boxes_lie_on_what_they_are_of(tmp_path: Path, augment: AugmentConfig) -> None:
    shapes = [(50, 150), (160, 40)]
    boxes = [(30, 10, 90, 40), (5, 40, 35, 120)]
    pictures = [(rectangle(shape, box), line(shape, box)) for shape, box in zip(shapes, boxes)]
    yaml = write_set(tmp_path, {"train": pictures})
    dataset = data.Dataset(data.load_spec(yaml), "train", SIZE, augment, resize="stretch")
    seen = 0
    for key in ((epoch, index) for epoch in range(3) for index in range(2)):
        sample = dataset[key]
        red = (sample.image[0] > 2 * sample.image[1].int() + 60).numpy()
        for _, cx, cy, w, h in sample.boxes.tolist():
            x1, y1, x2, y2 = (round(value) for value in (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2))
            assert min(x2 - x1, y2 - y1) < 7 or red[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > 0.9
            red[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = False
            seen += 1
        assert red.mean() < 0.02, "no object without its box"
    assert seen >= 6


def test_anchors_and_calibration_see_stretched_pictures(sets: tuple[Path, Path]) -> None:
    original, squashed = (data.load_spec(path) for path in sets)
    np.testing.assert_allclose(boxes_wh(original, SIZE, resize="stretch"), boxes_wh(squashed, SIZE), atol=1e-4)
    assert np.abs(boxes_wh(original, SIZE) - boxes_wh(squashed, SIZE)).max() > 5
    one = calibration_pictures(original, SIZE, 4, resize="stretch")
    assert all((mine == theirs).all() for mine, theirs in zip(one, calibration_pictures(squashed, SIZE, 4)))


def test_cache_on_disk_tells_the_two_apart(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = data.load_spec(sets[0])
    for resize in ("letterbox", "stretch", "letterbox"):
        cached = data.Dataset(spec, "val", SIZE, cache="disk", resize=resize)[0].image
        assert torch.equal(cached, data.Dataset(spec, "val", SIZE, resize=resize)[0].image), resize


def test_checkpoint_cut_and_darknet_files_carry_it(tmp_path: Path) -> None:
    for resize in ("letterbox", "stretch"):
        net = with_resize(alive(Network(models.parse_cfg(nets.RESIDUAL))), resize)
        models.save(net, tmp_path / "net.pt")
        assert models.load(tmp_path / "net.pt").resize == resize
        thin = prune.channels(models.load(tmp_path / "net.pt"), budget="params=0.5").network
        assert thin.resize == resize
        models.save_darknet(thin, tmp_path / "net.cfg", tmp_path / "net.weights")
        assert f"letter_box={int(resize == 'letterbox')}" in (tmp_path / "net.cfg").read_text()
        again = models.load(tmp_path / "net.cfg", weights=tmp_path / "net.weights")
        assert again.resize == resize
        assert models.fingerprint(again) == models.fingerprint(thin)
    models.save(net, tmp_path / "stretched.pt")
    (tmp_path / "silent.cfg").write_text(nets.RESIDUAL)
    assert models.load(tmp_path / "silent.cfg", weights=tmp_path / "stretched.pt").resize == "stretch"


def test_cfg_says_it_in_darknets_words() -> None:
    for text, resize in (("", "letterbox"), ("letter_box=1\n", "letterbox"), ("letter_box=0\n", "stretch")):
        assert Network(models.parse_cfg(nets.RESIDUAL.replace("width", f"{text}width", 1))).resize == resize
    with pytest.raises(UserError, match="letter_box=some is not a whole number"):
        Network(models.parse_cfg(nets.RESIDUAL.replace("width", "letter_box=some\nwidth", 1)))


def test_darknets_weights_without_a_word_in_the_cfg_get_a_hint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = alive(Network(models.parse_cfg(nets.RESIDUAL)))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    models.save_darknet(net, cfg, weights)
    hint = "Darknet stretches them"
    with caplog.at_level(logging.INFO, logger="thinyolo"):
        assert load_network(TrainConfig(cfg=str(cfg), weights=str(weights)), None).resize == "letterbox"
        assert hint not in caplog.text, "it says letter_box=1"
        cfg.write_text(nets.RESIDUAL)
        chosen = load_network(TrainConfig(cfg=str(cfg), weights=str(weights), resize="stretch"), None)
        assert chosen.resize == "stretch"
        assert hint not in caplog.text
        assert load_network(TrainConfig(cfg=str(cfg), weights=str(weights)), None).resize == "letterbox"
        assert hint in caplog.text


def test_teacher_of_the_other_way_teaches_on_the_students_pictures(caplog: pytest.LogCaptureFixture) -> None:
    teacher, student = network("stretch"), network("letterbox")
    with caplog.at_level(logging.WARNING, logger="thinyolo"):
        made = Teacher(teacher, student)
    assert "resized by stretch, the student's are by letterbox" in caplog.text
    assert (made.resize, made.network.resize) == ("letterbox", "letterbox")


def test_val_and_predict_honour_the_option_and_the_file(
    sets: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = evaluate(network("stretch"), sets[0]).map50_95
    for name, resize, asked in (("file", "stretch", "auto"), ("option", "letterbox", "stretch")):
        models.save(network(resize), tmp_path / f"{name}.pt")
        arguments = ["--model", f"{name}.pt", "--resize", asked, "--name", name, "--device", "cpu"]
        assert main(["val", *arguments, "--data", str(sets[0]), "--no-plots"]) == 0
        assert json.loads(Path(f"runs/val/{name}/score.json").read_text())["mAP50-95"] == pytest.approx(expected)
    image, _ = picture(0, (48, 160))
    write_picture(tmp_path / "one.png", image)
    assert main(["predict", *arguments, "--source", "one.png"]) == 0
    boxes = [
        each["box_xyxy"]
        for each in json.loads(Path("runs/predict/option/predictions.json").read_text())[0]["detections"]
    ]
    np.testing.assert_allclose(boxes, detect_picture(network("stretch"), image)[:, :4], atol=0.02)
    assert cv2.imread("runs/predict/option/one.png") is not None
