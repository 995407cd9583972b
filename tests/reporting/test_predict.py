"""Predictions on pictures, folders and videos: the files written, and boxes in original pixels."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_convert, box_iou

import data
import models
from common.errors import UserError
from data.sources import find_sources
from engine.pictures import save_picture
from models.network import Network
from reporting.predict import Found, Prediction, PredictOptions, compare, detect_picture
from reporting.predict import predict as predict_all
from tests.engine.test_evaluate import write_set
from tests.shared import shared

ONE_CELL = """
[net]
width=32
height=32
channels=3
[convolutional]
filters=7
size=1
stride=32
pad=0
activation=linear
[yolo]
mask=0
anchors=16,8
classes=2
num=1
"""


@pytest.fixture
def net() -> Network:
    """One cell, one anchor: always a box of 16 x 8 pixels in the middle of the input, class 1, confidence 0.5 or so."""
    net = Network(models.parse_cfg(ONE_CELL), ["square", "disc"])
    with torch.no_grad():
        head = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0, 0, 0, 10, -10, 0]))
    return net.eval()


def predict(net: Network, source, out, options: PredictOptions | None = None) -> list[Prediction]:
    """What one network finds."""
    return everything(net, [source], out, options).predictions[""]


def everything(net: Network, sources, out, options: PredictOptions | None = None) -> Found:
    return predict_all({"": net}, find_sources(sources), out, {"": options or PredictOptions()})


def picture(path, size=(64, 128)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*size, 3), 120, np.uint8))


def test_boxes_are_in_pixels_of_the_picture(net):
    boxes = detect_picture(net, np.zeros((64, 128, 3), np.uint8))
    # 128 x 64 shrinks 4 times to fit 32 x 32: 16 x 8 input pixels are 64 x 32 of the picture
    assert boxes.tolist() == [pytest.approx([32, 16, 96, 48, 0.5, 1], abs=0.1)]


def test_a_folder_gives_drawn_pictures_yolo_labels_and_json(net, tmp_path):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/deep/b.jpg", (100, 50))
    net.train()
    found = predict(net, tmp_path / "in", tmp_path / "out")
    assert net.training
    assert len(found) == 2
    out = tmp_path / "out"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == ["a.png", "deep/b.jpg", "labels/a.txt", "labels/deep/b.txt", "predictions.json"]
    assert cv2.imread(str(tmp_path / "out/a.png")).any(axis=2).all(), "the picture is still there"
    label = [float(value) for value in (tmp_path / "out/labels/a.txt").read_text().split()]
    assert label == pytest.approx([1, 0.5, 0.5, 0.5, 0.5, 0.5], abs=0.01)
    record = json.loads((tmp_path / "out/predictions.json").read_text())[0]
    assert (record["width"], record["height"]) == (128, 64)
    assert record["detections"][0]["name"] == "disc"
    assert record["detections"][0]["box_xyxy"] == pytest.approx([32, 16, 96, 48], abs=0.1)


def test_confidence_is_a_threshold(net, tmp_path):
    picture(tmp_path / "a.png")
    (prediction,) = predict(net, tmp_path / "a.png", tmp_path / "out", PredictOptions(conf=0.6))
    assert len(prediction.boxes) == 0
    assert (tmp_path / "out/labels/a.txt").read_text() == ""


def test_a_video_is_drawn_frame_by_frame(net, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "in.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 64))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no mp4")
    for shade in (40, 90, 140):
        writer.write(np.full((64, 128, 3), shade, np.uint8))
    writer.release()
    found = predict(net, tmp_path / "in.mp4", tmp_path / "out")
    assert [each.frame for each in found] == [0, 1, 2]
    reader = cv2.VideoCapture(str(tmp_path / "out/in.mp4"))
    assert (reader.get(cv2.CAP_PROP_FRAME_WIDTH), reader.get(cv2.CAP_PROP_FRAME_COUNT)) == (128, 3)
    assert [record["frame"] for record in json.loads((tmp_path / "out/predictions.json").read_text())] == [0, 1, 2]


@pytest.mark.parametrize("name, content", [("absent.jpg", None), ("notes.txt", b"x"), ("film.mp4", b"no film")])
def test_what_cannot_be_read_is_named(net, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        predict(net, tmp_path / name, tmp_path / "out")


def test_files_that_differ_in_their_ending_only_do_not_overwrite_each_other(net, tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        picture(tmp_path / "in" / name)
    predict(net, tmp_path / "in", tmp_path / "out")
    out = tmp_path / "out"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert written == [
        "a.jpg.jpg",
        "a.png.png",
        "b.png",
        "labels/a.jpg.txt",
        "labels/a.png.txt",
        "labels/b.txt",
        "predictions.json",
    ]


def test_a_broken_picture_in_a_folder_costs_only_itself(net, tmp_path, caplog):
    picture(tmp_path / "in/b.png")
    (tmp_path / "in/a.png").write_bytes(b"broken")
    assert [Path(each.source).name for each in predict(net, tmp_path / "in", tmp_path / "out")] == ["b.png"]
    assert len(json.loads((tmp_path / "out/predictions.json").read_text())) == 1
    assert "left out" in caplog.text
    assert "a.png" in caplog.text


def test_a_source_that_is_not_there_costs_only_itself(net, tmp_path, caplog):
    picture(tmp_path / "b.png")
    sources = find_sources([tmp_path / "nope.jpg", tmp_path / "b.png"])
    found = predict_all({"": net}, sources, tmp_path / "out", {"": PredictOptions()})
    assert found.unread == 1
    assert [Path(each.source).name for each in found.predictions[""]] == ["b.png"]
    assert "nope.jpg does not exist" in caplog.text


def test_the_further_frames_of_a_picture_are_told_once(net, tmp_path, caplog):
    frames = [Image.new("RGB", (16, 12), (value, 0, 0)) for value in (9, 99)]
    for name in ("a.tif", "b.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    predict(net, tmp_path, tmp_path / "out")
    assert caplog.text.count("several frames or pages") == 1


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no picture or video"):
        find_sources([tmp_path])


def test_networks_of_other_classes_are_shown_side_by_side_in_one_numbering(net, tmp_path):
    picture(tmp_path / "a.png")
    other = Network(models.parse_cfg(ONE_CELL), ["Disc", "star"])
    other.load_state_dict(net.state_dict())
    bias = next(module for module in other.modules() if isinstance(module, torch.nn.Conv2d)).bias
    bias.data[5], bias.data[6] = 0.5, 0.0  # its disc is class 0
    nets = {"fat": net, "thin": other.eval()}
    predict_all(nets, find_sources([tmp_path / "a.png"]), tmp_path / "out", dict.fromkeys(nets, PredictOptions()))
    said = json.loads((tmp_path / "out/predictions.json").read_text())
    for caption in nets:
        (found,) = said[caption][0]["detections"]
        assert (found["class"], found["name"]) == (1, "disc")
        assert (tmp_path / f"out/labels/{caption}/a.txt").read_text().startswith("1 ")


def test_networks_are_compared_on_pictures_that_have_boxes(net, tmp_path):
    yaml = write_set(tmp_path / "set", [[], ["0 .5 .5 .4 .6"], [], ["1 .6 .6 .3 .3"]])
    dataset = data.Dataset(data.load_spec(yaml), "val", size=(32, 32))
    shown = compare({"teacher": net, "student": net}, dataset, count=5)
    assert [name for name, _ in shown] == ["1.png", "3.png"]
    height, width = shown[0][1].shape[:2]
    assert 2.5 * height < width, "three columns: ground truth, teacher, student"


def test_a_trained_network_finds_what_opencv_finds():
    folder = shared("pretrained/darknet")
    expected = json.loads((folder / "expected_opencv_dnn_4.12.json").read_text())["yolo-fastest-1.1"]
    names = (folder / "coco.names").read_text().split("\n")
    net = models.load(folder / "yolo-fastest-1.1.cfg", weights=folder / "yolo-fastest-1.1.weights").eval()
    image = cv2.cvtColor(cv2.imread(str(folder / "dog.jpg")), cv2.COLOR_BGR2RGB)
    size = tuple(expected["size"])
    found = torch.from_numpy(detect_picture(net, image, PredictOptions(size, iou=0.4)))
    best = expected["dog"][0]
    mine = found[found[:, 5] == names.index(best["class"]), :4]
    theirs = box_convert(torch.tensor([best["xywh"]]), "xywh", "xyxy")
    # letterboxed here, stretched there: the same car, not the same pixels
    assert box_iou(mine, theirs).max() > 0.6


@pytest.mark.parametrize("size", [(60, 12000), (2, 6000), (9000, 3), (1, 1)])
def test_pictures_of_any_shape_are_drawn_and_not_blown_up(net, tmp_path, size):
    picture(tmp_path / "in/a.jpg", size)
    (found,) = predict(net, tmp_path / "in", tmp_path / "out")
    assert found.size == size
    drawn = cv2.imread(str(tmp_path / "out/a.jpg"))
    assert drawn.shape[0] / drawn.shape[1] == pytest.approx(size[0] / size[1])
    assert max(drawn.shape) <= max(4096, *size)


def test_one_bad_picture_never_ends_a_folder(net, tmp_path, monkeypatch, caplog):
    for name in ("a", "b", "c"):
        picture(tmp_path / f"in/{name}.png")
    monkeypatch.setattr(sys.modules[predict_all.__module__], "save_picture", failing_at("b", save_picture))
    found = predict(net, tmp_path / "in", tmp_path / "out")
    assert [Path(each.source).name for each in found] == ["a.png", "c.png"]
    assert "left out: " in caplog.text
    assert "b.png" in caplog.text


def failing_at(name, save):
    def saved(path, image):
        if Path(path).stem == name:
            raise cv2.error("no such picture")
        return save(path, image)

    return saved


def test_depth_is_told_once_and_a_range_stretches_it(net, tmp_path, caplog):
    for name in ("a", "b"):
        (tmp_path / "in").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"in/{name}.png"), np.full((64, 128), 4095, np.uint16))
    predict(net, tmp_path / "in", tmp_path / "dark")
    assert caplog.text.count("its values lie in 4095 to 4095") == 1
    caplog.clear()
    predict(net, tmp_path / "in", tmp_path / "bright", PredictOptions(pixel_range=(0, 4095)))
    assert not caplog.text
    dark, bright = (cv2.imread(str(tmp_path / name / "a.png"))[0, 0, 0] for name in ("dark", "bright"))
    assert (dark, bright) == (15, 255)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_drawn_pictures_have_the_size_of_the_pictures(net, tmp_path, name):
    picture(tmp_path / "in" / name)
    predict(net, tmp_path / "in", tmp_path / "out")
    (drawn,) = (path for path in (tmp_path / "out").iterdir() if path.stem == "a")
    assert cv2.imread(str(drawn)).shape == (64, 128, 3)


def test_files_of_one_name_from_two_folders_are_all_written_and_counted(net, tmp_path):
    picture(tmp_path / "one/a.png")
    picture(tmp_path / "two/a.png")
    (tmp_path / "two/b.png").write_bytes(b"broken")
    found = everything(net, [tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    assert (len(found.predictions[""]), found.unread, found.stopped) == (2, 1, None)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(list((tmp_path / "out/labels").iterdir())) == 2
    assert found.milliseconds("") == found.predictions[""][1].milliseconds > 0, "without the first"


def test_what_was_found_before_a_stop_is_written_and_the_stop_is_kept(net, tmp_path, monkeypatch):
    class Terminated(KeyboardInterrupt):
        pass

    for name in ("a", "b", "c"):
        picture(tmp_path / f"in/{name}.png")

    def saved(path, image):
        if Path(path).stem == "b":
            raise Terminated
        return save_picture(path, image)

    monkeypatch.setattr(sys.modules[predict_all.__module__], "save_picture", saved)
    found = everything(net, [tmp_path / "in"], tmp_path / "out")
    assert isinstance(found.stopped, Terminated)
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert [Path(each["source"]).name for each in written] == ["a.png"]


def test_frames_bound_a_video(net, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (128, 64))
    for shade in (40, 90, 140):
        writer.write(np.full((64, 128, 3), shade, np.uint8))
    writer.release()
    assert len(predict(net, tmp_path / "in.avi", tmp_path / "out", PredictOptions(frames=2))) == 2
