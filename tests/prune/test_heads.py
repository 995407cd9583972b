"""Heads without work: which they are, and that the other heads do not notice when they go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models
from common.errors import UserError
from models.dropping import drop_heads
from models.lineage import identity_lineage
from models.network import Network
from prune.heads import head_shares, idle_heads
from tests import nets
from tests.alive import alive

HEADED = {"residual": nets.RESIDUAL, "yolov5": nets.YOLOV5}  # each with heads of stride 16 and 8, in this order


def network(text: str) -> Network:
    return alive(Network(models.parse_cfg(text)), dtype=torch.float64)


@pytest.mark.parametrize("name", HEADED)
@pytest.mark.parametrize("gone", [0, 1])
def test_other_heads_put_out_the_same_bits(tmp_path, name, gone):
    net = network(HEADED[name])
    images = torch.rand(2, 3, 96, 64, dtype=torch.float64)
    thin = drop_heads(net, [gone])
    assert thin.specs == (net.specs[1 - gone],)
    assert torch.equal(thin(images)[0], net(images)[1 - gone])
    assert models.parameters(thin) < models.parameters(net)
    assert len(net.specs) == 2, "the network handed in is left alone"
    models.save_darknet(thin.float(), tmp_path / "thin.cfg", tmp_path / "thin.weights")
    again = models.load(tmp_path / "thin.cfg", weights=tmp_path / "thin.weights").eval()
    assert torch.equal(again(images.float())[0], thin(images.float())[0]), "it is a legal Darknet pair"


def test_all_that_only_the_head_reads_goes_and_nothing_else():
    net = network(nets.RESIDUAL)
    fine = drop_heads(net, [0])  # of stride 16: its two convolutions and the yolo layer
    assert len(fine.cfg.layers) == len(net.cfg.layers) - 3
    coarse = drop_heads(net, [1])  # of stride 8: the whole way up
    assert len(coarse.cfg.layers) == 17
    assert not any(section.kind == "upsample" for section in coarse.cfg.layers)


def test_shared_anchor_lists_lose_what_nobody_masks():
    net = network(nets.RESIDUAL)
    for gone in (0, 1):
        section = drop_heads(net, [gone]).cfg.heads[0]
        assert (section.str("mask"), section.int("num")) == ("0,1,2", 3)
        assert len(section.floats("anchors")) == 6


def test_lineage_follows_the_new_numbers():
    net = network(nets.RESIDUAL)
    parent = network(nets.RESIDUAL)
    net.lineage = [identity_lineage(parent, "baseline")]
    thin = drop_heads(net, [0])
    rows = thin.lineage[0]["layers"]
    assert set(rows) == {str(number) for number in thin.convolutions}
    for new, row in rows.items():
        twin = net.convolutions[row["layer"]]
        assert torch.equal(thin.convolutions[int(new)].conv.weight, twin.conv.weight)
        assert row["kept"] == list(range(twin.out_channels))


def test_boxes_are_shared_out_by_their_best_anchor_and_the_busiest_head_never_idles():
    specs = network(nets.RESIDUAL).specs  # stride 16: 30x26, 40x48, 60x56; stride 8: 6x7, 12x10, 14x22
    boxes = np.array([[6.0, 6.0]] * 3 + [[60.0, 60.0]])
    assert head_shares(boxes, specs).tolist() == [0.25, 0.75]
    many = np.array([[6.0, 6.0]] * 199 + [[60.0, 60.0]])
    assert idle_heads(many, specs)[0] == [0]
    assert idle_heads(many, specs, least=0.001)[0] == []
    assert idle_heads(boxes, specs, least=2.0)[0] == [0]
    assert idle_heads(np.zeros((0, 2)), specs)[0] == [], "without boxes nothing is known"


@pytest.mark.parametrize("places", [[2], [-1], [0, 1]])
def test_what_cannot_go_is_refused(places):
    with pytest.raises(UserError, match="one has to stay"):
        drop_heads(network(nets.RESIDUAL), places)
