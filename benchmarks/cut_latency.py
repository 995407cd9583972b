"""What a cut saves in ONNX Runtime, in FP32 and in INT8, against the multiply-adds it saves: the table in
docs/results.md.

    python benchmarks/cut_latency.py fat.pt cut60.pt cut40.pt --data hand_gesture/data.yaml --imgsz 640

All networks run in one process, one thread, in interleaved rounds; each figure is the median over rounds of its share
of what the first network took in FP32 in the same round, by the clock and of CPU time, which other programs stretch
less. INT8 is everything in INT8, its ranges measured on some training pictures: how well that detects is not asked here
(`thinyolo export --to int8` chooses by mAP).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import data
import models
from common.errors import run_cleanly
from common.log import log, show_log
from engine.config import parse_size
from export.latency import Latency, time_calls
from export.machine import busy, processor
from export.opening import open_model
from export.quantise import CANDIDATES, Quantiser, calibration_pictures
from export.to_onnx import INPUT, need_onnx, onnx_model, session
from models.network import Network
from reporting.tables import short_names, table

EVERYTHING = next(each for each in CANDIDATES if not each.heads and each.ranges == "widest")


def text(
    names: Sequence[str], networks: Sequence[Network], size: tuple[int, int], found: Sequence[tuple[Latency, Latency]]
) -> str:
    """The table; `found` holds FP32's and INT8's time of each network."""
    whole = models.macs(networks[0], size)
    lines = []
    for name, net, (fp32, int8) in zip(names, networks, found, strict=True):
        count = models.macs(net, size)
        times = (f"{each.ratio_to_first:.2f} ({each.cpu_ratio:.2f})" for each in (fp32, int8))
        lines.append([name, f"{models.parameters(net):,}", f"{count / 1e9:.3f}", f"{count / whole:.2f}", *times])
    heading = ["network", "parameters", "MACs (G)", "of MACs", "FP32 time (CPU)", "INT8 time (CPU)"]
    return table(heading, lines, left=1)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="+", help="a .pt and its cuts; the first is what the others are compared with"
    )
    parser.add_argument("--data", required=True, help="the data set's yaml, or shapes: pictures for the ranges of INT8")
    parser.add_argument("--imgsz", default="", help="416, or WIDTHxHEIGHT; by default the first network's")
    parser.add_argument("--heads", default="auto", help="one-to-many or one-to-one, where a network has both")
    parser.add_argument("--calibrate", type=int, default=8, help="training pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="of the times (default: %(default)s)")
    args = parser.parse_args(argv)
    show_log()
    need_onnx()
    torch.set_num_threads(1)
    opened = [open_model(path, runtime="torch", heads=args.heads, device="cpu") for path in args.networks]
    networks = [net for net in opened if isinstance(net, Network)]
    size = parse_size(args.imgsz) if args.imgsz else networks[0].image_size
    pictures = calibration_pictures(data.load_spec(args.data), size, args.calibrate)
    calls = {}
    for path, net in zip(args.networks, networks, strict=True):
        trunk = onnx_model(net, size)
        for kind, content in (("fp32", trunk), ("int8", Quantiser(trunk, pictures)(EVERYTHING).SerializeToString())):
            calls[path, kind] = session(content, threads=1)
        log.info("%s: ready", path)
    runs = {f"{kind} {path}": _caller(each, pictures[0]) for (path, kind), each in calls.items()}
    times = time_calls(runs, args.rounds, warm_up=3)
    rows = [(times[f"fp32 {path}"], times[f"int8 {path}"]) for path in args.networks]
    print(text(short_names(args.networks), networks, size, rows))
    first = rows[0][0]
    print(
        f"a picture of {size[1]}x{size[0]}, one thread, {args.rounds} interleaved rounds, as shares of "
        f"{first.median_ms:.1f} ms ({first.cpu_ms:.1f} ms of CPU time)"
    )
    print("\n".join(filter(None, [f"{processor()}; ONNX Runtime {version('onnxruntime')}", busy(1)])))
    return 0


def _caller(started: Any, picture: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        started.run(None, {INPUT: picture})

    return run


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
