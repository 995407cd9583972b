"""``thinyolo latency``: how fast networks are, side by side, in a table that can be trusted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from common.cores import usable_threads
from common.errors import UserError
from common.files import need_folder, whole_file
from common.log import log
from export.files import megabytes
from export.formats import CAN_RUN
from export.latency import Latency, caller, pictures_at_once, time_calls
from export.machine import surroundings
from export.memory import peak_memory
from export.opening import Opened, chosen_network, input_size, open_model
from reporting.options import LatencyOptions
from reporting.tables import short_names, table


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


def latency(options: LatencyOptions) -> None:
    """Measure, print the table, write it."""
    if options.json:
        need_folder(Path(options.json).parent, "--json")
        if Path(options.json).is_dir():
            raise UserError(f"--json {options.json} is a folder", todo="name a file: --json latency.json")
    threads = usable_threads(options.threads) or torch.get_num_threads()
    opened = list(_open(options, threads))
    torch.set_num_threads(threads)
    print(surroundings(threads))
    calls = {str(number): caller(net, size) for number, (_, _, net, size) in enumerate(opened)}
    at_once = {str(number): pictures_at_once(net) for number, (_, _, net, _) in enumerate(opened)}
    times = time_calls(calls, options.rounds, options.warm_up, at_once)
    names = short_names([path for path, _, _, _ in opened])
    rows = []
    for number, (path, runtime, _, size) in enumerate(opened):
        memory = peak_memory(path, options.cfg, runtime, size, threads) if options.memory else None
        rows.append(Timed(names[number], path, runtime, size, megabytes(path), memory, times[str(number)]))
    print(text_table(rows))
    if options.json:
        record = {"machine": surroundings(threads), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        with whole_file(options.json) as temporary:
            temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        print(f"written to {options.json}")


def _open(options: LatencyOptions, threads: int) -> list[tuple[str, str, Opened, tuple[int, int]]]:
    """(file, runtime, network, (H, W)) of every row."""
    found = []
    for path in map(chosen_network, options.models):
        able = CAN_RUN.get(Path(path).suffix, ("auto",))
        plain = open_model(path, options.cfg, "auto", threads=threads, device=options.device)
        size = input_size(options.imgsz, plain)
        for runtime in options.runtimes:
            runtime = able[0] if runtime == "auto" else runtime
            if runtime not in able and len(options.runtimes) > 1:
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
