"""``thinyolo latency``: how fast networks are, side by side, in a table that can be trusted."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.errors import UserError
from common.files import need_folder, whole_file
from common.log import log
from export.files import megabytes
from export.formats import CAN_RUN, RUNTIMES
from export.latency import Latency, caller, pictures_at_once, time_calls
from export.machine import surroundings
from export.memory import peak_memory
from export.opening import FILES, Opened, input_size, open_model
from export.two_ways import Command
from reporting.tables import short_names, table

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
  thinyolo latency fat.pt thin.pt --threads 1
  thinyolo latency export/fat.onnx export/thin.onnx export/thin-int8.onnx
  thinyolo latency fat.pt thin.pt --runtime torch,onnxruntime,openvino --imgsz 1280x800
  thinyolo latency thin.onnx thin.xml thin-int8.onnx --rounds 200 --json latency.json

Measure on the machine the network is for, with nothing else running on it. The time is that of the network up to what
its file puts out; reading pictures and NMS outside the file are not in it."""


@dataclass(frozen=True)
class Timed:
    """A row of the table.

    Attributes:
        name: the shortest name that tells the file from the others.
        path: the file.
        runtime: who ran it.
        size: (H, W) of the picture.
        file_mb: size of the file or files, MB.
        memory_mb: peak memory it adds, MB; None where it cannot be measured.
        latency: milliseconds a picture.
    """

    name: str
    path: str
    runtime: str
    size: tuple[int, int]
    file_mb: float
    memory_mb: float | None
    latency: Latency


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    what = parser.add_argument_group("what is measured")
    what.add_argument("models", nargs="+", metavar="MODEL", help=f"{FILES}; the others are compared with the first")
    what.add_argument("--cfg", default="", metavar="FILE", help="the cfg of a .weights file, or its name")
    what.add_argument(
        "--runtime",
        default="auto",
        metavar="R,...",
        help=f"who runs them, several for a row each: {', '.join(RUNTIMES)}. A .pt is exported in memory for a runtime "
        "other than torch. (default: auto: torch for .pt, onnxruntime for .onnx, openvino for .xml)",
    )
    what.add_argument("--imgsz", default="", metavar="SIZE", help="416, or WIDTHxHEIGHT (default: each network's own)")
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: one a core)")
    how.add_argument(
        "--rounds", type=int, default=50, metavar="N", help="runs of each network: more narrow the median (default: 50)"
    )
    how.add_argument("--warm-up", type=int, default=5, metavar="N", help="runs before them, not counted (default: 5)")
    how.add_argument("--device", default="cpu", metavar="D", help="of PyTorch: cpu or cuda (default: cpu)")
    how.add_argument("--no-memory", action="store_true", help="do not measure memory, which starts a process each")
    how.add_argument("--json", metavar="FILE", help="also write the numbers here")


def run(options: argparse.Namespace) -> int:
    """The command."""
    for name in ("rounds", "warm_up"):
        if getattr(options, name) < (name == "rounds"):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {getattr(options, name)} is too few", todo="50 rounds, 5 to warm up")
    if options.threads < 0:
        raise UserError(f"--threads {options.threads} is below 0", todo="--threads 1")
    if options.json:
        need_folder(Path(options.json).parent, "--json")
        if Path(options.json).is_dir():
            raise UserError(f"--json {options.json} is a folder", todo="name a file: --json latency.json")
    threads = options.threads or torch.get_num_threads()
    opened = list(_open(options, threads))
    torch.set_num_threads(threads)
    print(surroundings(threads))
    calls = {str(number): caller(net, size) for number, (_, _, net, size) in enumerate(opened)}
    at_once = {str(number): pictures_at_once(net) for number, (_, _, net, _) in enumerate(opened)}
    times = time_calls(calls, options.rounds, options.warm_up, at_once)
    names = short_names([path for path, _, _, _ in opened])
    rows = []
    for number, (path, runtime, _, size) in enumerate(opened):
        memory = None if options.no_memory else peak_memory(path, options.cfg, runtime, size, threads)
        rows.append(Timed(names[number], path, runtime, size, megabytes(path), memory, times[str(number)]))
    print(text_table(rows))
    if options.json:
        record = {"machine": surroundings(threads), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        with whole_file(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(f"written to {options.json}")
    return 0


def _open(options: argparse.Namespace, threads: int) -> list[tuple[str, str, Opened, tuple[int, int]]]:
    """(file, runtime, network, (H, W)) of every row."""
    asked = [part.strip() for part in options.runtime.split(",") if part.strip()] or ["auto"]
    for runtime in asked:
        if runtime not in ("auto", *RUNTIMES):
            raise UserError(f"--runtime {runtime} is none of auto, {', '.join(RUNTIMES)}", todo="--runtime onnxruntime")
    found = []
    for path in options.models:
        able = CAN_RUN.get(Path(path).suffix, ("auto",))
        plain = open_model(path, options.cfg, "auto", threads=threads, device=options.device)
        size = input_size(options.imgsz, plain)
        for runtime in asked:
            runtime = able[0] if runtime == "auto" else runtime
            if runtime not in able and len(asked) > 1:
                log.warning("%s is not run by %s: left out", path, runtime)
                continue
            net = plain
            if runtime not in ("auto", able[0]):
                net = open_model(path, options.cfg, runtime, size=size, threads=threads, device=options.device)
            found.append((str(path), runtime, net, size))
    if not found:
        raise UserError(f"none of the files is run by {options.runtime}", todo="leave --runtime out")
    return found


def text_table(rows: Sequence[Timed]) -> str:
    """The rows for the terminal."""
    lines = []
    for row in rows:
        lines.append(
            [
                row.name,
                row.runtime,
                f"{row.size[1]}x{row.size[0]}",
                f"{row.file_mb:.2f}",
                "-" if row.memory_mb is None else f"{row.memory_mb:.0f}",
                f"{row.latency.median_ms:.2f}",
                f"{row.latency.low:.2f} - {row.latency.high:.2f}",
                f"{row.latency.ratio_to_first:.2f}",
                f"{row.latency.cpu_ms:.2f}",
                f"{row.latency.cpu_ratio:.2f}",
            ]
        )
    heading = [
        "network",
        "runtime",
        "input",
        "file MB",
        "memory MB",
        "median ms",
        "quartiles ms",
        "ratio",
        "CPU ms",
        "CPU ratio",
    ]
    return table(heading, lines, left=2)


COMMAND = Command(
    "reporting.latency_table",
    "latency",
    "how fast networks are, side by side",
    DESCRIPTION,
    EPILOG,
    add_arguments,
    run,
)


if __name__ == "__main__":
    raise SystemExit(COMMAND.main())
