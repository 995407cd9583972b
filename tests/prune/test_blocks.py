"""Removing a shortcut block equals the fat network with that branch silenced."""

from __future__ import annotations

import copy

import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from models.network import head_feeders
from prune.blocks import cut_blocks, find_blocks
from tests.alive import alive, noise
from tests.nets import TINY, conv, yolo
from tests.prune.interpreter import expected
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


def narrowed(name: str, by: int = 8) -> models.Network:
    """A shipped network, every section in its place, with a fraction of the filters (of the heads' all)."""
    cfg = models.read_cfg(models.cfg_path(name))
    feeders = {feeder for head in cfg.heads for feeder in head_feeders(head)}
    for section in cfg.layers:
        if section.kind == "convolutional" and section not in feeders:
            section.set("filters", max(4, section.int("filters") // by))
    return alive(models.Network(cfg), dtype=torch.float64)


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


# With a fraction of the filters: what is cut and rewired is the sections, and those are all there.
@pytest.mark.parametrize("name,by,count", [("yolov4", 8, 23), ("yolov5n", 4, 7)])
def test_each_block_of_shipped_networks_removed_alone_equals_the_fat_one_and_stays_darknet(
    name: str, by: int, count: int
) -> None:
    net = narrowed(name, by)
    images = noise(net, (64, 64), torch.Generator().manual_seed(3), batch=1)
    whole = {layer: torch.zeros(conv.out_channels, dtype=torch.bool) for layer, conv in net.convolutions.items()}
    blocks = find_blocks(net)
    assert len(blocks) == count
    with torch.no_grad():
        uncut = net(images)
    for place, block in enumerate(blocks):
        thin, _ = cut_blocks(net, [block])
        wanted = expected(net, whole, images, fold=False, without=[block.layer])
        with torch.no_grad():
            found = thin(images)
        for one, two in zip(found, wanted, strict=True):
            assert float((one - two).abs().max() / two.abs().max()) < TOLERANCE
        # The block did something, at least at one head.
        assert any(float((two - three).abs().max() / three.abs().max()) > 1e-3 for two, three in zip(wanted, uncut))
        again = parse_cfg(thin.cfg.text())
        assert again.structure() == thin.cfg.structure()
        assert again.text() == thin.cfg.text()
        if place % 5:
            continue  # the same sections as in the text: the same network
        read = models.Network(again).double().eval()
        read.load_state_dict(thin.state_dict())
        with torch.no_grad():
            assert all(torch.equal(one, two) for one, two in zip(read(images), found, strict=True))


def test_all_blocks_at_once_leave_a_working_network() -> None:
    net = narrowed("yolov5n", 4)
    blocks = find_blocks(net)
    images = noise(net, (64, 64), torch.Generator().manual_seed(3), batch=1)
    whole = {layer: torch.zeros(conv.out_channels, dtype=torch.bool) for layer, conv in net.convolutions.items()}
    thin, moved = cut_blocks(net, blocks)
    wanted = expected(net, whole, images, fold=False, without=[block.layer for block in blocks])
    with torch.no_grad():
        for one, two in zip(thin(images), wanted, strict=True):
            assert float((one - two).abs().max() / two.abs().max()) < TOLERANCE
    assert len(moved) == len(net.convolutions) - 2 * len(blocks)


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


@pytest.mark.parametrize(
    "join,why",
    [
        ("\n[shortcut]\nfrom=-3\nactivation=leaky\n", "activation=leaky"),
        ("\n[shortcut]\nfrom=-3,-2\nactivation=linear\n", "sums 3 layers"),
        ("\n[route]\nlayers=-3\n" + conv(12, 1) + "\n[shortcut]\nfrom=-3\nactivation=linear\n", "neither is computed"),
    ],
)
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
