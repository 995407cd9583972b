"""What each INT8 setting costs in mAP and saves in time: the table in docs/export.md.

    python benchmarks/int8.py --weights runs/train_prune/bccd/baseline/weights/best.pt --data bccd.yaml

Every setting quantises the same network and is scored on val, once for every number of calibration pictures; how far
the columns of a row lie apart says how much of a difference between rows is chance. The candidates of
`thinyolo export` are numbered.

Time is the CPU time of this process in one thread, in interleaved rounds, as a share of what FP32 took in the same
round; other programs stretch it less than time by the clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import data
import models
from common.errors import UserError, run_cleanly
from common.log import log, show_log
from engine.evaluate import evaluate
from export.description import describe
from export.machine import busy, processor
from export.opening import input_size
from export.quantise import CANDIDATES, RANGES, SLOW, Candidate, Quantiser, calibration_pictures
from export.runtimes import Runtime
from export.to_onnx import INPUT, need_onnx, onnx_model, session
from reporting.tables import table

NO_HEADS = next(each for each in CANDIDATES if each.heads and not each.first and each.ranges == "widest")


@dataclass(frozen=True)
class Setting:
    """A row: `activations`, `inside` (what is INT8) and `ranges` in words, and how it is made.

    Attributes:
        candidate: what stays in FP32.
        other: arguments of ONNX Runtime's `quantize_static` in place of ours.
    """

    activations: str
    inside: str
    ranges: str
    candidate: Candidate
    other: dict[str, Any] = field(default_factory=dict)


def settings() -> list[Setting]:
    """All rows; ONNX Runtime's types are imported late, that its absence can be told."""
    from onnxruntime.quantization import QuantType

    signed = {"activation_type": QuantType.QInt8, "extra_options": {"ActivationSymmetric": True}}
    return [
        *(
            Setting("uint8", each.inside, f"{RANGES[each.ranges]} ({place})", each)
            for place, each in enumerate((*CANDIDATES, *SLOW), 1)
        ),
        Setting("int8, symmetric", NO_HEADS.inside, RANGES["widest"], NO_HEADS, signed),
        Setting(
            "uint8", "only convolutions, but the heads'", RANGES["widest"], NO_HEADS, {"op_types_to_quantize": ["Conv"]}
        ),
    ]


def cpu_shares(models_by_row: Sequence[bytes], picture: np.ndarray, rounds: int) -> tuple[float, np.ndarray]:
    """(milliseconds of the first, the others' shares of it): medians over rounds of CPU time, one thread."""
    calls = [session(content, threads=1) for content in models_by_row]
    times, order = np.zeros((rounds, len(calls))), np.random.default_rng(0)
    for number in range(-3, rounds):  # three to warm up
        for place in order.permutation(len(calls)):
            start = time.process_time()
            calls[place].run(None, {INPUT: picture})
            if number >= 0:
                times[number, place] = (time.process_time() - start) * 1e3
    return float(np.median(times[:, 0])), np.median(times[:, 1:] / times[:, :1], axis=0)


def text(rows: Sequence[Setting], counts: Sequence[int], before: float, scores: np.ndarray, shares: np.ndarray) -> str:
    """The table; `scores` is (rows, counts)."""
    lines = [["FP32", "", "", *[f"{before:.4f}"] * len(counts), "1.00"]]
    for row, found, share in zip(rows, scores, shares):
        shown = (f"{value:.4f}" for value in found)
        lines.append([row.activations, row.inside, row.ranges, *shown, f"{share:.2f}"])
    heading = [f"mAP50-95 ({count})" for count in counts]
    return table(["activations", "in INT8", "ranges", *heading, "CPU time"], lines, left=3)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a trained network, a .pt")
    parser.add_argument("--data", required=True, help="the data set's yaml, or shapes")
    parser.add_argument("--imgsz", default="", help="416, or WIDTHxHEIGHT; by default the cfg's")
    parser.add_argument("--calibrate", default="32,128", help="numbers of training pictures (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="of the CPU times (default: %(default)s)")
    args = parser.parse_args(argv)
    show_log()
    need_onnx()
    try:
        counts = sorted({int(part) for part in args.calibrate.split(",")})
    except ValueError as error:
        raise UserError(f"--calibrate {args.calibrate}: these are no numbers", todo="--calibrate 32,128") from error
    if counts[0] < 1 or args.rounds < 1:
        raise UserError("--calibrate and --rounds have to be at least 1", todo="leave them out")
    torch.set_num_threads(1)
    net, spec = models.load(args.weights).eval(), data.load_spec(args.data)
    size = input_size(args.imgsz, net)
    trunk = onnx_model(net, size)
    val = data.Dataset(spec, "val", size, cache="ram")

    def score(content: bytes) -> float:
        started = session(content, threads=1)
        runtime = Runtime(describe(net, size), lambda images: started.run(None, {INPUT: images}), "onnxruntime", "")
        return evaluate(runtime, spec, "val", size, dataset=val).map50_95

    rows, before = settings(), score(trunk)
    scores = np.zeros((len(rows), len(counts)))
    made: list[bytes] = []
    pictures = calibration_pictures(spec, size, counts[-1])
    for column, count in enumerate(counts):
        quantiser = Quantiser(trunk, pictures[:count])
        made = [quantiser(row.candidate, **row.other).SerializeToString() for row in rows]
        scores[:, column] = [score(content) for content in made]
        log.info("%d pictures: done", count)
    milliseconds, shares = cpu_shares([trunk, *made], pictures[0], args.rounds)
    print(text(rows, counts, before, scores, shares))
    apart = np.ptp(scores, axis=1)
    print(f"mAP50-95 on {len(val)} val pictures at {size[1]}x{size[0]}, by how many pictures calibrated")
    if len(counts) > 1:
        print(f"the columns of a row differ by up to {apart.max():.4f}, by {np.median(apart):.4f} in the median")
    print(
        f"CPU time: a picture, one thread, median of {args.rounds} interleaved rounds, as a share of FP32's "
        f"{milliseconds:.1f} ms"
    )
    print("\n".join(filter(None, [f"{processor()}; ONNX Runtime {version('onnxruntime')}", busy(1)])))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
