"""How long networks take, measured so that the numbers can be compared.

All networks run in one process on the same picture, in interleaved rounds: a machine that slows down for a while slows
all of them. Reported are medians and quartiles; a mean would be one interruption away from nonsense.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from models.network import Network


@dataclass(frozen=True)
class Latency:
    """Milliseconds a picture.

    Attributes:
        median_ms: the median over rounds.
        low, high: the quartiles (25 %, 75 %), in ms.
        ratio_to_first: the median over rounds of this network's time by the first network's in the same round; 0.5 is
            twice as fast.
    """

    median_ms: float
    low: float
    high: float
    ratio_to_first: float


def measure(
    networks: Mapping[str, Network],
    size: tuple[int, int],
    rounds: int = 30,
    threads: int | None = None,
    warm_up: int = 3,
) -> dict[str, Latency]:
    """The latency of each network: one picture, forward to the raw heads, PyTorch on the CPU (or where they are).

    Args:
        networks: by name; their train or eval mode is the same afterwards.
        size: height and width of the picture.
        rounds: measurements of every network.
        threads: CPU threads; None leaves torch's setting.
        warm_up: forward passes before the first measurement, not counted.
    """
    if not networks:
        return {}
    times = {name: np.zeros(rounds) for name in networks}
    pictures = {name: torch.rand(1, 3, *size, device=next(net.parameters()).device) for name, net in networks.items()}
    with _settings(networks, threads), torch.inference_mode():
        for name, net in networks.items():
            for _ in range(warm_up):
                net(pictures[name])
        names = list(networks)
        for number in range(rounds):
            # Whoever runs after the largest network finds the caches cold: everybody takes every turn.
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                times[name][number] = _milliseconds(networks[name], pictures[name])
    first = next(iter(times.values()))
    return {
        name: Latency(
            float(np.median(taken)),
            float(np.quantile(taken, 0.25)),
            float(np.quantile(taken, 0.75)),
            float(np.median(taken / first)),
        )
        for name, taken in times.items()
    }


def _milliseconds(net: Network, picture: torch.Tensor) -> float:
    start = time.perf_counter()
    net(picture)
    if picture.is_cuda:
        torch.cuda.synchronize(picture.device)
    return (time.perf_counter() - start) * 1e3


@contextmanager
def _settings(networks: Mapping[str, Network], threads: int | None) -> Iterator[None]:
    """Evaluation mode and the asked number of threads, for the time of the measurement."""
    training = {name: net.training for name, net in networks.items()}
    before = torch.get_num_threads()
    try:
        for net in networks.values():
            net.eval()
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)
        for name, net in networks.items():
            net.train(training[name])
