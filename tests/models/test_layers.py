"""Layers against formulas written out by hand; what OpenCV can check is in test_opencv_parity.py."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from common.errors import UserError
from models.activations import ACTIVATIONS
from models.layers import Reorg
from tests.alive import alive
from tests.nets import NET, conv, yolo


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Each activation at one number, written after the definitions in Darknet's activations.h.
FORMULAS = {
    "linear": lambda x: x,
    "logistic": sigmoid,
    "loggy": lambda x: 2 * sigmoid(x) - 1,
    "relu": lambda x: max(x, 0),
    "relu6": lambda x: min(max(x, 0), 6),
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "leaky": lambda x: x if x > 0 else 0.1 * x,
    "revleaky": lambda x: x if x > 0 else 0.1 * x,
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "selu": lambda x: 1.0507 * x if x >= 0 else 1.0507 * 1.6732 * (math.exp(x) - 1),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
    "tanh": math.tanh,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "stair": lambda x: math.floor(x / 2) + (0 if math.floor(x) % 2 == 0 else x - math.floor(x)),
    "hardtan": lambda x: max(-1, min(1, x)),
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
    "swish": lambda x: x * sigmoid(x),
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0,
}


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_activation_is_darknets(name):
    points = [-7.3, -4.0, -2.5, -1.9, -0.6, 0.0, 0.4, 0.9, 1.7, 3.2, 5.5, 8.1]
    ours = ACTIVATIONS[name]()(torch.tensor(points, dtype=torch.float64))
    theirs = torch.tensor([float(FORMULAS[name](x)) for x in points], dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3 if name == "selu" else 1e-5)


def test_every_activation_is_tested_or_mixes_channels():
    mixing = {name for name, make in ACTIVATIONS.items() if getattr(make(), "mixes_channels", False)}
    assert mixing | set(FORMULAS) == set(ACTIVATIONS)


def test_normalize_channels_shares_out_one_over_the_positive_channels():
    x = torch.tensor([3.0, -1.0, 1.0]).view(1, 3, 1, 1)
    out = ACTIVATIONS["normalize_channels"]()(x).flatten()
    torch.testing.assert_close(out, torch.tensor([0.75, 0.0, 0.25]), rtol=0, atol=1e-4)
    out = ACTIVATIONS["normalize_channels_softmax"]()(x)
    torch.testing.assert_close(out, x.softmax(1), rtol=0, atol=1e-4)


def one_layer(section: str, channels: int = 4, size: int = 8) -> models.Network:
    """A network whose layer 0 is `section`."""
    text = f"[net]\nwidth={size}\nheight={size}\nchannels={channels}\n{section}"
    return models.Network(models.parse_cfg(text + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2"))).eval()


def output_of(section: str, images: torch.Tensor) -> torch.Tensor:
    net = one_layer(section, images.shape[1], images.shape[-1])
    return net.forward_features(images, [0])[1][0]


def test_pool_pads_right_and_bottom_with_minus_infinity():
    x = -torch.arange(1.0, 17).view(1, 1, 4, 4)
    out = output_of("\n[maxpool]\nsize=2\nstride=1\n", x)
    assert out.shape == x.shape
    assert out[0, 0, 0].tolist() == [-1, -2, -3, -4]
    assert out[0, 0, 3, 3] == -16  # a padding of 0 would win here


def test_reorg_reads_its_input_as_fewer_channels_of_a_larger_map():
    """The loop of Darknet's reorg_cpu, number by number."""
    channels, height, width, stride = 8, 4, 6, 2
    x = torch.arange(float(channels * height * width))
    expected = torch.empty_like(x)
    few = channels // stride**2
    for k in range(channels):
        for j in range(height):
            for i in range(width):
                at = i + width * (j + height * k)
                column, row = i * stride + (k // few) % stride, j * stride + (k // few) // stride
                expected[at] = x[column + width * stride * (row + height * stride * (k % few))]
    reorg = Reorg(models.Section("reorg", {"stride": "2"}), [channels])
    out = reorg(x.view(1, channels, height, width))
    assert out.shape == (1, 32, 2, 3)
    assert torch.equal(out.flatten(), expected)


def test_reverse_reorg_undoes_a_plain_space_to_depth():
    x = torch.rand(2, 3, 8, 8)
    deep = torch.cat([x[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)], 1)
    out = Reorg(models.Section("reorg", {"stride": "2", "reverse": "1"}), [12])(deep)
    assert torch.equal(out, x)


def test_grouped_route_takes_its_part_of_every_input():
    body = conv(8, 1) + conv(4, 1) + "\n[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n"
    net = one_layer(body, channels=3)
    _, features = net.forward_features(torch.rand(1, 3, 8, 8), [0, 1, 2])
    assert torch.equal(features[2], torch.cat([features[1][:, 2:], features[0][:, 4:]], 1))


def test_shortcut_adds_leading_channels_and_keeps_the_width_of_the_layer_before():
    body = conv(8, 1) + conv(2, 1) + conv(5, 1) + "\n[shortcut]\nfrom=0,1\nactivation=relu\n"
    net = one_layer(body, channels=3)
    _, features = net.forward_features(torch.randn(1, 3, 8, 8), [0, 1, 2, 3])
    expected = features[2] + features[0][:, :5]
    expected[:, :2] += features[1]
    assert torch.allclose(features[3], expected.relu())


def test_scale_channels_scales_the_referenced_map_by_channel_or_by_place():
    by_channel = one_layer(conv(6, 1) + "\n[avgpool]\n\n[scale_channels]\nfrom=-2\n", channels=3)
    _, f = by_channel.forward_features(torch.rand(1, 3, 8, 8), [0, 2])
    assert torch.allclose(f[2], f[0] * f[0].mean((2, 3), keepdim=True))
    by_place = one_layer(conv(6, 1) + conv(1, 1) + "\n[scale_channels]\nfrom=-2\nscale_wh=1\n", channels=3)
    _, f = by_place.forward_features(torch.rand(1, 3, 8, 8), [0, 1, 2])
    assert torch.allclose(f[2], f[0] * f[1])


def test_a_gate_of_the_wrong_width_is_refused():
    with pytest.raises(UserError, match="the gate has 5 channels"):
        one_layer(conv(6, 1) + conv(5, 1) + "\n[sam]\nfrom=-2\n", channels=3)


def test_dropout_is_identity_in_eval_mode_and_random_in_training():
    net = one_layer("\n[dropout]\nprobability=.5\n", channels=3)
    x = torch.ones(1, 3, 8, 8)
    assert torch.equal(net.forward_features(x, [0])[1][0], x)
    assert (net.train().forward_features(x, [0])[1][0] == 0).any()


def test_dilated_convolution_keeps_the_size_and_counts_its_macs():
    net = alive(one_layer(conv(6, dilation=2), channels=3, size=16), (16, 16))
    with FlopCounterMode(display=False) as counter:
        _, features = net.forward_features(torch.rand(1, 3, 16, 16), [0])
    assert features[0].shape == (1, 6, 16, 16)
    assert models.macs(net, (16, 16)) * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    "section",
    [
        conv(6, 3, 2),
        conv(6, 4, 2),
        conv(6, 5, 3),
        conv(6, 3, 1, dilation=2),
        "\n[maxpool]\nsize=3\nstride=2\n",
        "\n[maxpool]\nsize=2\nstride=2\n",
        "\n[maxpool]\nsize=4\nstride=2\npadding=1\n",
        "\n[upsample]\nstride=2\n",
        "\n[avgpool]\n",
        "\n[convolutional]\nfilters=4\nsize=3\nactivation=relu\n",
    ],
)
@pytest.mark.parametrize("size", [(7, 11), (12, 8)])
def test_stated_output_size_is_the_real_one(section, size):
    cfg = models.parse_cfg(NET + section + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2"))
    layer = cfg.layers[0].facts.layer()(cfg.layers[0], [3])
    assert layer(torch.rand(2, 3, *size)).shape == (2, layer.out_channels, *layer.out_size(size))


ATTENTION = (
    NET
    + "".join(
        f"[route]\nlayers=0\n{conv(width, 1)}" if at else conv(width, 2, stride=2)
        for at, width in enumerate((6, 4, 4, 6))
    )
    + "[attention]\nlayers=-5,-3,-1\nheads=2\nscale=.7\n"
    + conv(24, 1, activation="linear", bn=0)
    + yolo("0,1,2")
)


def test_attention_is_a_weighted_mean_over_places_in_each_head():
    layer = models.Network(models.parse_cfg(ATTENTION)).layers[7]
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, width, 3, 4, generator=random, dtype=torch.float64) for width in (4, 4, 6))
    out = layer(q, k, v).flatten(2)
    assert out.shape == (2, 6, 12)
    q, k, v = (x.flatten(2) for x in (q, k, v))
    for picture in range(2):
        for place in range(12):
            for head in range(2):
                own, wide = slice(2 * head, 2 * head + 2), slice(3 * head, 3 * head + 3)
                products = [0.7 * float(q[picture, own, place] @ k[picture, own, other]) for other in range(12)]
                total = sum(math.exp(p) for p in products)
                mean = sum(math.exp(p) / total * v[picture, wide, other] for other, p in enumerate(products))
                torch.testing.assert_close(out[picture, wide, place], mean)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("layers=-5,-3,-1", "layers=-5,-3", "reads 2 layers; it has to read queries, keys and values"),
        ("layers=-5,-3,-1", "layers=-5,-1,-3", "has 4 channels of queries, but 6 of keys"),
        ("heads=2", "heads=4", "heads=4 divides not both the 4 channels of the queries and the 6 of the values"),
        ("scale=.7\n", "", "has no scale="),
    ],
)
def test_attention_that_does_not_fit_is_refused(old, new, said):
    with pytest.raises(UserError, match=said):
        models.Network(models.parse_cfg(ATTENTION.replace(old, new)))
