"""What a cut saves in each runtime, against the multiply-adds it saves: the tables in docs/results.md.

    python benchmarks/cut_latency.py fat.pt cut60.pt cut40.pt --imgsz 640
    python benchmarks/cut_latency.py fat.pt round1.pt round8.pt --imgsz 640 --to onnx,int8,openvino,ncnn

All networks run in one process, one thread, in interleaved rounds; each figure is the median over rounds of its share
of what the first network took in the same format in the same round, by the clock and of CPU time, which other programs
stretch less. INT8 is everything in INT8, its ranges those of noise: how well that detects is not asked here (`thinyolo
export --to int8` chooses by mAP). ``--operators`` adds where ONNX Runtime's time goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import models
from common.errors import run_cleanly
from common.log import log, show_log
from engine.config import parse_size
from export.formats import FORMATS
from export.latency import DeployedLatency, Latency, caller, time_calls
from export.machine import surroundings
from export.opening import open_model
from export.to_onnx import INPUT, onnx_model
from models.network import Network
from reporting.tables import short_names, table


def text(
    names: Sequence[str],
    networks: Sequence[Network],
    size: tuple[int, int],
    found: Mapping[str, Sequence[Latency]],
) -> str:
    """The table; `found` holds the time of each network by format."""
    whole = models.macs(networks[0], size)
    lines = []
    for place, (name, net) in enumerate(zip(names, networks, strict=True)):
        count = models.macs(net, size)
        times = (f"{each[place].ratio_to_first:.2f} ({each[place].cpu_ratio:.2f})" for each in found.values())
        lines.append([name, f"{models.parameters(net):,}", f"{count / 1e9:.3f}", f"{count / whole:.2f}", *times])
    heading = ["network", "parameters", "MACs (G)", "of MACs", *(f"{form} time (CPU)" for form in found)]
    return table(heading, lines, left=1)


def operators(net: Network, size: tuple[int, int], runs: int = 20) -> dict[str, tuple[int, float]]:
    """Operator of ONNX Runtime's optimised graph -> (how many nodes, ms of all of them).

    Of every node the least over the runs counts, by the clock.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = 1, 3, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        started = onnxruntime.InferenceSession(onnx_model(net, size), options, providers=["CPUExecutionProvider"])
        picture = np.random.default_rng(0).random((1, net.in_channels, *size), np.float32)
        for _ in range(runs):
            started.run(None, {INPUT: picture})
        events = json.loads(Path(started.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[tuple[str, str], float] = {}
    for event in events:
        if event["name"].endswith("kernel_time"):
            key = event["args"]["op_name"], event["name"]
            nodes[key] = min(nodes.get(key, np.inf), event["dur"] / 1e3)
    found: dict[str, tuple[int, float]] = {}
    for (kind, _), taken in nodes.items():
        count, ms = found.get(kind, (0, 0.0))
        found[kind] = count + 1, ms + taken
    return found


def operators_text(names: Sequence[str], networks: Sequence[Network], size: tuple[int, int]) -> str:
    """Milliseconds by operator, a column a network; the number of nodes in brackets."""
    found = [operators(net, size) for net in networks]
    kinds = sorted({kind for each in found for kind in each}, key=lambda kind: -found[0].get(kind, (0, 0.0))[1])
    cells = [[f"{each[kind][1]:.2f} ({each[kind][0]})" if kind in each else "-" for each in found] for kind in kinds]
    return table(["operator", *names], [[kind, *line] for kind, line in zip(kinds, cells)], left=1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="+", help="a .pt and its cuts; the first is what the others are compared with"
    )
    parser.add_argument("--to", default="onnx,int8", help="formats, as of thinyolo export (default: %(default)s)")
    parser.add_argument("--imgsz", default="", help="416, or WIDTHxHEIGHT; by default the first network's")
    parser.add_argument("--heads", default="auto", help="one-to-many or one-to-one, where a network has both")
    parser.add_argument("--rounds", type=int, default=30, help="of the times (default: %(default)s)")
    parser.add_argument("--operators", action="store_true", help="profile ONNX Runtime in FP32 too")
    args = parser.parse_args(argv)
    show_log()
    torch.set_num_threads(1)
    opened = [open_model(path, runtime="torch", heads=args.heads, device="cpu") for path in args.networks]
    networks = [net for net in opened if isinstance(net, Network)]
    size = parse_size(args.imgsz) if args.imgsz else networks[0].image_size
    forms, names = args.to.split(","), short_names(args.networks)
    calls = {}
    for form in forms:
        clock = DeployedLatency(size, FORMATS[form], threads=1)
        for name, net in zip(names, networks, strict=True):
            calls[form, name] = caller(clock.opened(net), size)
        log.info("%s: ready", form)
    # A format at a time: all runs together would put more than a cache between two rounds of the first network.
    found: dict[str, list[Latency]] = {}
    for form in forms:
        times = time_calls({name: calls[form, name] for name in names}, args.rounds, warm_up=3)
        found[form] = [times[name] for name in names]
    print(text(names, networks, size, found))
    firsts = ", ".join(f"{form} {each[0].median_ms:.1f} ms ({each[0].cpu_ms:.1f})" for form, each in found.items())
    print(
        f"a picture of {size[1]}x{size[0]}, one thread, {args.rounds} interleaved rounds, as shares of the first "
        f"network's time (CPU time) in the same format: {firsts}"
    )
    if args.operators:
        print("", operators_text(names, networks, size), "ms by operator in ONNX Runtime, FP32 (nodes)", sep="\n")
    print(surroundings(1))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
