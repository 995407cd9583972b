"""How fast one network is beside another: CPU time in interleaved rounds, or why nothing is said of it.

By the clock one pair of networks was 1.7 and 6.5 times as fast in two runs on a machine that did other things too. CPU
time leaves out the waiting, not what others do to the caches: what they disturb too much is not told.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import models
from export.latency import round_times
from export.machine import processor
from models.network import Network

THREADS = 1  # idle threads that wait for each other would count as CPU time
LEAST_SHARE = 0.8  # of a core: below it other programs ran
LATER = f"thinyolo latency FAT.pt THIN.pt --threads {THREADS}"
SPREAD = 1.25  # between the quartiles of the ratio
MOST_ROUNDS = (0.05, 0.95)
"""Quantiles of the ratio: where 1 lies between them, neither network is called faster."""


@dataclass(frozen=True)
class Speeds:
    """The times of several networks, taken in the same rounds.

    Attributes:
        times: by name ``(2, rounds)`` milliseconds a picture, by the clock and of CPU time.
        runtime: what ran the networks.
        key: of what was timed, and where (`key_of`).
    """

    times: Mapping[str, np.ndarray]
    runtime: str = "PyTorch"
    key: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; nothing where the times are withheld: a later run is to take them."""
        if self.withheld:
            return {}
        times = {name: taken.tolist() for name, taken in self.times.items()}
        return {"key": self.key, "runtime": self.runtime, "times": times}

    @property
    def withheld(self) -> str:
        """Why no time is told; empty where they are sound."""
        clock, cpu = np.sum(list(self.times.values()), axis=(0, 2))
        share = cpu / max(clock, 1e-9)
        if share >= LEAST_SHARE:
            return ""
        return f"the machine was busy: this program got {share:.0%} of a core".replace("%", " %")

    @property
    def measured_with(self) -> str:
        """A footnote of the column "CPU (ms)"."""
        return f"CPU (ms): {self.what}"

    @property
    def what(self) -> str:
        """What the times are, and of which machine."""
        if self.withheld:
            return f"not told, {self.withheld}; once it is idle: {LATER}"
        rounds = len(next(iter(self.times.values()))[0])
        return f"CPU time of one picture in {self.runtime}, {_machine()}; median of {rounds} interleaved rounds"

    def cpu_ms(self, name: str) -> float | None:
        """The median CPU time; None where it is withheld."""
        return None if self.withheld else float(np.median(self.times[name][1]))

    def together(self, names: Sequence[str], name: str) -> Speeds:
        """With the sum of several as one more, for what runs all of them."""
        return replace(self, times={**self.times, name: np.sum([self.times[each] for each in names], axis=0)})

    def compared(self, before: str, after: str) -> str:
        """A part of the verdict: how much less CPU time the second takes, or why that is not told."""
        if self.withheld:
            return f"speed not told ({self.withheld}; later: {LATER})"
        old, new = self.times[before][1], self.times[after][1]
        low, factor, high = np.quantile(old / np.maximum(new, 1e-9), (0.25, 0.5, 0.75))
        if high > SPREAD * low:
            said = f"the rounds disagree: the middle half of them says {low:.2f} to {high:.2f} x"
            return f"speed not told ({said}; later: {LATER})"
        times = f"{np.median(old):.1f} -> {np.median(new):.1f} ms of CPU time a picture, {_machine()}"
        if round(float(factor), 2) == 1:
            return f"as fast ({times})"
        least, most = np.quantile(old / np.maximum(new, 1e-9), MOST_ROUNDS)
        if least <= 1 <= most:
            return f"no difference in speed shown ({times}; most rounds say {least:.2f} to {most:.2f} x)"
        faster = factor > 1
        return f"{factor if faster else 1 / factor:.2f} x {'faster' if faster else 'slower'} ({times})"


def _machine() -> str:
    return f"{THREADS} thread of {processor()}"


def key_of(timed: Mapping[str, Any], runtime: str) -> str:
    """Of what is timed (name -> whatever tells it from others, as JSON), in what, and of the machine."""
    said = json.dumps([processor(), runtime, dict(timed)], default=str)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def kept_or(kept: Any, key: str, measure: Callable[[], Speeds]) -> Speeds:
    """The times that `kept` (`Speeds.as_dict`) holds of this key, else those of `measure`.

    A run that has ended keeps its times when it is resumed: the machine may be busier now.
    """
    if isinstance(kept, Mapping) and kept.get("key") == key:
        try:
            times = {str(name): np.array(taken, float) for name, taken in kept["times"].items()}
            shapes = {taken.shape for taken in times.values()}
            if len(shapes) == 1 and len(shape := shapes.pop()) == 2 and shape[0] == 2 and shape[1]:
                return Speeds(times, str(kept["runtime"]), key)
        except (AttributeError, KeyError, TypeError, ValueError):  # damaged: measured again
            pass
    return replace(measure(), key=key)


def measured_speeds(networks: Mapping[str, Network], size: tuple[int, int], kept: Any = None) -> Speeds:
    """The CPU times of networks that are on the CPU, for pictures of `size` (H, W).

    Networks of the same layers are timed once: what they seem to differ by would be chance.

    Args:
        kept: see `kept_or`.
    """

    def measure() -> Speeds:
        layers = {name: repr(network.cfg.structure()) for name, network in networks.items()}
        first = {each: name for name, each in reversed(layers.items())}
        times = round_times({name: networks[name] for name in first.values()}, size, threads=THREADS)
        return Speeds({name: times[first[each]] for name, each in layers.items()})

    timed = {name: [*size, models.fingerprint(network)] for name, network in networks.items()}
    return kept_or(kept, key_of(timed, "PyTorch"), measure)
