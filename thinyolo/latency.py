"""`thinyolo latency`."""

from __future__ import annotations

from collections.abc import Callable

from common.command_line import Command
from reporting.options import LatencyOptions

DESCRIPTION = """\
Measure how long networks take for one picture, side by side.

All of them run in this one process, in interleaved rounds: each round runs every network once, in an order drawn anew,
so that a machine that slows down for a while slows all of them. Every runtime gets the
same fixed number of threads. Told are the median, the quartiles, and the ratio to the first network (the median over
rounds of the ratio within a round: .5 is twice as fast); beside them the CPU time of all threads and its ratio, which
other programs stretch least. Memory is measured in a process for each network, as what loading it and running it
adds."""

EPILOG = """\
examples:
  %(prog)s fat.pt thin.pt --threads 1
  %(prog)s export/fat.onnx export/thin.onnx export/thin-int8.onnx
  %(prog)s fat.pt thin.pt --runtime torch,onnxruntime,openvino --imgsz 1280x800
  %(prog)s thin.onnx thin.xml thin-int8.onnx --rounds 200 --json latency.json

Measure on the machine the network is for, with nothing else running on it. The time is that of the network up to what
its file puts out; reading pictures and NMS outside the file are not in it."""


def _load() -> Callable[[LatencyOptions], None]:
    from reporting.latency_table import latency

    return latency


LATENCY = Command(
    "latency",
    "how fast networks are, side by side",
    LatencyOptions,
    _load,
    description=DESCRIPTION,
    epilog=EPILOG,
)
