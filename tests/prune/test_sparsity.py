"""Sparsity training: what is pushed, by how much, and what the push does not depend on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.sparsity import LOG10_EDGES, histogram
from tests.nets import TINY

S = 0.01


@pytest.fixture
def net() -> models.Network:
    torch.manual_seed(0)
    net = models.init_weights(models.Network(parse_cfg(TINY["residual"])))
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.uniform_(layer.bn.weight, -1, 1)
    return net


def gammas(net: models.Network) -> torch.Tensor:
    return torch.cat([layer.bn.weight for layer in net.convolutions.values() if layer.bn is not None])


def gradients(net: models.Network) -> torch.Tensor:
    return torch.cat([layer.bn.weight.grad for layer in net.convolutions.values() if layer.bn is not None])


def zero_gradients(net: models.Network) -> None:
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)


def test_each_prunable_gamma_is_pushed_by_s_towards_zero(net: models.Network) -> None:
    zero_gradients(net)
    prune.Sparsity(net, S).before_step(net, 0.0)
    assert torch.equal(gradients(net), S * gammas(net).sign())
    others = [p for name, p in net.named_parameters() if "bn.weight" not in name]
    assert all(not p.grad.any() for p in others)


def test_gammas_of_fixed_channels_are_left_alone() -> None:
    net = models.Network(parse_cfg(TINY["rare"]))
    zero_gradients(net)
    prune.Sparsity(net, S).before_step(net, 0.0)
    # What a reorg mixes has to stay; what the shortcut before it adds may go.
    assert not net.convolutions[4].bn.weight.grad.any()
    assert net.convolutions[2].bn.weight.grad.all()


def test_a_missing_gradient_is_made(net: models.Network) -> None:
    prune.Sparsity(net, S).before_step(net, 0.0)
    assert torch.equal(gradients(net), S * gammas(net).sign())


def test_a_frozen_gamma_is_not_moved(net: models.Network) -> None:
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    before = gammas(net).clone()
    prune.Sparsity(net, S).before_step(net, 0.0)
    prune.Sparsity(net, S, form="proximal").after_step(net, 0.1, 0.0)
    assert torch.equal(gammas(net), before)
    assert net.convolutions[0].bn.weight.grad is None


def test_the_push_does_not_depend_on_what_the_gradients_went_through(net: models.Network) -> None:
    """Batch size, accumulation, loss scale and clipping only ever change the gradients it is added to."""
    pushes = []
    for scale in (1e-3, 1.0, 1e3):
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        before = gradients(net)
        prune.Sparsity(net, S).before_step(net, 0.0)
        pushes.append(gradients(net) - before)
    for push in pushes:
        torch.testing.assert_close(push, S * gammas(net).sign(), atol=1e-7, rtol=1e-4)


def test_global_decay_weakens_the_push_a_hundredfold_in_the_second_half(net: models.Network) -> None:
    sparsity = prune.Sparsity(net, S, "global-decay")
    for progress, wanted in ((0.0, S), (0.49, S), (0.5, 0.01 * S), (1.0, 0.01 * S)):
        zero_gradients(net)
        sparsity.before_step(net, progress)
        torch.testing.assert_close(gradients(net).abs(), torch.full_like(gradients(net), wanted))


def test_local_decay_spares_the_largest_15_percent_in_the_second_half(net: models.Network) -> None:
    sparsity = prune.Sparsity(net, S, "local-decay")
    zero_gradients(net)
    sparsity.before_step(net, 0.4)
    torch.testing.assert_close(gradients(net).abs(), torch.full_like(gradients(net), S))
    zero_gradients(net)
    sparsity.before_step(net, 0.6)
    weak = gradients(net).abs() < S / 2
    assert int(weak.sum()) == round(0.15 * len(weak))
    assert gammas(net).abs()[weak].min() > gammas(net).abs()[~weak].max()


def test_the_proximal_form_shrinks_by_lr_times_s_and_stops_at_exactly_zero(net: models.Network) -> None:
    before = gammas(net).clone()
    prune.Sparsity(net, 1.0, form="proximal").after_step(net, 0.25, 0.0)
    torch.testing.assert_close(gammas(net), before.sign() * (before.abs() - 0.25).clamp(min=0))
    assert (gammas(net) == 0).sum() == (before.abs() <= 0.25).sum() > 0


@pytest.mark.parametrize("optimizer", ["adamw", "AdamW"])
def test_the_subgradient_form_is_refused_under_adaptive_optimisers(net: models.Network, optimizer: str) -> None:
    with pytest.raises(UserError, match="sub-gradient"):
        prune.Sparsity(net, S, optimizer=optimizer)
    prune.Sparsity(net, S, form="proximal", optimizer=optimizer)


@pytest.mark.parametrize("wrong", [{"s": -1.0}, {"s": S, "schedule": "cosine"}, {"s": S, "form": "l2"}])
def test_a_wrong_option_is_named(net: models.Network, wrong: dict) -> None:
    with pytest.raises(UserError, match="sparsity"):
        prune.Sparsity(net, **wrong)


def test_idle_channels_are_counted_where_all_of_their_tied_group_is_at_zero(net: models.Network) -> None:
    hook = prune.Sparsity(net, S)
    assert prune.idle_channels(net) == (0, len(hook.groups))
    gammas = hook.gammas(net)
    with torch.no_grad():
        for gamma, _ in gammas:
            gamma[0] = 0.0
    idle, prunable = prune.idle_channels(net)
    values = hook.values(net)
    assert 0 < idle <= int((values == 0).sum())
    assert prunable == len(values)
    with torch.no_grad():
        for gamma, mask in gammas:
            gamma[mask] = 0.0
    assert prune.idle_channels(net) == (prunable, prunable)


def test_without_a_target_only_the_last_network_may_be_the_best(net: models.Network) -> None:
    sparsity = prune.Sparsity(net, S)
    assert [sparsity.may_be_best({}, is_last) for is_last in (False, True)] == [False, True]


def test_the_history_of_quantiles_survives_a_restart(net: models.Network) -> None:
    sparsity = prune.Sparsity(net, S)
    sparsity.before_step(net, 0.0)
    metrics = sparsity.after_epoch({})
    assert metrics["gamma/q05"] <= metrics["gamma/q50"] <= metrics["gamma/q95"]
    again = prune.Sparsity(net, 0.5)
    again.load_state_dict(copy.deepcopy(sparsity.state_dict()))
    assert again.history == [metrics]
    assert again.s == S


def test_near_zero_gammas_are_counted() -> None:
    metrics = prune.gamma_metrics(torch.tensor([0.0, 5e-4, 5e-3, 0.5]))
    assert metrics["gamma/below_1e-2"] == pytest.approx(0.75)
    assert metrics["gamma/below_1e-3"] == pytest.approx(0.5)


def test_the_average_follows_live_gammas_that_are_exactly_zero_and_no_others(net: models.Network) -> None:
    ema = copy.deepcopy(net)
    with torch.no_grad():
        net.convolutions[0].bn.weight[:3] = 0
        net.convolutions[0].bn.weight[3] = 1e-12
    before = ema.convolutions[0].bn.weight.clone()
    assert prune.settle_ema(net, ema) == 3
    assert not ema.convolutions[0].bn.weight[:3].any()
    assert torch.equal(ema.convolutions[0].bn.weight[3:], before[3:])


def test_near_zero_is_relative_to_large_gammas_and_asks_for_the_whole_group(net: models.Network) -> None:
    sparsity = prune.Sparsity(net, S)
    for scale in (1.0, 1e-3):
        for layer in net.convolutions.values():
            if layer.bn is not None:
                torch.nn.init.constant_(layer.bn.weight, scale)
        assert sparsity.share_near_zero(net) == 0
        with torch.no_grad():
            net.convolutions[2].bn.weight[:3] = 0.009 * scale  # tied with nothing
            net.convolutions[3].bn.weight[:5] = 0.0  # tied with layers 1 and 6 by adds, which are alive
        assert sparsity.share_near_zero(net) == pytest.approx(3 / len(sparsity.values(net)))
        with torch.no_grad():
            net.convolutions[1].bn.weight[0] = net.convolutions[6].bn.weight[0] = 0.0
        assert sparsity.share_near_zero(net) == pytest.approx((3 + 3) / len(sparsity.values(net)))


def test_histogram_counts_every_gamma_once_in_bins_of_a_fifth_of_a_decade() -> None:
    values = torch.tensor([0.0, 5e-5, 1.1e-4, 0.5, 0.6, 1.0, 20.0])
    counts = histogram(values)
    assert len(counts) == len(LOG10_EDGES) + 1
    assert sum(counts) == len(values)
    assert (counts[0], counts[1], counts[-1]) == (2, 1, 1)
    half = 1 + int((np.log10(0.5) + 4) / 0.2)
    assert counts[half] == 2, "0.5 and 0.6 lie in 10^-0.4 .. 10^-0.2"


def test_of_what_a_cut_removes_the_channels_in_use_are_counted_with_their_share_of_all_gammas(
    net: models.Network,
) -> None:
    """Those at zero and nearly so are not in use."""
    for layer in net.convolutions.values():
        if layer.bn is not None:
            torch.nn.init.constant_(layer.bn.weight, 1.0)
    idle, faint, live = (net.convolutions[number].bn.weight for number in (2, 9, 5))
    with torch.no_grad():
        idle[:3], faint[:2], live[:4] = 0.0, 0.001, -0.5
    scores = {name: np.ones(len(ids)) for name, ids in prune.trace(net).norms.items()}
    for number, count in ((2, 3), (9, 2), (5, 4)):
        scores[f"layers.{number}.bn"][:count] = 0
    report = prune.channels(net, threshold=0.5, scores=scores, layer_keep=0).report
    every = float(gammas(net).detach().abs().sum())
    assert report.as_dict()["gammas"] == (4, 9)
    assert report.as_dict()["alive"] == pytest.approx(4 * 0.5 / every)
    assert f"4 of 9 removed channels were alive: they carried {2 / every:.1%} of all |gamma|" in report.text()


def test_channels_of_a_removed_block_are_counted_too(net: models.Network) -> None:
    torch.nn.init.constant_(net.convolutions[3].bn.weight, 1e-3)  # the least used block: layers 2 and 3
    report = prune.shortcuts(net, 1).report
    inside = net.convolutions[2].bn.weight.detach().abs()
    assert report.gammas == (int((inside > 0.01).sum()), 6 + 12)
    assert report.alive == pytest.approx(float(inside.sum() / gammas(net).detach().abs().sum()), rel=1e-3)
