"""Trained Darknet networks find in our hands what they find in OpenCV's."""

import json

import cv2
import pytest
import torch
from torchvision.ops import batched_nms

import models
from tests.shared import shared

CONFIDENCE, NMS_IOU = 0.3, 0.45


def detections(net: models.Network, picture, size: tuple[int, int]) -> list[tuple[int, float, list[float]]]:
    """(class, confidence, [x, y, w, h] in pixels of the picture), surest first; the picture stretched to `size`."""
    pixels = cv2.imread(str(picture))
    height, width = pixels.shape[:2]
    blob = torch.from_numpy(cv2.dnn.blobFromImage(pixels, 1 / 255, size, swapRB=True))
    with torch.no_grad():
        decoded = net.eval().decode(net(blob))[0]
    scores = decoded[:, 4:5] * decoded[:, 5:]
    rows, labels = (scores > CONFIDENCE).nonzero().T
    confidence = scores[rows, labels]
    boxes = decoded[rows, :4] * torch.tensor([width / size[0], height / size[1]] * 2)
    corner = boxes[:, :2] - boxes[:, 2:] / 2
    kept = batched_nms(torch.cat((corner, corner + boxes[:, 2:]), 1), confidence, labels, NMS_IOU)
    return [(int(labels[i]), float(confidence[i]), [*corner[i].tolist(), *boxes[i, 2:].tolist()]) for i in kept]


@pytest.mark.parametrize("picture", ["dog", "person", "horses"])
@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1_body"])
def test_detections_equal_opencvs(name, picture):
    folder = shared("pretrained/darknet")
    expected = json.loads((folder / "expected_opencv_dnn_4.12.json").read_text())[name]
    names = ["obj"] if "body" in name else (folder / "coco.names").read_text().split("\n")[:80]
    net = models.load(folder / f"{name}.cfg", folder / f"{name}.weights", names=names)
    assert not net.load_report.missing
    found = detections(net, folder / f"{picture}.jpg", tuple(expected["size"]))
    assert [net.names[label] for label, _, _ in found] == [entry["class"] for entry in expected[picture]]
    for (_, confidence, box), entry in zip(found, expected[picture]):
        assert confidence == pytest.approx(entry["conf"], abs=2e-4)
        assert box == pytest.approx(entry["xywh"], abs=0.11)


def test_trained_weights_survive_our_writing_byte_for_byte(tmp_path):
    folder = shared("pretrained/darknet")
    official = folder / "yolo-fastest-1.1.weights"
    net = models.load(folder / "yolo-fastest-1.1.cfg", official)
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    assert (tmp_path / "net.weights").read_bytes()[20:] == official.read_bytes()[20:]
