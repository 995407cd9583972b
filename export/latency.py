"""How long networks take, measured so that the numbers can be compared.

All networks run in one process on the same picture, in interleaved rounds: a machine that slows down for a while slows
all of them. Reported are medians and quartiles; a mean would be one interruption away from nonsense. Beside the time by
the clock stands the CPU time of this process, which leaves out the waiting where other programs want the processor too.
`round_times` times PyTorch, what the tables show; `DeployedLatency` times a format, what a latency budget counts;
`time_calls` times whatever can be called, `caller` makes a call of any opened file.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from export.formats import FORMATS, Format
from export.job import Job
from export.quantise import EVERYTHING, Quantiser
from export.runtimes import Opened, Runtime
from models.network import Network

WARM_UP = 3
"""Runs before a network's first measurement, not counted."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds a picture.

    Attributes:
        median_ms: the median over rounds.
        low, high: the quartiles (25 %, 75 %), in ms.
        ratio_to_first: the median over rounds of this network's time by the first network's in the same round; 0.5 is
            twice as fast.
        cpu_ms: the median of the CPU time, of all threads together; on a GPU it says nothing.
        cpu_ratio: as `ratio_to_first`, of CPU times.
    """

    median_ms: float
    low: float
    high: float
    ratio_to_first: float
    cpu_ms: float
    cpu_ratio: float


def round_times(
    networks: Mapping[str, Network],
    size: tuple[int, int],
    rounds: int = 30,
    threads: int | None = None,
    warm_up: int = WARM_UP,
) -> dict[str, np.ndarray]:
    """Round by round, ``(2, rounds)`` milliseconds of every network by the clock and of CPU time.

    One picture, forward to the raw heads, PyTorch on the CPU (or where they are).

    Args:
        networks: by name; their train or eval mode is the same afterwards.
        size: height and width of the picture.
        rounds: measurements of every network.
        threads: CPU threads; None leaves torch's setting.
        warm_up: forward passes before the first measurement, not counted.
    """
    pictures = {name: torch.rand(1, 3, *size, device=next(net.parameters()).device) for name, net in networks.items()}
    with _settings(networks, threads), torch.inference_mode():
        for name, net in networks.items():
            for _ in range(warm_up):
                net(pictures[name])
        return _rounds({name: _forward(net, pictures[name]) for name, net in networks.items()}, rounds)


def time_calls(
    calls: Mapping[str, Callable[[], None]], rounds: int, warm_up: int = 0, pictures: Mapping[str, int] | None = None
) -> dict[str, Latency]:
    """The latency of each call, whatever it calls.

    Args:
        calls: by name; the first is what the others are compared with.
        rounds: measurements of every call.
        warm_up: calls before the first measurement, not counted.
        pictures: how many pictures a call takes, where it is more than one.
    """
    times = call_rounds(calls, rounds, warm_up)
    return latencies({name: taken / (pictures or {}).get(name, 1) for name, taken in times.items()})


def call_rounds(calls: Mapping[str, Callable[[], None]], rounds: int, warm_up: int = WARM_UP) -> dict[str, np.ndarray]:
    """Round by round, ``(2, rounds)`` milliseconds of every call by the clock and of CPU time."""
    for call in calls.values():
        for _ in range(warm_up):
            call()
    return _rounds(calls, rounds)


def latencies(times: Mapping[str, np.ndarray]) -> dict[str, Latency]:
    """Medians and ratios of the times of `round_times`; the first is what the others are compared with."""
    if not times:
        return {}
    first = np.maximum(next(iter(times.values())), 1e-6)  # a call that only waits has next to no CPU time
    found = {}
    for name, taken in times.items():
        (low, median, high), ratio = np.quantile(taken[0], (0.25, 0.5, 0.75)), np.median(taken / first, axis=1)
        found[name] = Latency(*map(float, (median, low, high, ratio[0], np.median(taken[1]), ratio[1])))
    return found


def _rounds(calls: Mapping[str, Callable[[], None]], rounds: int) -> dict[str, np.ndarray]:
    """The milliseconds of every call in every round, by name: ``(2, rounds)`` each, by the clock and of CPU time."""
    times = {name: np.zeros((2, rounds)) for name in calls}
    names, order = list(calls), np.random.default_rng(0)
    for number in range(rounds):
        # Whoever runs after the largest network finds the caches cold: nobody runs after the same one every time.
        for name in order.permutation(names):
            clock, cpu = time.perf_counter(), time.process_time()
            calls[name]()
            times[name][:, number] = (time.perf_counter() - clock) * 1e3, (time.process_time() - cpu) * 1e3
    return times


def _forward(net: Network, picture: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        net(picture)
        if picture.is_cuda:
            torch.cuda.synchronize(picture.device)

    return run


def pictures_at_once(net: Opened) -> int:
    """The pictures a file wants at a time; 1 where it takes any number."""
    return 1 if isinstance(net, Network) else max(1, net.description.batch)


def caller(net: Opened, size: tuple[int, int], batch: int | None = None) -> Callable[[], None]:
    """A call that runs `net` once on `batch` random pictures of `size` (H, W), by default as few as it takes.

    Raises:
        UserError: of a file: it cannot be run, or its outputs are not what it says.
    """
    content = np.random.default_rng(0).random((batch or pictures_at_once(net), 3, *size), np.float32)
    if isinstance(net, Network):
        picture = torch.from_numpy(content).to(next(net.parameters()).device)

        def forward() -> None:
            with torch.inference_mode():
                net(picture)
            if picture.is_cuda:
                torch.cuda.synchronize(picture.device)

        return forward
    net(torch.from_numpy(content))  # refuses a file that puts out something else than it says
    return lambda: _ignore(net.run(content))


def _ignore(_: object) -> None:
    return None


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


class DeployedLatency:
    """Milliseconds a network takes for one picture in a format's own program on this machine.

    The first network it is given becomes the reference. Every later one is timed in rounds interleaved with the
    reference, and what is returned is the median over rounds of their ratio in the reference's milliseconds: a machine
    that is slower now than a minute ago slows both.

    Args:
        size: height and width of the picture.
        form: what the network is written as and timed in.
        threads: CPU threads of that program; None takes torch's number.
        rounds: measurements of every network; up to ten times as many where a network is fast.
    """

    def __init__(
        self,
        size: tuple[int, int],
        form: Format = FORMATS["onnx"],
        threads: int | None = None,
        rounds: int = 20,
    ):
        self.size, self.form, self.threads = size, form, threads or torch.get_num_threads()
        self.rounds = rounds
        self.reference: Callable[[], None] | None = None
        self.reference_ms = 0.0
        self.runtime = ""

    @property
    def place(self) -> str:
        """Where the time is taken, in words; the program is known once something has been opened."""
        words = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.form.title}, run by {self.runtime}, {words}"

    def __call__(self, network: Network) -> float:
        """Median milliseconds of one forward pass to the raw heads; the network is exported anew each time.

        Raises:
            UserError: as `opened`.
        """
        candidate = caller(self.opened(network), self.size)
        for _ in range(WARM_UP):
            candidate()
        if self.reference is None:
            self.reference_ms = float(np.median(_rounds({"": candidate}, self.rounds)[""][0]))
            self.reference = candidate
            return self.reference_ms
        # Fast networks get more rounds, about a second of them: a median of few milliseconds is nothing.
        rounds = int(np.clip(500 / self.reference_ms, self.rounds, 10 * self.rounds))
        times = _rounds({"reference": self.reference, "candidate": candidate}, rounds)
        return self.reference_ms * float(np.median(times["candidate"][0] / times["reference"][0]))

    def opened(self, network: Network) -> Runtime:
        """`network` as the format's program runs it; nothing is left on the disk.

        INT8 is everything in INT8, its ranges those of noise: they take no time, whatever they are.

        Raises:
            UserError: what writes or runs the format is not installed, with what installs it; or it cannot hold this
                network.
        """
        net = copy.deepcopy(network).cpu().eval()
        noise = np.random.default_rng(0).random((1, net.in_channels, *self.size), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            job = Job(net, self.size, Path(folder), "network", self.threads)
            job.int8_trunk = lambda: Quantiser(job.trunk, [noise])(EVERYTHING)
            written = self.form.load()(job)
        if not isinstance(written.net, Runtime):
            raise UserError(
                f"{self.form.title} cannot be timed here: {written.note or 'nothing runs it'}",
                todo="give a budget that is computed (--prune flops=0.25), or cut where it runs",
            )
        self.runtime = written.net.runtime
        return written.net
