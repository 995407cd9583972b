"""Criteria: each against its formula written out, and what it may not disturb."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune import importance
from tests.alive import alive, noise
from tests.nets import NET, TINY, conv, yolo
from tests.prune.reference import TOLERANCE, distance, multiplied_by_zero

FILTERS = ("l1", "l2", "fpgm", "random")


def network(name: str, seed: int = 0) -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])), seed=seed, dtype=torch.float64)


def losses(net: torch.nn.Module):
    for seed in range(2):
        yield sum(head.square().mean() for head in net(noise(net, (64, 64), torch.Generator().manual_seed(seed))))


def by_mean(values: list[float]) -> np.ndarray:
    return np.array(values) / np.mean(values)


@pytest.mark.parametrize("criterion", [name for name in prune.CRITERIA if name != "gamma"])
def test_scores_of_a_layer_have_mean_1_so_that_layers_compare(criterion: str) -> None:
    net = network("residual")
    scores = importance.score(criterion, net, prune.trace(net), losses=losses)
    assert scores
    for name, values in scores.items():
        assert values.mean() == pytest.approx(1), name
        assert values.std() > 0, name


def test_l1_l2_and_fpgm_are_their_formulas() -> None:
    net = network("gated")
    graph = prune.trace(net)
    found = {name: importance.score(name, net, graph) for name in FILTERS}
    for name in graph.convs:
        rows = [row.flatten().detach() for row in net.get_submodule(name).weight]
        np.testing.assert_allclose(found["l1"][name], by_mean([float(row.abs().sum()) for row in rows]))
        np.testing.assert_allclose(found["l2"][name], by_mean([float(row.square().sum().sqrt()) for row in rows]))
        apart = [sum(float((row - other).square().sum().sqrt()) for other in rows) for row in rows]
        np.testing.assert_allclose(found["fpgm"][name], by_mean(apart), rtol=1e-6)


def test_a_filter_that_the_others_can_stand_in_for_scores_lowest_by_fpgm_though_not_by_its_norm() -> None:
    net = network("residual")
    weight = net.convolutions[8].conv.weight
    with torch.no_grad():
        weight[5] = weight.mean(0) + 1e-3
        weight[3] = 1e-3 * weight[3]
        weight += 1.0  # no filter is small now, but one is in the middle
    graph = prune.trace(net)
    assert int(importance.fpgm(net, graph)["layers.8.conv"].argmin()) == 5


def test_gamma_reader_counts_all_readers_of_the_tie_but_no_depthwise_one() -> None:
    net = network("residual")
    found = importance.score("gamma-reader", net, prune.trace(net))
    # Layers 1, 3 and 6 are one tie; it is read by 2, by 5 and, after the second add, by 8.
    norm = torch.sqrt(sum(net.convolutions[n].conv.weight.square().sum((0, 2, 3)) for n in (2, 5, 8)))
    for number in (1, 3, 6):
        wanted = (net.convolutions[number].bn.weight.abs() * norm).tolist()
        np.testing.assert_allclose(found[f"layers.{number}.bn"], by_mean(wanted))

    gated = network("gated")  # 8 -> depthwise 9 -> 10
    norm = gated.convolutions[10].conv.weight.square().sum((0, 2, 3)).sqrt()
    wanted = (gated.convolutions[8].bn.weight.abs() * norm).tolist()
    found = importance.score("gamma-reader", gated, prune.trace(gated))
    np.testing.assert_allclose(found["layers.8.bn"], by_mean(wanted))


def test_gamma_reader_of_a_grouped_reader_takes_each_input_once() -> None:
    net = network("gated")  # 12 of 14 -> convolution 15 in 4 groups
    weight = net.convolutions[15].conv.weight  # (16, 3, 3, 3)
    read = [weight[4 * (k // 3) : 4 * (k // 3) + 4, k % 3].square().sum() for k in range(12)]
    graph = prune.trace(net)
    found = importance.score("gamma-reader", net, graph)["layers.10.bn"]
    # The same tie is read by layer 7 and by the gate's convolution 13 too.
    others = sum(net.convolutions[n].conv.weight.square().sum((0, 2, 3)) for n in (8, 13))
    wanted = (net.convolutions[10].bn.weight.abs() * (torch.stack(read) + others).sqrt()).tolist()
    np.testing.assert_allclose(found, by_mean(wanted))


def test_taylor_is_what_the_loss_changes_by_per_closing_of_a_gate() -> None:
    net = network("residual")
    graph = prune.trace(net)
    found = importance.taylor(net, graph, losses)
    step = 1e-6
    for number in (2, 8):
        bn, slopes = net.convolutions[number].bn, []
        for channel in range(4):
            squares = []
            values = []
            for gate in (1 - step, 1 + step):
                with torch.no_grad():
                    kept = bn.weight[channel].clone(), bn.bias[channel].clone()
                    bn.weight[channel] *= gate
                    bn.bias[channel] *= gate
                    values.append([float(loss) for loss in losses(net)])
                    bn.weight[channel], bn.bias[channel] = kept
            squares = [((high - low) / (2 * step)) ** 2 for low, high in zip(*values)]
            slopes.append(np.sqrt(np.mean(squares)))
        ours = found[f"layers.{number}.bn"][:4]
        np.testing.assert_allclose(ours / ours.sum(), np.array(slopes) / sum(slopes), rtol=1e-4)


def test_taylor_leaves_gradients_and_switches_as_they_were() -> None:
    net = network("residual")
    frozen, graded = net.convolutions[2].bn.weight, net.convolutions[3].bn.weight
    frozen.requires_grad_(False)
    graded.grad = torch.full_like(graded, 7.0)
    assert importance.taylor(net, prune.trace(net), losses)["layers.2.bn"].max() > 0
    assert not frozen.requires_grad
    assert frozen.grad is None
    assert (graded.grad == 7).all()
    assert net.convolutions[8].bn.weight.grad is None


def test_taylor_scores_a_convolution_without_batchnorm_by_its_filter() -> None:
    net = network("gated")
    found = importance.taylor(net, prune.trace(net), losses)
    assert {"layers.4.conv", "layers.5.conv"} <= found.keys()
    assert "layers.1.conv" not in found


@pytest.mark.parametrize(
    "wrong,named",
    [
        (None, "needs gradients"),
        (lambda net: [], "no batch"),
        (lambda net: [1.5], "scalar loss"),
        (lambda net: [torch.zeros(2, requires_grad=True)], "scalar loss"),
        (lambda net: [torch.tensor(1.0)], "scalar loss"),
        (lambda net: [net.convolutions[1].bn.weight.sum() * torch.nan], "nan"),
    ],
)
def test_taylor_says_what_is_wrong_with_its_losses(wrong, named: str) -> None:
    with pytest.raises(UserError, match=named):
        prune.channels(network("residual"), criterion="taylor", ratio=0.5, losses=wrong)


def test_random_scores_depend_on_the_seed_alone() -> None:
    net = network("residual")
    first, again, other = (prune.channels(net, criterion="random", seed=seed, ratio=0.5) for seed in (1, 1, 2))
    kept = [result.network.lineage[-1]["layers"] for result in (first, again, other)]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("criterion", prune.CRITERIA)
@pytest.mark.parametrize("name", ["csp", "gated"])
def test_every_criterion_cuts_a_network_that_equals_the_fat_one(criterion: str, name: str) -> None:
    net = network(name)
    result = prune.channels(net, criterion=criterion, ratio=0.5, losses=losses, fold=False)
    assert result.report.removed > 0
    images = noise(net, (64, 64), torch.Generator().manual_seed(3))
    assert distance(result.network, multiplied_by_zero(net, result.network), images) < TOLERANCE


def test_scores_can_be_given_in_the_place_of_a_criterion() -> None:
    net = network("residual")
    scores = importance.score("l2", net, prune.trace(net))
    given, named = (prune.channels(net, ratio=0.5, **how) for how in ({"scores": scores}, {"criterion": "l2"}))
    (ours,), (theirs,) = given.network.lineage, named.network.lineage
    assert ours["layers"] == theirs["layers"]
    assert ours["sha256"] == theirs["sha256"]
    assert ours["cut"]["asked"]["criterion"] == "given scores"
    assert theirs["cut"]["asked"]["criterion"] == "l2"


PLAIN = (
    NET
    + conv(8, stride=4)
    + conv(12, bn=0)
    + conv(16, bn=0, activation="relu")
    + conv(24, 1, activation="linear", bn=0)
    + yolo("0,1,2")
)


def test_a_network_without_batchnorm_is_pruned_by_its_filters_and_not_by_gammas_it_lacks() -> None:
    net = alive(models.Network(parse_cfg(PLAIN)), dtype=torch.float64)
    by_gamma = prune.channels(net, ratio=1.0, layer_keep=0.5).report.layers
    assert by_gamma[0] == (8, 4)
    assert by_gamma[1] == (12, 12)
    result = prune.channels(net, criterion="l1", ratio=1.0, layer_keep=0.5, fold=False)
    assert list(result.report.layers.values()) == [(8, 4), (12, 6), (16, 8), (24, 24)]
    images = noise(net, (64, 64), torch.Generator().manual_seed(3))
    assert distance(result.network, multiplied_by_zero(net, result.network), images) < TOLERANCE
