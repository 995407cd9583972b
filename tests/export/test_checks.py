"""When a file's difference is rounding: within 1e-4 of the largest output, or what FP32 itself does to the network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import models
from engine.postprocess import postprocess
from export.checks import MARGIN, TOLERANCE, _boxes, compare_outputs, noise
from export.description import describe
from export.runtimes import Runtime
from models.heads import FreeSpec
from tests import nets
from tests.alive import alive

SIZE = (64, 64)
NMS = {"conf": 0.25, "iou": 0.45, "max_det": 300}


def network(loud: float) -> models.Network:
    """Its logits grow with `loud`, and with them what the last digit of FP32 makes of a probability."""
    net = alive(models.Network(models.parse_cfg(nets.detect(bins=1)))).eval()
    with torch.no_grad():
        for (_, classes), spec, head in zip(net.convolutions_by_head, net.specs, net(noise(SIZE).images), strict=True):
            conv = net.convolutions[classes].conv
            conv.weight *= loud
            # Some logits lie around 0, where a probability changes most.
            conv.bias.copy_(loud * (conv.bias - spec.class_logits(head).flatten(0, 3).median(0).values))
    return net


def file(net: models.Network, outputs: str, wrong: float) -> Runtime:
    """What float64 says, and `wrong` times FP32's own rounding of the probabilities beside it."""
    pictures = noise(SIZE).images
    exact_net = copy.deepcopy(net).double()
    with torch.no_grad():
        exact = exact_net.decode(exact_net(pictures.double()))
        error = wrong * rounding(net)
    about = describe(net, SIZE, outputs=outputs, batch=0, nms=NMS if outputs == "boxes" else None)

    def run(images: Any) -> list[np.ndarray]:
        decoded = exact.clone()
        decoded[..., 4:] += torch.where(decoded[..., 4:] < 0.5, error, -error)
        return [decoded.numpy()]

    return Runtime(about, run, "onnxruntime", "net.onnx")


def rounding(net: models.Network) -> float:
    """The largest difference of a probability between FP32 and float64."""
    pictures, exact = noise(SIZE).images, copy.deepcopy(net).double()
    with torch.no_grad():
        pairs = exact.decode(exact(pictures.double())), net.decode(net(pictures))
    return float((pairs[0] - pairs[1])[..., 4:].abs().max())


def test_a_loud_network_is_judged_by_what_fp32_does_to_it() -> None:
    net = network(1e4)
    assert rounding(net) > TOLERANCE
    near, far = (compare_outputs(net, file(net, "decoded", factor * MARGIN), noise(SIZE)) for factor in (0.9, 1.2))
    assert near.fits
    assert near.limit > near.share > TOLERANCE
    assert "FP32 rounds PyTorch's own" in near.where
    assert not far.fits


def test_a_network_that_fp32_rounds_less_keeps_the_tolerance() -> None:
    net = network(1.0)
    own = rounding(net)
    assert MARGIN * own < TOLERANCE
    for factor, fits in ((0.8, True), (1.2, False)):
        found = compare_outputs(net, file(net, "decoded", factor * TOLERANCE / own), noise(SIZE))
        assert found.fits is fits
        assert found.limit == TOLERANCE


def test_rounding_is_no_excuse_where_it_could_be_anything() -> None:
    net = network(1e7)
    assert rounding(net) > 0.1
    assert not compare_outputs(net, file(net, "decoded", 1.0), noise(SIZE)).fits


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_fit(value: float) -> None:
    net = network(1e4)
    assert not compare_outputs(net, file(net, "decoded", value), noise(SIZE)).fits


def test_an_int8_file_is_told_without_being_judged() -> None:
    net = network(1e4)
    about = describe(net, SIZE, outputs="decoded", batch=0, precision="int8")
    opened = Runtime(about, file(net, "decoded", 100.0).run, "onnxruntime", "net.onnx")
    assert compare_outputs(net, opened, noise(SIZE)).limit == TOLERANCE


@pytest.mark.parametrize("shift", [0.0, 2.5])
def test_boxes_of_int8_differ_by_their_median_distance(shift: float) -> None:
    net = network(1.0)
    about = describe(net, SIZE, outputs="boxes", batch=0, nms=NMS, precision="int8")
    spec = net.specs[0]
    middle = (SEEN[:, :2] + SEEN[:, 2:4]) / 2
    decoded = spec.decoded_rows(torch.cat((middle, SEEN[:, 2:4] - SEEN[:, :2]), 1), SEEN[:, 4], SEEN[:, 5])[None]
    rows = torch.cat((torch.zeros(4, 1), SEEN[[0, 2, 4, 5]]), 1)
    rows[:, 1:5] += shift
    theirs = Runtime(about, lambda _: [rows.numpy()], "onnxruntime", "net.onnx")
    found = _boxes(decoded, theirs.decode(theirs(torch.zeros(1, 3, *SIZE))), about, TOLERANCE, "")
    assert found.absolute == pytest.approx(shift, abs=1e-4)
    assert "median" in found.measure


MOVED, RENAMED = torch.tensor([1.0, 0, 1, 0, 0, 0]), torch.tensor([0.0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    "chosen, change, fits",
    [
        (range(10), 0 * MOVED, True),
        (range(9, -1, -1), 0 * MOVED, True),
        ([*range(8), 10, 11], 0 * MOVED, True),
        (range(9), 0 * MOVED, False),
        (range(1, 11), 0 * MOVED, False),
        (range(10), MOVED, False),
        (range(10), RENAMED, False),
    ],
    ids=["same", "other order", "equally confident ones", "too few", "without the best", "moved", "other class"],
)
def test_of_the_best_boxes_those_as_confident_as_the_last_may_be_others(
    chosen: Sequence[int], change: torch.Tensor, fits: bool
) -> None:
    """Ten boxes are asked for; the ninth to the twelfth are equally confident."""
    spec = FreeSpec(8, 2, bins=1, one_to_one=True)
    about = describe(network(1.0), SIZE, outputs="boxes", batch=0, nms={"max_det": 10})
    about = replace(about, names=("a", "b"), specs=(spec,))
    scores = torch.tensor([0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.5, 0.5, 0.5])
    boxes = torch.rand(1, 12, 4, generator=torch.Generator().manual_seed(0)) * 40 + 10
    decoded = torch.cat((boxes, scores[None, :, None], torch.zeros(1, 12, 1)), -1)
    rows = postprocess(decoded, spec, 0.0, max_boxes=12)[0][list(chosen)] + change
    theirs = Runtime(about, lambda _: [rows[None].numpy()], "onnxruntime", "net.onnx")
    assert _boxes(decoded, theirs.decode(theirs(torch.zeros(1, 3, *SIZE))), about, TOLERANCE, "").fits is fits


# Two pairs that overlap by more than .45, one box for itself, one of another class over it, one below the confidence.
SEEN = torch.tensor(
    [
        [10.0, 10, 30, 30, 0.9, 0],
        [12, 10, 32, 30, 0.8, 0],
        [40, 40, 60, 60, 0.7, 0],
        [42, 40, 62, 60, 0.7, 0],
        [10, 40, 30, 60, 0.6, 0],
        [11, 40, 31, 60, 0.5, 1],
        [40, 10, 60, 30, 0.2, 0],
    ]
)


@pytest.mark.parametrize(
    "chosen, most, fits",
    [
        ([0, 2, 4, 5], 300, True),
        ([5, 3, 4, 0], 300, True),
        ([1, 2, 4, 5], 300, False),
        ([0, 1, 2, 4, 5], 300, False),
        ([0, 4, 5], 300, False),
        ([0, 2, 5], 300, False),
        ([], 300, False),
        ([0, 2, 4, 5, 6], 300, False),
        ([0, 2, 5], 2, True),
        ([0, 4, 5], 2, False),
        ([0, 2, 4, 5], 2, False),
    ],
    ids=[
        "right",
        "the other of two equal ones",
        "the weaker one",
        "both",
        "a pair left out",
        "one left out",
        "nothing",
        "below the confidence",
        "the most of a class",
        "others than the most confident of a class",
        "more than the most of a class",
    ],
)
def test_boxes_after_nms_have_to_be_a_right_choice(chosen: list[int], most: int, fits: bool) -> None:
    spec = FreeSpec(8, 2, bins=1)
    about = describe(network(1.0), SIZE, outputs="boxes", batch=0, nms={**NMS, "max_det": most})
    about = replace(about, names=("a", "b"), specs=(spec,))
    middle = (SEEN[:, :2] + SEEN[:, 2:4]) / 2
    decoded = spec.decoded_rows(torch.cat((middle, SEEN[:, 2:4] - SEEN[:, :2]), 1), SEEN[:, 4], SEEN[:, 5])[None]
    rows = torch.cat((torch.zeros(len(chosen), 1), SEEN[chosen]), 1).numpy()
    theirs = Runtime(about, lambda _: [rows], "onnxruntime", "net.onnx")
    assert _boxes(decoded, theirs.decode(theirs(torch.zeros(1, 3, *SIZE))), about, TOLERANCE, "").fits is fits
