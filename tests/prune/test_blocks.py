"""Removing a shortcut block equals the fat network with that branch silenced."""

from __future__ import annotations

import copy

import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.blocks import cut_blocks, find_blocks
from tests.alive import alive, noise
from tests.nets import TINY, conv, yolo
from tests.prune.reference import TOLERANCE, distance

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
HEAD = conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
ADD = "\n[shortcut]\nfrom=-3\nactivation=linear\n"


def network(text: str) -> models.Network:
    return alive(models.Network(parse_cfg(text)), dtype=torch.float64)


def silenced(net: models.Network, shortcut: int) -> models.Network:
    """The network whose `[shortcut]` gets zeros from the section before it."""
    fat = copy.deepcopy(net)
    fat.layers[shortcut].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0, *inputs[1:]))
    return fat


@pytest.mark.parametrize("name", ["residual", "yolov5", "gated"])
def test_each_block_removed_alone_equals_the_fat_network_with_its_branch_zeroed(name: str) -> None:
    net = network(TINY[name])
    images = noise(net, (64, 64), torch.Generator().manual_seed(3))
    blocks = find_blocks(net)
    assert blocks
    for block in blocks:
        assert not block.obstacle
        thin, _ = cut_blocks(net, [block])
        assert len(thin.convolutions) < len(net.convolutions)
        assert distance(thin, silenced(net, block.layer), images) < TOLERANCE
        again = models.Network(parse_cfg(thin.cfg.text())).double().eval()
        again.load_state_dict(thin.state_dict())
        assert distance(again, thin, images) == 0


@pytest.mark.parametrize("name,count", [("yolov3", 23), ("yolov3-spp", 23), ("yolov4", 23), ("yolov5n", 7)])
def test_every_shortcut_of_the_shipped_networks_can_go(name: str, count: int) -> None:
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path(name)))
    with torch.no_grad():
        for layer in net.convolutions.values():
            if layer.bn is not None:
                layer.bn.weight = torch.nn.Parameter(torch.ones(layer.out_channels))
    blocks = find_blocks(net)
    assert [block.obstacle for block in blocks] == [""] * count


def test_the_blocks_with_the_lowest_mean_gamma_at_their_end_go_first() -> None:
    net = network(TINY["residual"])
    for layer, gamma in ((3, 0.3), (6, 0.1), (10, 0.2)):
        torch.nn.init.constant_(net.convolutions[layer].bn.weight, gamma)
    report = prune.shortcuts(net, 2).report
    assert list(report.removed_blocks) == [7, 11]
    assert report.kept_blocks == {4: pytest.approx(0.3)}
    assert report.layers[6] == (12, 0)


def test_asking_for_more_blocks_than_can_go_says_how_many_can() -> None:
    with pytest.raises(UserError, match="3 of 3 can be"):
        prune.shortcuts(network(TINY["residual"]), 4)


@pytest.mark.parametrize("join,why", [
    ("\n[shortcut]\nfrom=-3\nactivation=leaky\n", "activation=leaky"),
    ("\n[shortcut]\nfrom=-3,-2\nactivation=linear\n", "sums 3 layers"),
    ("\n[route]\nlayers=-3\n" + conv(12, 1) + "\n[shortcut]\nfrom=-3\nactivation=linear\n", "neither is computed"),
])  # fmt: skip
def test_a_block_that_cannot_be_removed_says_why(join: str, why: str) -> None:
    net = network(NET + conv(12, stride=2) + conv(12, 1) + conv(12) + join + HEAD)
    (block,) = find_blocks(net)
    assert why in block.obstacle


def test_a_branch_that_others_read_keeps_the_layers_they_read() -> None:
    text = NET + conv(12, stride=2) + conv(6, 1) + conv(12) + ADD + "\n[route]\nlayers=-1,-3\n" + conv(16, 1) + HEAD
    net = network(text)
    (block,) = find_blocks(net)
    assert block.branch == (2, 3)
    images = noise(net, (64, 64), torch.Generator().manual_seed(3))
    assert distance(prune.shortcuts(net, 1).network, silenced(net, 3), images) < TOLERANCE


def test_blocks_and_channels_together_are_scored_on_the_uncut_network() -> None:
    net = network(TINY["residual"])
    both = prune.prune(net, shortcuts=1, ratio=0.4)
    (gone,) = both.report.removed_blocks
    assert [gone] == list(prune.shortcuts(net, 1).report.removed_blocks)
    assert both.report.layers[gone - 1] == (net.output_channels(gone - 1), 0)
    assert both.report.params[0] == models.parameters(net)
    assert both.report.params[1] == models.parameters(both.network)
    # One ancestor, and its channels are named by the uncut network's layers.
    (entry,) = both.network.lineage
    assert entry["sha256"] == models.fingerprint(net)
    for number, row in entry["layers"].items():
        fat, thin = net.convolutions[row["layer"]], both.network.convolutions[int(number)]
        assert thin.out_channels == len(row["kept"])
        if thin.bn is not None:
            assert torch.equal(thin.bn.weight, fat.bn.weight[row["kept"]])
