"""The analytic cost equals that of the network that is built, for every cut, and costs no time."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

import models
import prune
from models.cfg import parse_cfg
from prune.blocks import cut_blocks, find_blocks
from prune.budgets import BUDGETS
from prune.cost import Cost
from prune.fold import leftovers
from prune.importance import gamma
from prune.select import Selector
from prune.surgery import thin_network
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo
from tests.prune.traced import thin_module

EVERY = [pytest.param(name, id=name) for name in TINY]


def network(name: str) -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("criterion", ["gamma", "l1"])
def test_analytic_costs_equal_those_of_the_network_that_is_built(name: str, criterion: str) -> None:
    result = prune.channels(network(name), criterion=criterion, ratio=0.5)
    thin, report = result.network, result.report
    assert report.params[1] == models.parameters(thin)
    assert report.macs[1] == models.macs(thin)
    assert report.channels[1] == sum(layer.out_channels for layer in thin.convolutions.values())
    assert report.removed > 0


@pytest.mark.parametrize("name", ["residual", "yolov5"])
@pytest.mark.parametrize("what", ["channels", "params", "flops"])
def test_the_price_of_a_channel_is_what_the_network_saves_without_it(name: str, what: str) -> None:
    net = network(name)
    graph = prune.trace(net)
    cost = Cost(net, graph, (64, 96))
    measure = {"channels": cost.channels, "params": cost.parameters, "flops": cost.macs}[what]
    price, every = BUDGETS[what].price(cost), np.ones(len(graph.root), bool)
    assert len(set(price)) > 1 or what == "channels"
    for identity in range(len(every)):
        keep = every.copy()
        keep[identity] = False
        assert price[identity] == measure(every) - measure(keep)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_macs_are_those_at_the_size_asked_for(size: tuple[int, int]) -> None:
    report = prune.channels(network("residual"), ratio=0.5, size=size).report
    assert report.size == size
    assert report.macs[0] == models.macs(network("residual"), size)


@pytest.mark.parametrize("name", ["residual", "yolov5"])
def test_what_is_left_without_a_block_costs_what_the_network_without_it_costs(name: str) -> None:
    net = network(name)
    graph = prune.trace(net)
    cost = Cost(net, graph, net.image_size)
    keep = np.ones(len(graph.root), bool)
    for block in find_blocks(net):
        shorter, _ = cut_blocks(net, [block])
        gone = {f"layers.{layer}.{part}" for layer in block.branch for part in ("conv", "bn")}
        rest = cost.without(gone)
        assert rest.parameters(keep) == models.parameters(shorter)
        assert rest.macs(keep) == models.macs(shorter)
        assert rest.share(keep, "params") == models.parameters(shorter) / models.parameters(net)
    assert cost.parameters(keep) == models.parameters(net)


def test_parameters_outside_of_convolutions_are_counted_and_stay() -> None:
    class WithLinear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
            self.second, self.out = torch.nn.Conv2d(8, 5, 1), torch.nn.Linear(5, 7)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.second(self.bn(self.conv(x))).mean((2, 3)))

    net = WithLinear().eval()
    graph = prune.trace(net)
    cost = Cost(net, graph, (10, 12))
    keep = np.ones(len(graph.root), bool)
    assert cost.parameters(keep) == sum(p.numel() for p in net.parameters())
    assert cost.macs(keep) == 8 * 10 * (27 * 8 + 8 * 5)
    keep[graph.convs["conv"].makes[:3]] = False
    assert cost.parameters(keep) == 27 * 5 + 2 * 5 + 5 * 5 + 5 + 5 * 7 + 7


def test_a_bias_that_folding_gives_a_reader_without_one_is_counted() -> None:
    class PreActivated(torch.nn.Module):
        """As in densenet: what `second` puts out is joined before any BatchNorm sees it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8)
            self.second = torch.nn.Conv2d(8, 6, 1, bias=False)
            self.joint, self.out = torch.nn.BatchNorm2d(14), torch.nn.Conv2d(14, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.bn(self.conv(x)).sigmoid()
            return self.out(self.joint(torch.cat([x, self.second(x)], 1)))

    net = PreActivated().eval()  # sigmoid(0) is not 0: there is something to fold
    graph = prune.trace(net)
    cost, keep = Cost(net, graph, (16, 16), fold=True), np.ones(len(graph.root), bool)
    assert cost.parameters(keep) == sum(p.numel() for p in net.parameters())
    keep[graph.convs["conv"].makes[:3]] = False
    left = leftovers(net, graph, keep)
    assert "second" in left.added
    folded = thin_module(net, graph, keep, left)
    assert cost.parameters(keep) == cost.parameters(keep, left.added) == sum(p.numel() for p in folded.parameters())
    plain = thin_module(net, graph, keep)
    assert cost.parameters(keep, ()) == sum(p.numel() for p in plain.parameters()) == cost.parameters(keep) - 6
    assert Cost(net, graph, (16, 16)).parameters(keep) == sum(p.numel() for p in plain.parameters())


def test_a_budget_is_met_where_folding_adds_biases() -> None:
    cfg = parse_cfg(
        NET + "\n[timm]\nmodel=densenet121\nfeatures=8\n" + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
    )
    net = models.Network(cfg)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight)
            torch.nn.init.uniform_(module.bias)
    result = prune.channels(net, budget="params=0.5")
    assert result.report.params[1] == models.parameters(result.network) <= 0.5 * models.parameters(net)
    assert any(name not in net.state_dict() for name in result.network.state_dict()), "no bias was added"


def test_the_cost_of_a_candidate_takes_milliseconds() -> None:
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path("yolov3")))
    graph = prune.trace(net)
    cost, keep = Cost(net, graph), np.ones(len(graph.root), bool)
    best = min(_seconds(lambda: (cost.channels(keep), cost.parameters(keep), cost.macs(keep))) for _ in range(10))
    assert best < 0.005


def test_graph_selection_and_surgery_of_62_million_parameters_take_less_than_a_second() -> None:
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path("yolov3")))
    net.to_empty(device="cpu")
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.uniform_(layer.bn.weight)

    def cut() -> models.Network:
        graph = prune.trace(net)
        selector = Selector(graph, gamma(net, graph))
        return thin_network(net, graph, selector.settle(selector.cut_at_ratio(0.5)).keep)

    assert models.parameters(cut()) < 0.5 * models.parameters(net)
    assert min(_seconds(cut) for _ in range(2)) < 1.0


def _seconds(work) -> float:
    """CPU time: a machine that is busy with other things does not make the code slow."""
    start = time.process_time()
    work()
    return time.process_time() - start
