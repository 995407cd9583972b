"""Sparsity by a target: which groups go, when, that they get there, and that it backs off."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.auto import END, WINDOW
from tests.nets import TINY

EPOCHS = 10
STEPS = 60


def make(name: str = "residual") -> models.Network:
    torch.manual_seed(0)
    net = models.init_weights(models.Network(parse_cfg(TINY[name])))
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.uniform_(layer.bn.weight, 0.3, 1.5)
    return net.train()


def optimiser(net: models.Network, kind: str) -> torch.optim.Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(net.parameters(), lr=0.02)
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def gammas(net: models.Network) -> dict[int, Tensor]:
    """By layer number."""
    return {number: layer.bn.weight for number, layer in net.convolutions.items() if layer.bn is not None}


def train(
    net: models.Network,
    hook: prune.AutoSparsity,
    steps: range,
    kind: str = "sgd",
    optimizer: torch.optim.Optimizer | None = None,
    scores: list[float] | None = None,
) -> list[dict[str, float]]:
    """A training on noise, in which all parameters are pulled about; `scores`: the validation mAP of every epoch."""
    optimizer = optimizer or optimiser(net, kind)
    rows = []
    for step in steps:
        torch.manual_seed(step)
        heads = net(torch.rand(2, 3, 64, 64))
        torch.stack([(head - 1).square().mean() for head in heads]).sum().backward()
        hook.before_step(net, step / STEPS)
        optimizer.step()
        optimizer.zero_grad()
        hook.after_step(net, 0.05, step / STEPS)
        if (step + 1) % (STEPS // EPOCHS) == 0:
            epoch = (step + 1) // (STEPS // EPOCHS) - 1
            metrics = {"epoch": float(epoch)} | ({"val/mAP50-95": scores[epoch]} if scores else {})
            rows.append(hook.after_epoch(metrics))
    return rows


def push(net: models.Network, hook: prune.AutoSparsity, steps: int = STEPS, gradient: Any = None) -> None:
    """The hook alone, without an optimiser; `gradient`: module name -> the gradient of its gammas, 1 by default."""
    modules = dict(net.named_modules())
    for step in range(steps):
        for name in hook.masks:
            weight = modules[name].weight
            weight.grad = torch.ones_like(weight) if gradient is None else gradient(name, weight)
        hook.before_step(net, step / steps)
        hook.after_step(net, 0.1, step / steps)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("name", ["residual", "csp"])
def test_target_is_reached_with_whole_groups_under_any_optimiser(name: str, kind: str) -> None:
    net = make(name)
    hook = prune.AutoSparsity(net, target=0.6)
    rows = train(net, hook, range(STEPS), kind)
    assert rows[-1]["sparsity/at_zero"] == hook.share == pytest.approx(0.6, abs=0.05)
    assert hook.share >= 0.6
    assert rows[-1]["sparsity/share"] >= hook.share - 1e-9
    assert "60% of the prunable channels is reached" in hook.conclusion()
    # What is at zero can really be cut: all of it goes, and nothing that is alive.
    report = prune.channels(net, threshold=0.0, layer_keep=0.05).report
    idle = sum(int((gamma == 0).sum()) for gamma in gammas(net).values())
    assert report.channels[0] - report.channels[1] == idle > 0


def test_share_follows_the_curve_and_rests_at_the_end() -> None:
    net = make()
    rows = train(net, hook := prune.AutoSparsity(net, target=0.5), range(STEPS))
    shares = [row["sparsity/at_zero"] for row in rows]
    assert shares == sorted(shares)
    assert 0 < shares[2] < 0.5
    for epoch, share in enumerate(shares):
        wanted = hook.curve((epoch + 1) / EPOCHS)
        assert wanted - 0.1 <= share <= wanted + 0.15, epoch
    rest = math.ceil(END * EPOCHS)
    assert len(set(shares[rest:])) == 1


def test_what_is_not_called_is_not_touched() -> None:
    net = make("rare")
    before = copy.deepcopy(net.state_dict())
    push(net, hook := prune.AutoSparsity(net, target=0.5))
    assert hook.share >= 0.5 - 1e-9
    participating = {f"{name}.weight" for name in hook.masks}
    for name, tensor in net.state_dict().items():
        same = tensor == before[name]
        if name in participating:
            mask = hook.masks[name.removesuffix(".weight")]
            assert same[~mask].all(), "a channel that has to stay keeps its gamma"
            same = same | (tensor == 0)
        assert same.all(), name
    assert "layers.4.bn" not in hook.masks, "what a reorg mixes has to stay"


def test_the_least_important_groups_go_whatever_their_gamma() -> None:
    """Large gammas about which the loss does not care go before small ones about which it does."""
    net = make()
    hook = prune.AutoSparsity(net, target=0.3, layer_keep=0.05)
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.constant_(layer.bn.weight, 0.1)
            layer.bn.weight.data[::2] = 1.0

    def gradient(name: str, weight: Tensor) -> Tensor:
        cares = torch.full_like(weight, 10.0)
        cares[::2] = 0.01
        return cares

    push(net, hook, gradient=gradient)
    dead = torch.cat([gamma == 0 for gamma in gammas(net).values()])
    idle = torch.cat([torch.arange(len(gamma)) % 2 == 0 for gamma in gammas(net).values()])
    assert dead.any()
    assert not (dead & ~idle).any()


def test_a_called_gamma_goes_straight_to_exactly_zero_by_its_deadline() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.4)
    seen = []
    modules = dict(net.named_modules())
    for step in range(200):
        for name in hook.masks:
            modules[name].weight.grad = torch.ones_like(modules[name].weight)
        hook.before_step(net, step / 200)
        hook.after_step(net, 0.1, step / 200)
        seen.append(hook.values(net))
    path = torch.stack(seen).numpy()
    went = (path[-1] == 0) & (path[0] > 0)
    assert went.any()
    for gamma in path[:, went].T:
        moving = np.flatnonzero(np.diff(gamma) < 0)
        assert len(moving) == pytest.approx(WINDOW * 200, abs=1)
        np.testing.assert_allclose(np.diff(gamma)[moving], -gamma[0] / len(moving), rtol=1e-3)


def test_gradients_that_object_do_not_keep_a_gamma_from_zero() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.5)
    modules = dict(net.named_modules())
    for step in range(STEPS):
        for name in hook.masks:
            modules[name].weight.grad = torch.ones_like(modules[name].weight)
        hook.before_step(net, step / STEPS)
        with torch.no_grad():
            for name in hook.masks:
                modules[name].weight += 0.3
        hook.after_step(net, 0.1, step / STEPS)
    hook.after_epoch({})
    assert hook.share >= 0.5 - 1e-9


def test_floors_of_the_cut_are_respected() -> None:
    net = make()
    push(net, prune.AutoSparsity(net, target=0.6, layer_keep=0.3))
    for number, gamma in gammas(net).items():
        assert int((gamma != 0).sum()) >= math.ceil(0.3 * len(gamma)), number


def test_it_stands_still_while_map_is_lost_and_goes_on_when_it_is_back() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.6, tolerance=0.1)
    rows = train(net, hook, range(STEPS), scores=[0.5, 0.5, 0.44, 0.4, 0.46, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert [row["sparsity/held"] for row in rows] == [0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    shares = [row["sparsity/at_zero"] for row in rows]
    assert shares[2] == shares[3] == shares[4] < shares[5] < 0.6
    assert shares[-1] >= 0.6 - 1e-9, "the rest of the curve is made up for"


@pytest.mark.parametrize("end", [0.2, 0.5], ids=["lost for good", "back too late"])
def test_a_target_given_up_for_map_is_explained(end: float) -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.6)
    rows = train(net, hook, range(STEPS), scores=[0.5, 0.5, *6 * [0.2], end, end])
    assert 0 < hook.share < 0.6
    assert len({row["sparsity/at_zero"] for row in rows[2:]}) == 1
    assert "val mAP50-95 0.200" in hook.conclusion()
    assert "--tolerance" in hook.conclusion()


def may_be_best(hook: prune.AutoSparsity, live: models.Network, averaged: models.Network) -> bool:
    score: Any = None
    return hook.may_be_best(hook.after_validation(live, averaged, score, lambda net: score), is_last=True)


def test_best_is_looked_for_at_the_target_and_once_the_averaged_weights_have_followed() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.6)
    before = copy.deepcopy(net)
    assert not may_be_best(hook, net, before)
    train(net, hook, range(30))
    assert not may_be_best(hook, net, net), "the curve is not over"
    train(net, hook, range(30, STEPS))
    averaged = copy.deepcopy(net)
    assert may_be_best(hook, net, averaged)
    for number, gamma in gammas(averaged).items():
        gamma.data += 0.001 * gammas(before)[number]
    assert may_be_best(hook, net, averaged), "an average never quite reaches 0"
    for number, gamma in gammas(averaged).items():
        gamma.data += 0.1 * gammas(before)[number]
    assert not may_be_best(hook, net, averaged)


def test_there_is_no_best_where_the_target_was_missed() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.6)
    train(net, hook, range(STEPS), scores=[0.5, 0.5, 0.5] + [0.1] * 7)
    assert hook.share < 0.6
    assert not may_be_best(hook, net, net)


def test_called_gammas_recover_when_it_backs_off() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.6)
    train(net, hook, range(12), scores=[0.5, 0.2])
    assert hook._held
    held = [gamma.detach().clone() for gamma in gammas(net).values()]
    for step in range(12, 18):
        hook.before_step(net, step / STEPS)
        hook.after_step(net, 0.05, step / STEPS)
    assert all(torch.equal(gamma, before) for gamma, before in zip(gammas(net).values(), held))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_resumed_training_ends_with_the_same_bits(kind: str) -> None:
    scores = [0.5, 0.5, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    whole = make()
    rows = train(whole, first := prune.AutoSparsity(whole, 0.6), range(STEPS), kind, scores=scores)
    broken = make()
    optimizer = optimiser(broken, kind)
    train(broken, hook := prune.AutoSparsity(broken, 0.6), range(20), optimizer=optimizer, scores=scores)
    resumed = prune.AutoSparsity(again := make(), 0.1)
    again.load_state_dict(copy.deepcopy(broken.state_dict()))
    second = optimiser(again, kind)
    second.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(copy.deepcopy(hook.state_dict()))
    assert train(again, resumed, range(20, STEPS), optimizer=second, scores=scores) == rows[3:]
    for ours, theirs in zip(whole.state_dict().values(), again.state_dict().values()):
        assert torch.equal(ours, theirs)
    assert resumed.history == first.history
    assert resumed.histograms == first.histograms


def test_frozen_gammas_stay_and_hold_their_group() -> None:
    net = make()
    frozen = gammas(net)[1]  # tied with layers 3 and 6 by adds
    frozen.requires_grad_(False)
    before = frozen.clone()
    train(net, hook := prune.AutoSparsity(net, 0.4), range(STEPS))
    assert torch.equal(frozen, before)
    assert (gammas(net)[3] != 0).all()
    assert (gammas(net)[6] != 0).all()
    assert hook.share >= 0.4 - 1e-9


def test_what_the_structure_forbids_is_said_and_the_rest_is_done() -> None:
    net = make()
    hook = prune.AutoSparsity(net, target=0.9, layer_keep=0.6)
    push(net, hook)
    hook.after_epoch({})
    assert 0.2 < hook.share < 0.45
    assert "floor of 0.6" in hook.conclusion()


def test_too_few_steps_are_said() -> None:
    net = make()
    push(net, hook := prune.AutoSparsity(net, 0.5), steps=1)
    hook.after_epoch({})
    assert hook.share == 0
    assert "optimiser steps" in hook.conclusion()


def test_four_steps_are_enough() -> None:
    net = make()
    push(net, hook := prune.AutoSparsity(net, 0.5), steps=4)
    hook.after_epoch({})
    assert hook.share >= 0.5 - 1e-9


@pytest.mark.parametrize("budget", ["params=0.3", "flops=0.5"])
def test_budget_of_the_cut_is_met_by_what_is_at_zero(budget: str) -> None:
    net = make()
    push(net, hook := prune.AutoSparsity(net, budget=budget))
    hook.after_epoch({})
    report = prune.channels(net, budget=budget, layer_keep=0.05).report
    gone = prune.channels(net, threshold=0.0, layer_keep=0.05).report
    what, kept = budget.split("=")
    after, whole = {"params": gone.params, "flops": gone.macs}[what][::-1]
    assert after / whole == pytest.approx(1 - hook.share)
    assert after / whole <= float(kept)
    assert 0 <= report.channels[1] - gone.channels[1] <= 3, "the cut takes what is at zero, and little is left of it"


def test_the_share_at_zero_is_that_of_the_rounded_cut() -> None:
    net = make("yolov5")
    push(net, hook := prune.AutoSparsity(net, budget="flops=0.5", round_to=4))
    hook.after_epoch({})
    gone = prune.channels(net, threshold=0.0, layer_keep=0.05, round_to=4)
    assert gone.report.macs[1] <= 0.5 * gone.report.macs[0]
    assert gone.report.macs[1] / gone.report.macs[0] == pytest.approx(1 - hook.share)
    prunable = [layer.out_channels for number, layer in gone.network.convolutions.items() if layer.bn is not None]
    assert all(width % 4 == 0 for width in prunable)


def test_under_a_budget_a_channel_is_worth_what_it_saves() -> None:
    gone = {}
    for budget in ("flops=0.6", "params=0.6"):
        net = make("yolov5")
        # The loss minds every gamma alike.
        push(net, hook := prune.AutoSparsity(net, budget=budget), gradient=lambda _, weight: 1 / weight.clamp(min=0.1))
        hook.after_epoch({})
        first = list(gammas(net).values())[:4]  # on the largest maps: many multiply-adds, few weights
        gone[budget] = sum((gamma == 0).sum().item() for gamma in first)
    assert gone["flops=0.6"] > gone["params=0.6"]


def test_budget_that_has_to_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="latency"):
        prune.AutoSparsity(make(), budget="latency=0.5")


@pytest.mark.parametrize("wrong", [{"target": 0.0}, {"target": 1.2}, {"tolerance": 0.0}])
def test_what_is_no_share_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="share"):
        prune.AutoSparsity(make(), **wrong)


def test_state_of_another_schedule_is_refused() -> None:
    net = make()
    with pytest.raises(UserError, match="auto"):
        prune.AutoSparsity(net).load_state_dict(prune.Sparsity(net, 0.1).state_dict())


def test_selector_is_asked_for_no_more_than_wanted() -> None:
    """The share is met by the smallest cut: one group fewer would miss it."""
    net = make()
    hook = prune.AutoSparsity(net, 0.5)
    gone = hook._lowest(np.random.default_rng(0).random(len(hook.importance)), 0.37)
    share = 1 - hook._measure(~gone[hook.graph.root])
    assert 0.37 <= share <= 0.37 + float(hook.sizes.max() / hook.sizes.sum())


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_blocks_of_the_cut_fade_to_nothing_and_then_cost_nothing(kind: str) -> None:
    """A silent block can be taken out without changing any answer."""
    net = make("yolov5")
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.uniform_(layer.bn.bias, -0.5, 0.5)
    plan = prune.CutPlan(budget="params=0.5", shortcuts=1, layer_keep=0.05)
    hook = prune.AutoSparsity(net, plan=plan)
    rows = train(net, hook, range(STEPS), kind)
    assert rows[1]["sparsity/blocks"] == 0
    assert rows[-1]["sparsity/blocks"] == 1
    assert "1 of 1 shortcut blocks silent; the target of 50% of the params is reached" in hook.conclusion()
    assert hook.share >= 0.5
    net.eval()
    thin = prune.prune(net, shortcuts=1).network.eval()
    assert len(thin.convolutions) < len(net.convolutions)
    images = torch.rand(2, 3, 64, 64)
    for ours, whole in zip(thin(images), net(images)):
        torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-5)
    assert prune.prune(net, plan).report.alive == 0, "the whole cut finds nothing in use"


def test_the_block_that_the_loss_minds_least_fades_whatever_its_gammas() -> None:
    net = make("residual")
    blocks = [block for block in prune.find_blocks(net) if not block.obstacle]
    assert len(blocks) > 1
    least = blocks[-1]
    for block in blocks:
        net.convolutions[block.norm].bn.weight.data.fill_(0.1 if block is not least else 1.0)  # type: ignore[index, union-attr]
    hook = prune.AutoSparsity(net, target=0.3, plan=prune.CutPlan(ratio=0.3, shortcuts=1))
    names = {name: number for number, layer in net.convolutions.items() for name in [f"layers.{number}.bn"]}
    push(net, hook, gradient=lambda name, weight: torch.full_like(weight, 1e-6 if names[name] == least.norm else 10.0))
    silent = [block for block, quiet in zip(hook.blocks.blocks, hook.blocks.silent) if quiet]
    assert [block.layer for block in silent] == [least.layer]


def test_fading_goes_on_after_a_resume_and_is_let_go_where_the_map_falls() -> None:
    net = make("yolov5")
    plan = prune.CutPlan(budget="params=0.5", shortcuts=1)
    twin = copy.deepcopy(net)
    hook, optimizer = prune.AutoSparsity(net, plan=plan), optimiser(net, "sgd")
    train(net, hook, range(STEPS // 4), optimizer=optimizer)
    again = prune.AutoSparsity(twin, plan=plan)
    again.load_state_dict(copy.deepcopy(hook.state_dict()))
    assert torch.equal(again.blocks.deadline, hook.blocks.deadline)
    assert torch.equal(again.blocks.importance, hook.blocks.importance)
    assert again.blocks.called.any(), "a block is on its way after a quarter of the training"
    hook._watch(0.9, 1, hook._at_zero(net))
    hook._watch(0.1, 2, hook._at_zero(net))
    assert not hook.blocks.called[~hook.blocks.silent].any()
