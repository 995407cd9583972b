"""Latency: order of calls, ratios, and nothing left behind."""

from __future__ import annotations

import itertools
import time
from collections import Counter

import pytest
import torch

from export.latency import latencies, round_times, time_calls


class Sleeper(torch.nn.Module):
    """A stand-in network whose forward takes a known time."""

    def __init__(self, seconds: float, calls: list, name: str):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seconds, self.calls, self.name = seconds, calls, name

    def forward(self, images):
        self.calls.append((self.name, self.training, tuple(images.shape)))
        time.sleep(self.seconds)


def test_medians_and_ratios_are_those_of_the_networks():
    calls: list = []
    nets = {"fat": Sleeper(0.02, calls, "fat"), "thin": Sleeper(0.005, calls, "thin")}
    found = latencies(round_times(nets, (32, 64), rounds=7))
    assert found["fat"].ratio_to_first == 1
    assert found["thin"].ratio_to_first == pytest.approx(0.25, abs=0.15)
    assert 20 <= found["fat"].median_ms < 60
    assert found["thin"].low <= found["thin"].median_ms <= found["thin"].high
    assert found["fat"].cpu_ms < 0.5 * found["fat"].median_ms, "who sleeps takes no CPU time"


def test_cpu_time_is_that_of_the_work_and_not_of_waiting():
    def spend(milliseconds: float) -> None:
        end = time.process_time() + milliseconds / 1e3
        while time.process_time() < end:
            pass

    def waiting() -> None:
        time.sleep(0.02)
        spend(5)

    found = time_calls({"long": lambda: spend(10), "short": lambda: spend(5), "late": waiting}, rounds=7)
    assert found["long"].cpu_ratio == 1
    for name in ("short", "late"):
        assert found[name].cpu_ratio == pytest.approx(0.5, abs=0.1)
    assert found["late"].median_ms > 20 > found["late"].cpu_ms


def test_rounds_are_interleaved_and_nobody_always_runs_after_the_same_one():
    calls: list = []
    names = ["a", "b", "c", "d"]
    round_times({name: Sleeper(0, calls, name) for name in names}, (8, 16), rounds=40, warm_up=1)
    order = [name for name, _, _ in calls]
    assert order[:4] == names
    rounds = [order[start : start + 4] for start in range(4, len(order), 4)]
    assert len(rounds) == 40
    assert all(sorted(each) == names for each in rounds)
    for name in names:
        before = Counter(one for one, other in itertools.pairwise(order[4:]) if other == name)
        assert max(before.values()) <= 22, "a fixed turn has one neighbour in 30 rounds of 40"
    assert {shape for _, _, shape in calls} == {(1, 3, 8, 16)}


def test_mode_and_threads_are_as_before():
    calls: list = []
    net, before = Sleeper(0, calls, "a").train(), torch.get_num_threads()
    round_times({"a": net}, (8, 8), rounds=1, threads=before + 1)
    assert net.training
    assert not any(training for _, training, _ in calls)
    assert torch.get_num_threads() == before


def test_no_network_takes_no_time():
    assert latencies(round_times({}, (8, 8))) == {}
