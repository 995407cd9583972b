"""How long pruning takes, beside Torch-Pruning on the same network in the same run.

    python benchmarks/pruning_speed.py                  # yolov3, 62 M parameters, one thread
    python benchmarks/pruning_speed.py --cfg yolov4-tiny --repeats 10

Measured are (1) the identity graph, the selection and the surgery, and (2) the cost of one candidate: here analytic,
there counted on the network that was built. The two programs take turns, so that a machine that slows down for a while
slows both; reported are the least times of each, by the clock and in CPU time, which a busy machine does not stretch
much, and the ratios of the least. Torch-Pruning is asked for the same share of channels by the same criterion
(|gamma|, global), head convolutions left alone in both.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import models
import prune
from common.errors import UserError, run_cleanly
from models.network import Network
from prune.cost import Cost
from prune.fold import leftovers
from prune.importance import gamma
from prune.select import Selector
from prune.surgery import thin_network

RIVAL = "1.6.1"
INSTALL = f"""\
error: Torch-Pruning is not installed; only this comparison needs it. In the environment of ThinYOLO:
  pip install --no-deps torch-pruning=={RIVAL}
or run with --alone to time ThinYOLO only."""

Times = dict[str, list[tuple[float, float]]]  # what -> (seconds by the clock, CPU seconds) of each run


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exit status 2 without Torch-Pruning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="yolov3", help="a cfg file or the name of a shipped one")
    parser.add_argument("--ratio", type=float, default=0.5, help="share of the channels to prune")
    parser.add_argument("--imgsz", type=int, default=416, help="side of the pictures")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--alone", action="store_true", help="time ThinYOLO only")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats} has to be at least 1")
    rival = None if args.alone else _rival()
    if rival is None and not args.alone:
        print(INSTALL, file=sys.stderr)
        return 2
    torch.set_num_threads(args.threads)
    net = random_network(args.cfg)
    size = (args.imgsz, args.imgsz)
    print(
        f"{args.cfg}: {models.parameters(net) / 1e6:.1f} M parameters, {args.threads} thread(s), ratio {args.ratio}, "
        f"the least of {args.repeats} runs"
    )
    times: Times = {}
    thin = None
    for _ in range(args.repeats):
        time_ours(net, args.ratio, size, times)
        if rival is not None:
            thin = time_rival(rival, net, args.ratio, size, times)
    report(times)
    if rival is not None and thin is not None:
        ours = prune.channels(net, ratio=args.ratio, size=size).report
        print(
            f"left of the parameters: ThinYOLO {ours.params[1] / ours.params[0]:.1%}, Torch-Pruning "
            f"{sum(p.numel() for p in thin.parameters()) / ours.params[0]:.1%}"
        )
    return 0


def _rival() -> Any:
    try:
        import torch_pruning
    except ImportError:
        return None
    if (found := version("torch-pruning")) != RIVAL:  # its own `__version__` lags behind
        print(f"note: this is Torch-Pruning {found}, not {RIVAL}")
    return torch_pruning


def random_network(cfg: str) -> Network:
    """A network whose gammas differ, so that there is something to choose by."""
    net = models.load(cfg).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in net.convolutions.values():
            if layer.bn is not None:
                layer.bn.weight.copy_(torch.rand(layer.bn.weight.shape, generator=generator))
    return net


def _timed(name: str, times: Times, work: Callable[[], Any]) -> Any:
    clock, cpu = time.perf_counter(), time.process_time()
    result = work()
    times.setdefault(name, []).append((time.perf_counter() - clock, time.process_time() - cpu))
    return result


def time_ours(net: Network, ratio: float, size: tuple[int, int], times: Times) -> None:
    """The parts one by one, and the call users make, which also writes the lineage (a sha256 of all weights)."""
    graph = _timed("ThinYOLO: identity graph", times, lambda: prune.trace(net))

    def select() -> Any:
        selector = Selector(graph, gamma(net, graph))
        return selector.settle(selector.cut_at_ratio(ratio)).keep

    keep = _timed("ThinYOLO: selection", times, select)
    _timed("ThinYOLO: surgery", times, lambda: thin_network(net, graph, keep))
    _timed("ThinYOLO: surgery with folding", times, lambda: thin_network(net, graph, keep, leftovers(net, graph, keep)))
    _timed("ThinYOLO: prune.channels, all in all", times, lambda: prune.channels(net, ratio=ratio, size=size))
    cost = _timed("ThinYOLO: cost tables, once", times, lambda: Cost(net, graph, size))
    everything = np.ones(len(graph.root), bool)
    cost.parameters(everything)
    _timed("ThinYOLO: cost of one candidate", times, lambda: (cost.parameters(keep), cost.macs(keep)))


def time_rival(rival: Any, net: Network, ratio: float, size: tuple[int, int], times: Times) -> Any:
    """Torch-Pruning's pruner on a copy of the network; copying is not counted."""
    thin = copy.deepcopy(net)
    picture = torch.zeros(1, net.in_channels, *size)
    heads = [thin.convolutions[number].conv for number in thin.head_convolutions]

    def work() -> None:
        pruner = rival.pruner.BNScalePruner(
            thin,
            picture,
            importance=rival.importance.BNScaleImportance(),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=heads,
        )
        pruner.step()

    _timed("Torch-Pruning: graph and pruning", times, work)
    _timed("Torch-Pruning: cost of one candidate", times, lambda: rival.utils.count_ops_and_params(thin, picture))
    return thin


def report(times: Times) -> None:
    """The least of each time, and the ratios of the least."""
    least = {name: np.array(values).min(0) for name, values in times.items()}
    least["ThinYOLO: graph, selection, surgery"] = sum(
        (least[f"ThinYOLO: {part}"] for part in ("identity graph", "selection", "surgery")), np.zeros(2)
    )
    width = max(map(len, least))
    print(f"{''.ljust(width)}  {'clock':>11}  {'CPU':>11}")
    for name, (clock, cpu) in least.items():
        print(f"{name.ljust(width)}  {1e3 * clock:8.2f} ms  {1e3 * cpu:8.2f} ms")
    if "Torch-Pruning: graph and pruning" in least:
        for what, theirs, ours in (
            ("graph, selection and surgery", "graph and pruning", "graph, selection, surgery"),
            ("the same with folding and lineage", "graph and pruning", "prune.channels, all in all"),
            ("cost of one candidate", "cost of one candidate", "cost of one candidate"),
        ):
            clock, cpu = least[f"Torch-Pruning: {theirs}"] / least[f"ThinYOLO: {ours}"]
            print(f"{what}: Torch-Pruning takes {clock:.1f} times as long by the clock, {cpu:.1f} times the CPU time")


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
