"""Which channels are one and the same, for networks of cfgs and for plain modules."""

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
from prune.fold import Leftovers, leftovers
from prune.identities import tied_groups
from prune.select import Selector
from tests.nets import TINY, conv, yolo
from tests.prune.traced import thin_module

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
HEAD = conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")


def graph_of(text: str) -> prune.ChannelGraph:
    return prune.trace(models.Network(parse_cfg(text)))


def test_ties_join_into_groups_named_by_their_smallest_member() -> None:
    left, right = [np.array([0, 1]), np.array([5])], [np.array([4, 2]), np.array([4])]
    assert tied_groups(7, left, right).tolist() == [0, 1, 1, 3, 0, 0, 6]


def test_a_long_chain_of_ties_is_one_group() -> None:
    order = np.random.default_rng(0).permutation(1000)
    assert not tied_groups(1000, [order[:-1]], [order[1:]]).any()


def test_an_add_ties_and_a_concat_joins() -> None:
    graph = graph_of(TINY["residual"])
    root = {
        number: graph.root[graph.convs[f"layers.{number}.conv"].makes]
        for number in (1, 3, 6, 11, 17, 18)
        if f"layers.{number}.conv" in graph.convs
    }
    assert np.array_equal(root[1], root[3])
    assert np.array_equal(root[1], root[6])
    joined = graph.root[graph.convs["layers.21.conv"].reads]
    assert np.array_equal(joined, np.concatenate([root[18], graph.root[graph.convs["layers.10.conv"].makes]]))


def test_only_head_outputs_and_the_picture_are_fixed_in_a_plain_network() -> None:
    graph = graph_of(TINY["residual"])
    fixed = {name for name, conv_ in graph.convs.items() if graph.fixed[conv_.makes].any()}
    assert fixed == {"layers.15.conv", "layers.22.conv"}
    assert graph.fixed[graph.convs["layers.0.conv"].reads].all()


def test_unequal_shortcuts_tie_the_leading_channels_only() -> None:
    graph = graph_of(NET + conv(12, stride=2) + conv(8) + "\n[shortcut]\nfrom=-2\nactivation=linear\n" + HEAD)
    wide, narrow = (graph.root[graph.convs[f"layers.{n}.conv"].makes] for n in (0, 1))
    assert np.array_equal(wide[:8], narrow)
    assert not graph.tied[graph.convs["layers.0.conv"].makes[8:]].any()


def test_depthwise_convolutions_and_gates_carry_their_producers_identities() -> None:
    graph = graph_of(TINY["gated"])
    assert np.array_equal(graph.convs["layers.1.conv"].makes, graph.convs["layers.2.conv"].makes)
    gate, gated = (graph.root[graph.convs[f"layers.{n}.conv"].makes] for n in (5, 2))
    assert np.array_equal(gate, gated)


def test_grouped_routes_and_grouped_convolutions_ask_for_equal_slices() -> None:
    (route,) = graph_of(TINY["csp"]).constraints
    assert [len(part) for part in route.slices] == [8, 8]
    into, out = graph_of(TINY["gated"]).constraints
    assert [len(part) for part in into.slices] == [3] * 4
    assert [len(part) for part in out.slices] == [4] * 4


def test_tracing_leaves_the_network_as_it_was() -> None:
    net = models.Network(parse_cfg(TINY["csp"]))
    net.train()
    net.layers[0].eval()
    modes = [module.training for module in net.modules()]
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    prune.trace(net)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


class Cell(nn.Module):
    """Convolution, BatchNorm, activation."""

    def __init__(self, into: int, out: int, size: int = 3, act: nn.Module | None = None, **more: int):
        super().__init__()
        self.conv = nn.Conv2d(into, out, size, padding=size // 2, bias=False, **more)
        self.norm = nn.BatchNorm2d(out)
        self.act = act or nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class Backbone(nn.Module):
    """Residual add, squeeze-and-excitation by mean, Ghost-style concat, a split, an activation written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Cell(3, 16)
        self.a, self.b = Cell(16, 8, 1), Cell(8, 16, act=nn.Identity())
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.cheap = Cell(16, 16, groups=16)
        self.left, self.right = Cell(16, 8), Cell(16, 8, act=nn.Hardswish())
        self.out = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.b(self.a(x))
        y = y * torch.sigmoid(torch.relu(y) * 0.5)
        x = x + y
        x = x * torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        first, second = torch.cat([x, self.cheap(x)], 1).chunk(2, dim=1)
        return self.out(torch.cat([self.left(first), self.right(second)], 1))


def test_a_plain_module_is_traced_and_cut_exactly() -> None:
    torch.manual_seed(0)
    net = Backbone().double()
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    net(images)
    net.eval()
    graph = prune.trace(net)
    scores = {name: np.random.default_rng(1).random(len(ids)) for name, ids in graph.norms.items()}
    selector = Selector(graph, scores)
    keep = selector.settle(selector.cut_at_ratio(0.7)).keep
    thin = thin_module(net, graph, keep, Leftovers())
    assert sum(p.numel() for p in thin.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    modules = dict(net.named_modules())
    for name, conv_ in graph.convs.items():
        if name.endswith(".conv"):
            mask = torch.from_numpy(keep[conv_.makes].astype(float))[:, None, None]
            modules[name.removesuffix(".conv")].register_forward_hook(lambda m, i, out, mask=mask: out * mask)
    torch.testing.assert_close(thin(images), net(images), rtol=0, atol=1e-10)


def test_an_activation_written_out_still_passes_a_constant() -> None:
    net = Backbone().double().eval()
    graph = prune.trace(net)
    keep = np.ones(len(graph.root), bool)
    keep[graph.root == graph.root[graph.convs["stem.conv"].makes[0]]] = False
    with torch.no_grad():
        net.stem.norm.bias.fill_(0.7)
        net.b.norm.bias.fill_(0.9)
    found = leftovers(net, graph, keep)
    written_out = 0.9 * torch.sigmoid(torch.tensor(0.9 * 0.5, dtype=torch.float64))
    expected = net.squeeze.weight[:, 0, 0, 0].detach() * (0.7 + written_out)
    torch.testing.assert_close(found.added["squeeze"], expected)


@pytest.mark.parametrize("made", ["softmax", "reshape", "flatten"])
def test_what_passes_a_mixing_operation_is_fixed(made: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = Cell(3, 8), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.cell(x)
            if made == "softmax":
                return self.head(torch.softmax(x, 1))
            if made == "reshape":
                return self.head(x.reshape(1, 4, 2, 8, 8).transpose(1, 2).reshape(1, 8, 8, 8))
            return torch.flatten(x, 1)

    graph = prune.trace(Net())
    assert graph.fixed[graph.convs["cell.conv"].makes].all()


def test_control_flow_on_values_is_an_error_that_names_the_part() -> None:
    class Moody(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    net = nn.Sequential()
    net.add_module("stem", Cell(3, 8))
    net.add_module("moody", Moody())
    with pytest.raises(UserError, match="moody"):
        prune.trace(net)


def test_a_layer_norm_is_an_error_that_names_it() -> None:
    net = nn.Sequential()
    net.add_module("stem", Cell(3, 8))
    net.add_module("mixer", nn.GroupNorm(1, 8))
    with pytest.raises(UserError, match="mixer"):
        prune.trace(net)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_timm_backbones_are_traced(name: str) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model(name, features_only=True, pretrained=False)
    graph = prune.trace(net)
    able = [conv_ for conv_ in graph.convs.values() if graph.prunable(conv_.makes).any()]
    assert len(able) > 5
    norms = {n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(graph.norms) == norms


class Pooled(nn.Module):
    """Two convolutions with an operation between them."""

    def __init__(self, between):
        super().__init__()
        self.first, self.bn, self.second = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.between(self.bn(self.first(x))))


@pytest.mark.parametrize(
    "between",
    [
        nn.LPPool2d(2, 2),
        lambda x: F.lp_pool2d(x, 2.0, 2),
        nn.AvgPool2d(2, divisor_override=3),
        lambda x: F.avg_pool2d(x, 2, divisor_override=3),
        lambda x: F.avg_pool2d(x, 2, 2, 0, False, True, 3),
        lambda x: torch.add(x, x.relu(), alpha=2),
        lambda x: torch.add(input=x, other=x.relu()),
    ],
    ids=["LPPool2d", "lp_pool2d", "divisor", "divisor=", "divisor by place", "alpha", "by keyword"],
)
def test_what_makes_something_else_of_a_constant_keeps_its_channels(between) -> None:
    graph = prune.trace(Pooled(between))
    assert graph.fixed[graph.convs["first"].makes].all()


@pytest.mark.parametrize(
    "between", [nn.AvgPool2d(2), lambda x: F.avg_pool2d(x, 2), nn.MaxPool2d(2), lambda x: torch.add(x, x.relu())]
)
def test_pools_and_plain_sums_let_channels_go(between) -> None:
    graph = prune.trace(Pooled(between))
    assert not graph.fixed[graph.convs["first"].makes].any()


def test_batch_statistics_swallow_what_is_folded() -> None:
    first = Pooled(nn.Sigmoid())
    first.second = nn.Conv2d(8, 4, 1, bias=False)
    net = nn.Sequential(first, nn.BatchNorm2d(4, track_running_stats=False), nn.Conv2d(4, 2, 1)).double().eval()
    graph = prune.trace(net)
    keep = np.ones(len(graph.root), bool)
    keep[graph.convs["0.first"].makes[:3]] = False
    first.bn.weight.data[:3] = 0
    thin = thin_module(net, graph, keep, leftovers(net, graph, keep))
    images = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    assert (thin(images) - net(images)).abs().max() < 1e-9
