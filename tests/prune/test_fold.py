"""Constants of dropped channels: where they go, what is lost, and how much that is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.fold import leftovers
from tests.alive import alive, noise
from tests.nets import TINY, conv, yolo
from tests.prune.reference import wither
from tests.prune.traced import thin_module

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
HEAD = conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")


def network(text: str, share: float = 0.5) -> models.Network:
    net = alive(models.Network(parse_cfg(text)), dtype=torch.float64)
    wither(net, prune.trace(net), share)
    return net


# -- the border ----------------------------------------------------------------------------------------------------


def test_the_border_error_is_nothing_for_1x1_readers() -> None:
    net = network(NET + conv(16, stride=2) + conv(16, 1, activation="mish") + conv(12, 1) + HEAD)
    (error,) = prune.border_error(net, prune.channels(net, ratio=0.5).network)
    assert error < 1e-12


@pytest.mark.parametrize("name", ["residual", "csp", "yolov5"])
def test_folding_brings_every_head_nearer_to_the_fat_network_with_its_gammas_at_zero(name: str) -> None:
    net = network(TINY[name])
    images = noise(net, (64, 64), torch.Generator().manual_seed(1))
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    folded = prune.border_error(net, prune.channels(net, ratio=0.5).network, images)
    plain = prune.border_error(net, prune.channels(net, ratio=0.5, fold=False).network, images)
    assert len(folded) == len(net.specs)
    assert all(0 < one < two for one, two in zip(folded, plain))
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_the_report_says_what_its_folding_error_is() -> None:
    report = prune.channels(network(NET + conv(16, stride=2) + conv(12, 1) + HEAD), ratio=0.5).report
    report.border_error = [0.0014]
    assert "folding error: 0.14% of the largest output, by head: how far the thin network is from the uncut one" in (
        report.text()
    )


def test_the_border_error_by_hand() -> None:
    """One padded reader: the difference is what the constants would have added beyond the border."""
    net = network(
        NET + conv(6, stride=2) + conv(8, 1, activation="mish") + conv(24, activation="linear", bn=0) + yolo("0,1,2")
    )
    thin = prune.channels(net, ratio=0.5).network
    gone = torch.ones(8, dtype=torch.bool)
    gone[thin.lineage[-1]["layers"]["1"]["kept"]] = False
    zero = torch.zeros(1, 8, 32, 32, dtype=torch.float64)
    zero[:, gone] = F.mish(net.convolutions[1].bn.bias.detach()[gone])[:, None, None]
    reader = net.convolutions[2].conv
    with torch.no_grad():
        there = F.conv2d(zero, reader.weight, padding=1)
        wanted = (there - there[:, :, 16:17, 16:17]).abs().max()
        first = net.convolutions[0]
        images = noise(net, (64, 64), torch.Generator().manual_seed(1))
        kept0 = torch.zeros(6, dtype=torch.bool)
        kept0[thin.lineage[-1]["layers"]["0"]["kept"]] = True
        assert first.out_channels == len(kept0)
        fat = prune.border.gammas_at_zero(net, thin)
        scale = fat(images)[0].abs().max()
    assert prune.border_error(net, thin, images) == [pytest.approx(float(wanted / scale), rel=1e-9)]


def test_removed_blocks_are_no_part_of_the_border_error() -> None:
    text = NET + conv(8, stride=2) + conv(8, 1) + conv(8, 1) + "\n[shortcut]\nfrom=-3\nactivation=linear\n" + conv(8, 1)
    net = network(text + HEAD)
    thin = prune.prune(net, shortcuts=1, ratio=0.4).network
    assert 1 not in {row["layer"] for row in thin.lineage[-1]["layers"].values()}
    assert prune.border_error(net, thin)[0] < 1e-12


def test_a_removed_block_inside_another_does_not_take_that_one_along() -> None:
    add = "\n[shortcut]\nfrom={}\nactivation=linear\n"
    inner = conv(8, 1) + conv(8, 1) + add.format(-3)  # 2-4
    net = network(NET + conv(8, stride=2) + conv(8, 1) + inner + conv(8, 1) + add.format(-6) + conv(8, 1) + HEAD)
    with torch.no_grad():
        net.convolutions[3].bn.weight.fill_(1e-6)
    thin = prune.prune(net, shortcuts=1, ratio=0.3)
    assert list(thin.report.removed_blocks) == [4]
    assert prune.border_error(net, thin.network)[0] < 1e-12


def test_a_network_that_is_no_ancestor_is_refused() -> None:
    net = network(TINY["residual"])
    thin = prune.channels(net, ratio=0.3).network
    with pytest.raises(UserError, match="no ancestor"):
        prune.border_error(thin, net)


# -- what cannot be folded -----------------------------------------------------------------------------------------


def test_the_report_says_why_constants_were_not_folded() -> None:
    gated = network(TINY["gated"])
    report = prune.channels(gated, ratio=0.5).report
    assert report.unfolded_why["layers.7.conv"] == "a gate"
    assert report.unfolded.keys() == report.unfolded_why.keys()
    assert "a gate" in report.text()


def test_a_tied_convolution_without_batchnorm_is_named_as_the_reason() -> None:
    net = network(
        NET
        + conv(8, stride=2)
        + conv(8, 1)
        + conv(8, bn=0)
        + "\n[shortcut]\nfrom=-2\nactivation=linear\n"
        + conv(8)
        + HEAD
    )
    report = prune.channels(net, ratio=0.5).report
    assert report.unfolded_why == {"layers.4.conv": "no BatchNorm after layers.2.conv"}
    assert 0 < report.unfolded["layers.4.conv"] < 8


def test_a_depthwise_reader_misses_nothing_and_counts_for_nothing() -> None:
    net = network(NET + conv(8, stride=2) + conv(8, groups=8) + conv(8, 1) + HEAD)
    graph = prune.trace(net)
    keep = np.ones(len(graph.root), bool)
    keep[graph.root == graph.root[graph.convs["layers.0.conv"].makes[2]]] = False
    assert list(leftovers(net, graph, keep).added) == ["layers.2.conv"]


def test_a_dropout_in_train_mode_does_not_disturb_the_constants() -> None:
    text = NET + conv(16, stride=2) + "\n[dropout]\nprobability=.5\n" + conv(8, 1) + HEAD
    net = network(text)
    wanted = prune.channels(net, ratio=0.5).network.state_dict()
    net.train()
    found = prune.channels(net, ratio=0.5).network
    assert found.training
    assert net.layers[1].drop.training
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


class Twice(nn.Module):
    """One convolution, called on two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.shared, self.last = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.norm(self.first(x))
        return self.last(torch.cat([self.shared(torch.relu(x)), self.shared(torch.relu(x) * 1)], 1))


def test_a_convolution_called_twice_gets_its_constant_once() -> None:
    torch.manual_seed(0)
    net = Twice().double().eval()
    with torch.no_grad():
        net.norm.bias.uniform_(0.5, 1)
        net.norm.weight[:3] = 0
    graph = prune.trace(net)
    keep = np.ones(len(graph.root), bool)
    keep[graph.norms["norm"][:3]] = False
    thin = thin_module(net, graph, keep, leftovers(net, graph, keep))
    images = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(thin(images), net(images), rtol=0, atol=1e-12)
