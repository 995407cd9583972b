"""Searches that build candidates: a latency budget on a noisy clock, and the largest prune within a drop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from tests.alive import alive
from tests.nets import TINY


def network(name: str = "residual") -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])))


class Clock:
    """A latency made of MACs and of a fixed cost a layer, as real ones are; `noise` is its relative spread."""

    def __init__(self, noise: float = 0.0, seed: int = 0):
        self.noise, self.random, self.calls = noise, np.random.default_rng(seed), 0
        self.seen: list[dict[int, int]] = []

    def true(self, net: models.Network) -> float:
        return models.macs(net) / 1e6 + 0.05 * len(net.convolutions)

    def __call__(self, net: models.Network) -> float:
        self.calls += 1
        self.seen.append({number: layer.out_channels for number, layer in net.convolutions.items()})
        return self.true(net) * (1 + self.noise * float(self.random.random()))


@pytest.mark.parametrize("share,round_to", [(0.8, 1), (0.6, 1), (0.6, 4)])
def test_a_latency_budget_is_met_by_few_measurements(share: float, round_to: int) -> None:
    net, clock = network(), Clock()
    result = prune.channels(net, budget=f"latency={share}", cost=clock, round_to=round_to)
    reached = clock.true(result.network) / clock.true(net)
    assert reached <= share
    if round_to == 1:
        assert reached > share - 0.06  # the step of the tie of three layers
    before, after = result.report.latency
    assert after / before == pytest.approx(reached)
    assert clock.calls < 20
    assert "latency" in result.report.text()
    assert len(result.report.tried) <= clock.calls - 2


@pytest.mark.parametrize("seed", range(3))
def test_a_noisy_clock_never_leads_above_the_budget(seed: int) -> None:
    net, clock = network(), Clock(noise=0.1, seed=seed)
    result = prune.channels(net, budget="latency=0.7", cost=clock)
    # The uncut network may have been measured up to 10 % too slow, both times, but no more.
    assert clock.true(result.network) <= 0.7 * 1.1 * clock.true(net)
    before, after = result.report.latency
    assert after <= 0.7 * before


def test_no_network_is_measured_twice_but_the_uncut_one_and_the_winner() -> None:
    net, clock = network(), Clock()
    winner = prune.channels(net, budget="latency=0.7", cost=clock).network
    seen = [tuple(sorted(widths.items())) for widths in clock.seen]
    twice = {widths for widths in seen if seen.count(widths) > 1}
    allowed = [{number: layer.out_channels for number, layer in one.convolutions.items()} for one in (net, winner)]
    assert twice <= {tuple(sorted(widths.items())) for widths in allowed}


def test_a_clock_that_lied_once_is_asked_again() -> None:
    net = network()

    class Liar(Clock):
        """The first candidates look fast; measured again, they are not."""

        def __call__(self, candidate: models.Network) -> float:
            value = super().__call__(candidate)
            again = self.seen.count(self.seen[-1]) > 1
            return value if again or self.calls == 1 else 0.8 * value

    clock = Liar()
    result = prune.channels(net, budget="latency=0.7", cost=clock)
    assert clock.true(result.network) <= 0.7 * clock.true(net)


class Worse(Clock):
    """Every network looks fast at first; each time it is asked again it is slower, by `factor`."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def __call__(self, candidate: models.Network) -> float:
        value = super().__call__(candidate)
        times = self.seen.count(self.seen[-1])
        return value if self.calls == 1 or self.seen[-1] == self.seen[0] else value * self.factor ** (times - 1)


@pytest.mark.parametrize("factor", [1.02, 1.1, 1.25])
def test_a_clock_that_lies_every_time_costs_few_measurements(factor: float, caplog: pytest.LogCaptureFixture) -> None:
    net, clock = network(), Worse(factor)
    with caplog.at_level("INFO"):
        result = prune.channels(net, budget="latency=0.7", cost=clock)
    before, after = result.report.latency
    assert after <= 0.7 * before
    assert factor * clock.true(result.network) <= 0.7 * clock.true(net)
    candidates = {tuple(sorted(widths.items())) for widths in clock.seen[1:]} - {tuple(sorted(clock.seen[0].items()))}
    assert len(candidates) <= 15
    assert f"measuring {len(candidates)} networks" in caplog.text


class Disturbed(Clock):
    """A clock that is three times too slow at the calls of these numbers (from 1)."""

    def __init__(self, *calls: int):
        super().__init__()
        self.disturbed = calls

    def __call__(self, candidate: models.Network) -> float:
        value = super().__call__(candidate)
        return 3 * value if self.calls in self.disturbed else value


@pytest.mark.parametrize("call", range(1, 13))
def test_one_disturbed_figure_neither_ends_the_search_nor_promises_too_much(call: int) -> None:
    """The first call is the uncut network's, the second the smallest candidate's; one of the last is the winner's."""
    net, clock = network(), Disturbed(call)
    result = prune.channels(net, budget="latency=0.7", cost=clock)
    before, after = result.report.latency
    assert before == pytest.approx(clock.true(net))
    assert clock.true(result.network) <= after * (1 + 1e-9) <= 0.7 * before * (1 + 1e-9)


def test_a_smallest_candidate_that_is_slow_twice_is_too_slow() -> None:
    with pytest.raises(UserError, match=r"latency=0\.7 cannot be reached"):
        prune.channels(network(), budget="latency=0.7", cost=Disturbed(2, 3))


def test_a_clock_that_cannot_be_trusted_ends_the_search() -> None:
    clock = Worse(1000.0)
    with pytest.raises(UserError, match=r"not when measured again .* networks\)"):
        prune.channels(network(), budget="latency=0.7", cost=clock)
    assert clock.calls <= 2 + 2 * 15


def test_blocks_and_channels_share_a_latency_budget() -> None:
    net, clock = network(), Clock()
    torch.nn.init.constant_(net.convolutions[6].bn.weight, 1e-3)
    report = prune.prune(net, shortcuts="auto", budget="latency=0.8", cost=clock).report
    assert list(report.removed_blocks) == [7]
    assert report.latency[1] <= 0.8 * report.latency[0]


def test_a_latency_out_of_reach_or_without_a_clock_is_an_error() -> None:
    with pytest.raises(UserError, match=r"latency=0\.01 cannot be reached"):
        prune.channels(network(), budget="latency=0.01", cost=Clock())
    with pytest.raises(UserError, match="cost="):
        prune.channels(network(), budget="latency=0.5")
    with pytest.raises(UserError, match="nan"):
        prune.channels(network(), budget="latency=0.5", cost=lambda net: float("nan"))


class Cliff:
    """A score that falls gently with the parameters until it breaks down."""

    def __init__(self, net: models.Network, edge: float, dips: tuple[tuple[float, float], ...] = ()):
        self.whole, self.edge, self.dips, self.calls = models.parameters(net), edge, dips, 0

    def __call__(self, net: models.Network) -> float:
        self.calls += 1
        share = models.parameters(net) / self.whole
        dip = any(low < share < high for low, high in self.dips)
        return 0.6 - 0.005 * (1 - share) - (0.5 if share < self.edge else 0.02 if dip else 0)


@pytest.mark.parametrize("edge", [0.7, 0.35, 0.15])
def test_the_largest_prune_stops_at_the_cliff(edge: float) -> None:
    net = network()
    score = Cliff(net, edge)
    found = prune.max_drop(net, score, max_drop=0.01)
    share = models.parameters(found.result.network) / models.parameters(net)
    assert edge <= share < edge * 1.12  # 5 % and one step of a very small network
    assert found.base == pytest.approx(0.6)
    assert found.score == pytest.approx(score(found.result.network))
    assert found.base - found.score <= 0.01
    assert score.calls < 16
    assert any(not row["within"] for row in found.tried)
    assert [row["best"] for row in found.tried].count(True) == 1
    assert found.result.report.tried == found.tried
    assert "tried" in found.result.report.text()
    asked = found.result.network.lineage[-1]["cut"]["asked"]
    assert asked["max drop"] == 0.01
    assert "budget" not in asked, "that was a step of the search, nobody's wish"


def test_a_dip_does_not_end_the_search() -> None:
    net = network()
    cliff = Cliff(net, 0.2)
    found = prune.max_drop(net, cliff, max_drop=0.01)
    # The lowest failure is made one that is followed by networks that are within again.
    plain = models.parameters(found.result.network) / models.parameters(net)
    dips = prune.max_drop(net, Cliff(net, 0.2, dips=((0.50, 0.53),)), max_drop=0.01)
    share = models.parameters(dips.result.network) / models.parameters(net)
    assert dips.base - dips.score <= 0.01
    assert share <= max(0.5, plain) + 0.05


def test_nothing_goes_where_nothing_may_be_lost() -> None:
    net = network()
    whole = models.parameters(net)
    found = prune.max_drop(net, lambda one: float(models.parameters(one) == whole), max_drop=0.0)
    assert models.parameters(found.result.network) == whole
    assert found.score == 1.0


def test_everything_goes_that_may_where_any_drop_is_allowed() -> None:
    net = network()
    found = prune.max_drop(net, lambda one: models.parameters(one) / 1e6, max_drop=1.0, layer_keep=0.3)
    least = prune.channels(net, ratio=1.0, layer_keep=0.3).network
    assert models.parameters(found.result.network) < 1.15 * models.parameters(least)


def test_what_the_score_does_to_a_candidate_stays_and_the_uncut_network_is_not_touched() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def score(candidate: models.Network) -> float:
        candidate.convolutions[0].bn.running_mean.fill_(5.0)
        return 1.0

    found = prune.max_drop(net, score, max_drop=0.01)
    assert (found.result.network.convolutions[0].bn.running_mean == 5).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@torch.no_grad()
def test_candidates_that_are_solved_may_be_cut_deeper() -> None:
    """The score is how far the heads are from the uncut network's on other pictures."""
    net = network()
    generator = torch.Generator().manual_seed(0)
    seen, others = (torch.rand((4, 3, 64, 64), generator=generator) for _ in range(2))
    wanted = net.eval()(others)

    def score(candidate: models.Network) -> float:
        heads = candidate.eval()(others)
        return -sum(float((a - b).square().mean() / b.var()) for a, b in zip(heads, wanted))

    found = {
        name: prune.max_drop(net, score, max_drop=0.5, tolerance=0.2, images=images)
        for name, images in (("cut", None), ("solved", seen))
    }
    left = {name: models.parameters(one.result.network) for name, one in found.items()}
    assert left["solved"] < 0.9 * left["cut"]
    assert found["solved"].score == pytest.approx(score(found["solved"].result.network))
    assert "solved on 4 pictures" in found["solved"].result.report.text()
    assert "solved" not in found["cut"].result.report.text()


@pytest.mark.parametrize(
    "wrong,named",
    [
        ({"max_drop": -1}, "drop=-1"),
        ({"budget": "params=0.5"}, "budget given"),
        ({"max_drop": None}, "no max_drop"),
        ({"of": "weight"}, "weight"),
        ({"of": "latency"}, "latency"),
    ],
)
def test_a_wrong_search_is_named(wrong: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        prune.max_drop(network(), lambda net: 1.0, **{"max_drop": 0.01, **wrong})
