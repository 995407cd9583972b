import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.ops import batched_nms

import models
from common.errors import UserError
from models.yolov5 import is_yolov5, load_yolov5
from tests.models import yolov5_program as program
from tests.shared import shared

NAMES = ["hand", "face"]


@pytest.fixture
def nano():
    torch.manual_seed(0)
    return program.Model("n", nc=2, names=NAMES)


def alive(heads):
    return all((head[0] - head[1]).abs().max() > 0.01 * head.abs().max() for head in heads)


@pytest.mark.parametrize("letter", ["n", "s", "m"])
def test_imported_network_says_what_the_original_says(letter, tmp_path):
    torch.manual_seed(1)
    original = program.Model(letter, nc=3)
    net = load_yolov5(program.checkpoint(original, tmp_path / "best.pt"))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        want, have = original.double()(images.double()), net.double()(images.double())
    assert alive(want)
    for a, b in zip(have, want, strict=True):
        # What is left is adding eps to the variance in FP32 once instead of in every forward.
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_batchnorm_eps_moves_into_the_variance(nano, tmp_path):
    net = load_yolov5(program.checkpoint(nano, tmp_path / "best.pt"))
    stem = net.layers[0].bn
    torch.testing.assert_close(stem.running_var + stem.eps, nano.model[0].bn.running_var + 1e-3, rtol=0, atol=1e-7)


def test_classes_names_and_anchors_come_from_the_file(tmp_path):
    anchors = [[[5, 6], [7.5, 8], [9, 9]], [[20, 21], [22, 23], [24, 25.5]], [[70, 72], [90, 91], [99, 120]]]
    model = program.Model("n", nc=3, names={0: "a", 1: "b", 2: "c"}, anchors=anchors)
    net = load_yolov5(program.checkpoint(model, tmp_path / "best.pt"))
    assert net.names == ["a", "b", "c"]
    assert [spec.classes for spec in net.specs] == [3, 3, 3]
    assert [[list(pair) for pair in spec.anchors] for spec in net.specs] == anchors
    assert [spec.stride for spec in net.specs] == [8, 16, 32]
    assert all(spec.new_coords and spec.scale_x_y == 2 for spec in net.specs)


def test_ema_is_preferred_to_the_live_model(nano, tmp_path):
    ema = program.Model("n", nc=2, names=["ema", "it is"]).half()
    net = load_yolov5(program.checkpoint(nano, tmp_path / "last.pt", ema=ema))
    assert net.names == ["ema", "it is"]
    assert torch.equal(net.layers[0].conv.weight, ema.model[0].conv.weight.float())


def test_what_an_unfinished_training_leaves_in_the_file_does_not_disturb(nano, tmp_path):
    optimizer = torch.optim.SGD(nano.parameters(), lr=0.1, momentum=0.9)
    nano(torch.rand(1, 3, 64, 64))[0].sum().backward()
    optimizer.step()
    path = program.checkpoint(
        nano,
        tmp_path / "last.pt",
        optimizer=optimizer.state_dict(),
        updates=7,
        best_fitness=np.array([0.5]),
        opt={"weights": tmp_path, "lr": np.float64(0.1)},
    )
    assert load_yolov5(path).names == NAMES


@pytest.mark.parametrize(
    ("opt", "size", "said"),
    [
        ({"imgsz": 320}, (320, 320), "320"),
        ({"imgsz": 10**12}, (640, 640), None),
        ({}, (640, 640), None),
        (None, (640, 640), None),
    ],
)
def test_the_picture_size_is_that_of_the_training_where_the_file_says_it(opt, size, said, nano, tmp_path):
    net = load_yolov5(program.checkpoint(nano, tmp_path / "best.pt", opt=opt))
    assert net.image_size == size
    assert net.meta.get("trained_at") == said


def test_load_takes_a_yolov5_file_and_adapts_its_heads(nano, tmp_path):
    path = program.checkpoint(nano, tmp_path / "best.pt")
    net = models.load(path, classes=5)
    assert net.classes == 5
    assert torch.equal(net.layers[0].conv.weight, nano.model[0].conv.weight)
    assert {name.split(".")[1] for name in net.load_report.unfit} == {str(number) for number in net.head_convolutions}


def test_imported_network_survives_our_own_checkpoint(nano, tmp_path):
    net = load_yolov5(program.checkpoint(nano, tmp_path / "best.pt"))
    models.save(net, tmp_path / "ours.pt")
    again = models.load(tmp_path / "ours.pt")
    images = torch.rand(1, 3, 64, 64)
    assert not is_yolov5(tmp_path / "ours.pt")
    assert again.names == NAMES
    for a, b in zip(net(images), again.eval()(images), strict=True):
        assert torch.equal(a, b)


def replaced(nano, number, module):
    module.f = nano.model[number].f
    nano.model[number] = module


def fused(nano):
    nano.model[3].conv.bias = nn.Parameter(torch.zeros(64))
    del nano.model[3].bn


def other_activation(nano):
    nano.model[4].m[0].cv1.act = nn.Hardswish()


def deeper(nano):
    nano.model[2] = program.C3(32, 32, 2, True)
    nano.model[2].f = -1


def shortcut_in_the_neck(nano):
    nano.model[13].m[0].add = True


def other_kernel(nano):
    nano.model[5].conv = nn.Conv2d(64, 128, 3, 2, 0, bias=False)


def lying_class_count(nano):
    nano.model[24].nc = 4


def too_few_names(nano):
    nano.names = ["one"]


def another_reading(nano):
    nano.model[19].f = [-1, 13]


def other_strides(nano):
    nano.model[24].stride = torch.tensor([4.0, 8.0, 16.0])


def other_module(nano):
    replaced(nano, 9, program.Conv(256, 256))


def not_finite(nano):
    nano.model[0].conv.weight.data[0, 0, 0, 0] = float("nan")


def other_width(nano):
    replaced(nano, 0, program.Conv(3, 24, 6, 2, 2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (fused, ["model.3", "fused"]),
        (other_activation, ["model.4.m.0.cv1", "Hardswish", "SiLU"]),
        (deeper, ["model.2.m.1.cv1", "16x16x1x1", "32x32x1x1", "yolov5n.cfg"]),
        (shortcut_in_the_neck, ["model.13.m.0", "add=True", "False"]),
        (other_kernel, ["model.5", "padding [0, 0]", "padding [1, 1]"]),
        (lying_class_count, ["nc=4", "21 channels"]),
        (too_few_names, ["1 readable class names", "2 classes"]),
        (another_reading, ["model.19", "f=[-1, 13]", "[-1, 14]"]),
        (other_strides, ["[8, 16, 32]"]),
        (other_module, ["module 9", "Conv", "SPPF"]),
        (not_finite, ["model.0.weight", "not finite"]),
        (other_width, ["stem has [24]", "yolov5n 16"]),
    ],
)
def test_other_networks_are_refused_naming_both_sides(nano, tmp_path, change, told):
    change(nano)
    path = program.checkpoint(nano, tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        load_yolov5(path)
    for word in [str(path), "release 6", *told]:
        assert word in str(error.value)


def test_files_of_others_are_told_apart(tmp_path, nano):
    torch.save({"state": nano.state_dict()}, tmp_path / "tensors.pt")
    (tmp_path / "text.pt").write_text("models.yolo")
    assert not is_yolov5(tmp_path / "tensors.pt")
    assert not is_yolov5(tmp_path / "text.pt")
    assert not is_yolov5(tmp_path / "absent.pt")
    assert is_yolov5(program.checkpoint(nano, tmp_path / "best.pt"))
    with pytest.raises(UserError, match="no network under 'ema' or 'model'"):
        load_yolov5(tmp_path / "tensors.pt")


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_old_torch_format_is_refused_with_the_way_out(tmp_path, nano):
    path = tmp_path / "old.pt"
    program.save({"model": nano}, path, _use_new_zipfile_serialization=False)
    assert is_yolov5(path)
    with pytest.raises(UserError, match=r"before torch 1\.6(.|\n)*re-save"):
        load_yolov5(path)


# The official file, where it is at hand.


@pytest.fixture(scope="module")
def official():
    return load_yolov5(shared("pretrained/yolov5/yolov5n_v6.1.pt"))


def test_official_tensors_equal_the_plain_copy_of_them(official):
    state = np.load(shared("pretrained/yolov5/yolov5n_v6.1_state.npz"))

    def fingerprints(tensors):
        return sorted((tuple(t.shape), t.double().sum().item(), t.double().square().sum().item()) for t in tensors)

    weights = [torch.from_numpy(state[key]).float() for key in state.files if state[key].ndim == 4]
    assert fingerprints(conv.conv.weight for conv in official.convolutions.values()) == fingerprints(weights)
    # By name, at places that tell the order apart: a C3's bypass, its first convolution, a bottleneck, the heads.
    layers = list(official.convolutions.values())
    for place, name in enumerate(["0", "1", "2.cv2", "2.cv1", "2.m.0.cv1", "2.m.0.cv2", "2.cv3", "3"]):
        theirs = {
            key: state[f"model.{name}.{key}"].astype("f4")
            for key in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        }
        ours = {key: value.numpy() for key, value in layers[place].state_dict().items()}
        np.testing.assert_allclose(ours.pop("bn.running_var") + 1e-6, theirs.pop("bn.running_var") + 1e-3, rtol=1e-6)
        assert all(np.array_equal(ours[key], value) for key, value in theirs.items())
    for head, number in enumerate(official.head_convolutions):
        conv = official.layers[number].conv
        assert np.array_equal(conv.weight.detach().numpy(), state[f"model.24.m.{head}.weight"].astype("f4"))
        assert np.array_equal(conv.bias.detach().numpy(), state[f"model.24.m.{head}.bias"].astype("f4"))


def detections(net, picture, size=640, confidence=0.25, overlap=0.45):
    """Detections as the JSON has them: (class, confidence, left, top, width, height in pixels of the picture).

    The picture is scaled to fit a square and centred on grey 114; NMS is per class.
    """
    height, width = picture.shape[:2]
    ratio = size / max(height, width)
    scaled = cv2.resize(picture, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
    top, left = (size - scaled.shape[0]) // 2, (size - scaled.shape[1]) // 2
    canvas = np.full((size, size, 3), 114, np.uint8)
    canvas[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    images = torch.from_numpy(canvas[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        found = net.decode(net(images))[0]
    scores = found[:, 4:5] * found[:, 5:]
    row, label = (scores > confidence).nonzero(as_tuple=True)
    score, box = scores[row, label], found[row, :4]
    corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)
    keep = batched_nms(corners, score, label, overlap)
    shift = torch.tensor([left, top, 0.0, 0.0])
    boxes = (torch.cat([corners[keep, :2], box[keep, 2:]], 1) - shift) / ratio
    return [(net.names[c], s.item(), *b.tolist()) for c, s, b in zip(label[keep], score[keep], boxes)]


@pytest.mark.parametrize("name", ["dog", "person", "horses"])
def test_official_detections_equal_the_published_ones(official, name):
    expected = json.loads(shared("pretrained/yolov5/expected.json").read_text())["yolov5n_v6.1.pt"][name]
    found = detections(official, cv2.imread(str(shared(f"pretrained/darknet/{name}.jpg"))))
    assert [row[0] for row in found] == [row["class"] for row in expected]
    for row, want in zip(found, expected, strict=True):
        assert row[1] == pytest.approx(want["conf"], abs=2e-4)
        assert row[2:] == pytest.approx(want["xywh"], abs=0.15)
