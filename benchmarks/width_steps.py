"""Time of a convolution against its channels, by runtime: which widths are worth keeping (a table in docs/results.md).

    python benchmarks/width_steps.py
    python benchmarks/width_steps.py --runtimes onnx,int8 --kernels 3 --widths 24,28,30,31,32 --side 80

A convolution of c to c channels stands in a chain with others like it, each with a ReLU, as in a network: its time is
that of a long chain minus that of a short one, by what the long one has more of. So neither the call of the runtime
nor what reorders channels at both ends counts. One thread; rounds are interleaved over all widths, and of every chain
the least CPU time counts: other programs on the core stretch a round, and never shorten it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import run_cleanly
from export.machine import surroundings
from export.quantise import EVERYTHING, Quantiser
from export.to_ncnn import need_ncnn
from export.to_onnx import INPUT, session
from export.to_openvino import started as in_openvino
from reporting.tables import table

WIDTHS = "4,6,8,10,12,14,16,20,24,28,30,32,36,40,44,48,56,60,62,63,64,72,80,88,96,104,112,120,124,126,128"
SHORT, LONG = 2, 6
STEPS = (2, 4, 8, 16)


def filters(width: int, kernel: int) -> np.ndarray:
    """``(c, c, k, k)``: values that neither vanish nor grow along the chain."""
    shape = (width, width, kernel, kernel)
    return (np.random.default_rng(0).standard_normal(shape) / (width**0.5 * kernel)).astype(np.float32)


def chain(width: int, kernel: int, length: int, side: int) -> bytes:
    """`length` convolutions of `width` to `width` channels, each with a ReLU, as an ONNX model."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    shape = [1, width, side, side]
    nodes, tensors, last = [], [], INPUT
    for number in range(length):
        weight, made, out = f"weight{number}", f"conv{number}", f"relu{number}"
        tensors.append(numpy_helper.from_array(filters(width, kernel), weight))
        nodes.append(helper.make_node("Conv", [last, weight], [made], made, pads=[kernel // 2] * 4))
        nodes.append(helper.make_node("Relu", [made], [out], out))
        last = out
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in (INPUT, last)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], tensors)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=min(onnx.IR_VERSION, 10)
    ).SerializeToString()


def in_ncnn(width: int, kernel: int, length: int, picture: np.ndarray) -> Callable[[], Any]:
    """The same chain in ncnn, computing in FP32 as `export.to_ncnn` opens it."""
    ncnn, _ = need_ncnn()
    weights = filters(width, kernel)
    layers = [f"Input {INPUT} 0 1 {INPUT}"]
    last = INPUT
    for number in range(length):
        sizes = f"0={width} 1={kernel} 4={kernel // 2} 6={weights.size} 9=1"  # 9=1: ReLU
        layers.append(f"Convolution conv{number} 1 1 {last} out{number} {sizes}")
        last = f"out{number}"
    net = ncnn.Net()
    net.opt.num_threads = 1
    for way in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
        setattr(net.opt, f"use_{way}", False)
    with tempfile.TemporaryDirectory() as folder:
        param, binary = Path(folder) / "chain.param", Path(folder) / "chain.bin"
        param.write_text("\n".join(["7767517", f"{len(layers)} {len(layers)}", *layers, ""]))
        binary.write_bytes((bytes(4) + weights.tobytes()) * length)  # four zeros: FP32
        assert not net.load_param(str(param))
        assert not net.load_model(str(binary))
    given = np.ascontiguousarray(picture[0])  # a Mat lies in it, and does not keep it

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(given))
        status, output = extractor.extract(last)
        assert not status
        return np.array(output)  # what it lies in goes with the extractor

    return run


def call(runtime: str, width: int, kernel: int, length: int, side: int) -> Callable[[], Any]:
    """A run of the chain in a runtime; gives what the runtime gives."""
    picture = np.random.default_rng(1).random((1, width, side, side), np.float32)
    if runtime == "ncnn":
        return in_ncnn(width, kernel, length, picture)
    model = chain(width, kernel, length, side)
    if runtime == "openvino":
        run = in_openvino(model, 1)
        return lambda: run(picture)
    if runtime == "opencv":
        import cv2

        cv2.setNumThreads(1)
        net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        net.enableWinograd(False)  # as `export.opencv` runs it

        def run_opencv() -> Any:
            net.setInput(picture)
            return net.forward()

        return run_opencv
    if runtime == "int8":
        model = Quantiser(model, [picture])(EVERYTHING).SerializeToString()
    started = session(model, 1)
    return lambda: started.run(None, {INPUT: picture})


def least(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """The least milliseconds of CPU time of every call over interleaved rounds."""
    found = dict.fromkeys(calls, np.inf)
    keys, order = list(calls), np.random.default_rng(0)
    for run in calls.values():
        run()
    for _ in range(rounds):
        for place in order.permutation(len(keys)):
            before = time.process_time()
            calls[keys[place]]()
            found[keys[place]] = min(found[keys[place]], (time.process_time() - before) * 1e3)
    return found


def measured(runtimes: Sequence[str], kernel: int, widths: Sequence[int], side: int, rounds: int) -> dict[Any, float]:
    """(runtime, width) -> microseconds of one convolution."""
    times = {}
    for runtime in runtimes:
        calls = {
            (width, length): call(runtime, width, kernel, length, side) for width in widths for length in (SHORT, LONG)
        }
        found = least(calls, rounds)
        for width in widths:
            taken = (found[width, LONG] - found[width, SHORT]) / (LONG - SHORT) * 1e3
            times[runtime, width] = max(taken, 1e-3)
    return times


def speeds(runtimes: Sequence[str], times: dict[Any, float], kernel: int, widths: Sequence[int], side: int) -> str:
    """A row a width: microseconds, and multiply-adds a nanosecond."""
    rows = []
    for width in widths:
        macs = (width * kernel * side) ** 2
        cells = [(times[runtime, width], macs / times[runtime, width] / 1e3) for runtime in runtimes]
        rows.append([str(width), *(f"{taken:.0f} ({speed:.1f})" for taken, speed in cells)])
    return table([f"{kernel}x{kernel}", *runtimes], rows, left=0)


def losses(runtimes: Sequence[str], times: dict[Any, float], widths: Sequence[int]) -> str:
    """What widths cost beside the next wider multiple of 16, by what divides them: 1.2 is a fifth more than that."""
    rows = []
    for name, chosen in _classes(widths).items():
        cells = []
        for runtime in runtimes:
            shares = [times[runtime, width] / times[runtime, -(-width // 16) * 16] for width in chosen]
            cells.append(f"{np.median(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})" if shares else "-")
        rows.append([name, *cells])
    return table(["width, beside the next multiple of 16", *runtimes], rows, left=1)


def _classes(widths: Sequence[int]) -> dict[str, list[int]]:
    """Widths from 12 on that a step divides and no greater one does; their multiple of 16 has to be measured too."""
    found: dict[str, list[int]] = {"odd": [], **{f"{step} x odd": [] for step in STEPS[:-1]}}
    for width in widths:
        if width >= 12 and width % 16 and -(-width // 16) * 16 in widths:
            step = max([each for each in STEPS if width % each == 0], default=1)
            found["odd" if step == 1 else f"{step} x odd"].append(width)
    return {name: chosen for name, chosen in found.items() if chosen}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", default="onnx,int8,openvino,ncnn", help="also opencv (default: %(default)s)")
    parser.add_argument("--widths", default=WIDTHS, help="channels (default: %(default)s)")
    parser.add_argument("--kernels", default="1,3", help="(default: %(default)s)")
    parser.add_argument("--side", type=int, default=40, help="height and width of the maps (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=30, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    runtimes = args.runtimes.split(",")
    widths, kernels = ([int(part) for part in text.split(",")] for text in (args.widths, args.kernels))
    for kernel in kernels:
        times = measured(runtimes, kernel, widths, args.side, args.rounds)
        print(speeds(runtimes, times, kernel, widths, args.side), losses(runtimes, times, widths), "", sep="\n\n")
    print(
        f"microseconds of CPU time of one convolution on maps of {args.side}x{args.side}, and multiply-adds a "
        f"nanosecond; one thread, least of {args.rounds} interleaved rounds"
    )
    print(surroundings(1))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
