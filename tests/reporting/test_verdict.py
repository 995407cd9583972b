"""The verdict: what it says is what was measured, and no more."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import models
from engine.bootstrap import Interval
from export.machine import processor
from reporting import speed
from reporting.report import Row
from reporting.speed import Speeds
from reporting.verdict import short_verdict, unhelped, unlearnt, verdict
from tests.alive import alive
from tests.nets import RESIDUAL, dual

BASE = Row("baseline", 1_000_000, 4.0, 2e9, 10.0, 0.90, 0.600)
STUDENT = Row("student", 200_000, 0.8, 5e8, 4.0, 0.89, 0.590)


def scoring(value: float) -> Row:
    return Row("student", 1, map50_95=value)


def test_it_states_shares_and_differences() -> None:
    said = verdict(BASE, STUDENT, "test", interval=Interval(-0.010, -0.016, -0.004, 200), speed="2.50 x faster")
    assert "80.0 % fewer parameters (1,000,000 -> 200,000)" in said
    assert ", 2.50 x faster." in said
    assert "It detects worse: mAP50-95 on test 0.600 -> 0.590 (-0.010; 95 % interval over 200 pictures" in said
    assert "-0.016 to -0.004)" in said
    assert "mAP50 on test 0.900 -> 0.890 (-0.010)." in said


@pytest.mark.parametrize(
    "low, high, word",
    [
        (0.001, 0.03, "It detects better:"),
        (-0.03, -0.001, "It detects worse:"),
        (-0.001, 0.03, "No difference shown:"),
        (-0.03, 0.001, "No difference shown:"),
        (0.0, 0.0, "No difference shown:"),
        (None, None, "Too few pictures to show a difference:"),
    ],
)
def test_better_and_worse_are_said_outside_the_interval_only(low: float | None, high: float | None, word: str) -> None:
    after = scoring(0.6 + (low or 0) / 2 + (high or 0) / 2)
    interval = Interval((after.map50_95 or 0) - 0.6, low, high, 80)
    for said in (verdict(BASE, after, interval=interval), short_verdict(BASE, after, interval=interval)):
        assert word.lower() in said.lower()
        assert ("better" in said, "worse" in said) == ("better" in word, "worse" in word)


def test_without_an_interval_nobody_is_called_better_or_worse() -> None:
    said = verdict(BASE, scoring(0.9))
    assert "mAP50-95 0.600 -> 0.900 (+0.300)" in said
    assert "better" not in said


def test_two_networks_that_detect_nothing_are_not_praised() -> None:
    nothing = Row("baseline", 2, map50_95=0.0, map50=0.0)
    said = verdict(nothing, Row("student", 1, map50_95=0.0001, map50=0.0), interval=Interval(1e-4, 1e-5, 2e-4, 80))
    assert "Neither detects anything" in said
    assert "--imgsz" in said
    assert "better" not in said


def test_a_network_that_came_and_detects_nothing_is_no_measure() -> None:
    said = verdict(Row("input", 2, map50_95=0.0, map50=0.0002), scoring(0.5), interval=Interval(0.5, 0.4, 0.6, 80))
    assert "input detects nothing here" in said
    assert "is --imgsz what it was trained for" in said
    assert "better" not in said


def test_a_student_that_is_larger_is_called_so() -> None:
    said = verdict(BASE, Row("student", 1_500_000, map50=0.9))
    assert "50.0 % more parameters" in said
    assert "fewer" not in said


def test_what_was_not_measured_is_not_mentioned() -> None:
    said = verdict(Row("baseline", 100), Row("student", 50))
    assert "mAP" not in said
    assert "ms" not in said
    assert "detects" not in said


def times(cpu: float, clock: float | None = None, rounds: int = 30) -> np.ndarray:
    """(2, rounds) milliseconds by the clock and of CPU time."""
    return np.stack([np.full(rounds, clock or cpu), np.full(rounds, cpu)])


def test_speed_is_the_ratio_of_cpu_times_within_the_rounds() -> None:
    drift = np.linspace(1, 3, 30)  # a machine that becomes slower slows both
    speeds = Speeds({"fat": times(10.0) * drift, "thin": times(4.0) * drift})
    said = speeds.compared("fat", "thin")
    assert said.startswith("2.50 x faster (20.0 -> 8.0 ms of CPU time a picture, 1 thread of ")
    assert processor() in said
    assert speeds.compared("thin", "fat").startswith("2.50 x slower")
    assert speeds.compared("fat", "fat").startswith("as fast")
    assert "1 thread of " in speeds.measured_with


def test_no_speed_is_told_on_a_busy_machine() -> None:
    speeds = Speeds({"fat": times(10.0, clock=20.0), "thin": times(4.0, clock=6.0)})
    assert "the machine was busy: this program got 54 % of a core" in speeds.compared("fat", "thin")
    assert speeds.cpu_ms("fat") is None
    assert "busy" in speeds.measured_with
    assert "thinyolo latency" in speeds.measured_with


def test_no_speed_is_told_where_the_rounds_disagree() -> None:
    wild = times(4.0) * np.tile([1.0, 2.0], 15)
    speeds = Speeds({"fat": times(10.0), "thin": wild})
    assert speeds.compared("fat", "thin") == (
        "speed not told (the rounds disagree: the middle half of them says 1.25 to 2.50 x; "
        "later: thinyolo latency FAT.pt THIN.pt --threads 1)"
    )
    assert speeds.cpu_ms("fat") == 10


@pytest.mark.parametrize(
    ("least", "most", "said"),
    [
        (0.95, 1.09, "no difference in speed shown ("),
        (1.04, 1.08, "1.06 x faster ("),
        (0.93, 0.96, "1.06 x slower ("),
    ],
)
def test_nobody_is_called_faster_where_the_rounds_hold_both(least: float, most: float, said: str) -> None:
    speeds = Speeds({"fat": times(10.0) * np.linspace(least, most, 30), "thin": times(10.0)})
    assert speeds.compared("fat", "thin").startswith(said)


def test_networks_of_the_same_layers_are_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(networks: Any, size: Any, threads: int) -> Any:
        asked.append(list(networks))
        return {name: times(10.0 + place) for place, name in enumerate(networks)}

    monkeypatch.setattr(speed, "round_times", fake)
    one, same = (alive(models.Network(models.parse_cfg(RESIDUAL)), seed=seed) for seed in (1, 2))
    other = alive(models.Network(models.parse_cfg(dual(2))))
    found = speed.measured_speeds({"fat": one, "thin": same, "other": other}, (64, 64))
    assert sorted(asked[0]) == ["fat", "other"]
    assert found.compared("fat", "thin").startswith("as fast (")


def test_times_of_before_are_kept_for_the_same_networks_only() -> None:
    sound, busy = Speeds({"fat": times(10.0), "thin": times(4.0)}), Speeds({"fat": times(10.0, clock=90.0)})
    key = speed.key_of({"fat": "a", "thin": "b"}, "PyTorch")
    kept = json.loads(json.dumps(speed.kept_or(None, key, lambda: sound).as_dict()))
    again = speed.kept_or(kept, key, lambda: busy)
    assert again.cpu_ms("thin") == 4.0
    assert again.compared("fat", "thin").startswith("2.50 x faster")
    for other in ({"fat": "a", "thin": "c"}, {"fat": "a"}):
        assert speed.kept_or(kept, speed.key_of(other, "PyTorch"), lambda: busy).withheld
    assert busy.as_dict() == {}, "what is withheld is taken again"
    for damage in ({}, {"times": 3}, {"times": {"fat": [[1], [2, 3]]}}, {"times": {"fat": []}}, {"times": {}}):
        assert speed.kept_or({**kept, **damage, "key": key} if damage else {"key": key}, key, lambda: busy).withheld


def test_a_fine_tune_that_did_not_help_is_told() -> None:
    said = unhelped("pruned", 0.0746, 0.0523)
    assert said.startswith("Fine-tuning did not help: pruned scored mAP50-95 0.0746 on val before the first step")
    assert "Use pruned as it is" in said
    assert unhelped("pruned", 0.05, 0.05)
    assert unhelped("pruned", 0.05, 0.0501) == ""
    assert unhelped("pruned", 0.0, 0.0) == "", "neither detects anything"


def test_several_networks_that_run_together_take_the_sum_of_their_times() -> None:
    speeds = Speeds({"one": times(4.0), "two": times(6.0), "thin": times(5.0)}).together(["one", "two"], "teacher")
    assert speeds.cpu_ms("teacher") == 10
    assert speeds.compared("teacher", "thin").startswith("2.00 x faster")


def test_a_baseline_that_forgot_what_came_in_is_warned_of() -> None:
    came = Row("pretrained", 1_000_000, map50_95=0.65)
    said = unlearnt(came, BASE, "test", Interval(-0.05, -0.08, -0.02, 80))
    assert said.startswith("baseline against pretrained: mAP50-95 on test 0.650 -> 0.600 (-0.050).")
    assert "--stages auto" in said
    for interval in (
        Interval(-0.05, -0.12, 0.02, 80),
        Interval(0.05, 0.02, 0.08, 80),
        Interval(-0.05, None, None, 3),
        None,
    ):
        assert unlearnt(came, BASE, "test", interval) == ""
