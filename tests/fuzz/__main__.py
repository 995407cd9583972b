"""``python -m tests.fuzz --minutes 30 [--reader labels]``: readers get damaged files, in processes of their own.

A process that dies or hangs is a finding too: its case is named and the next ones go on in another. Every finding names
reader and case; ``--reader NAME --case N`` runs that one again, in this process.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.fuzz import readers, run_case

PATIENCE = 30.0
"""Seconds that a case may take before its process is ended."""
STARTING = 300.0
"""Seconds for a process to start: on a machine with much other work importing torch alone takes a minute."""
SLICE = 60.0
"""Seconds that a reader gets before the next one's turn."""
READY = "ready"


def child(name: str, start: int, seconds: float) -> None:
    """Run cases from number `start` on for so long; say each before it begins, and what is wrong with it."""
    logging.disable()
    reader = readers()[name]
    with tempfile.TemporaryDirectory(prefix="thinyolo-fuzz-") as folder:
        os.environ["THINYOLO_CACHE"] = str(Path(folder) / "cache")
        run_case(name, reader, start, Path(folder) / "case", warm=False)  # imports what the reader needs
        print(READY, flush=True)
        case, stop_at = start, time.time() + seconds
        while case == start or time.time() < stop_at:
            print(f"case {case}", flush=True)
            if wrong := run_case(name, reader, case, Path(folder) / "case"):
                print(f"wrong {case} {wrong}", flush=True)
            case += 1


def turn(name: str, start: int, seconds: float) -> tuple[int, list[str]]:
    """One process's cases: the number after the last one, and the findings."""
    command = [sys.executable, "-m", "tests.fuzz", "--reader", name, "--child", str(start), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    lines: queue.Queue[str] = queue.Queue()
    output = process.stdout
    threading.Thread(target=lambda: [lines.put(line) for line in output] + [lines.put("")], daemon=True).start()
    last, findings, patience = start - 1, [], STARTING
    while True:
        used = _cpu_seconds(process.pid)
        try:
            line = lines.get(timeout=patience)
        except queue.Empty:
            if _is_running(process.pid) and 0 < _cpu_seconds(process.pid) - used < patience / 3:
                continue  # it computes, and others have the core
            findings.append(f"{name} {last}: no end after {patience:.0f} s")
            break
        patience = PATIENCE
        if line.strip() == READY:
            continue
        if not line:
            if process.wait():
                findings.append(f"{name} {last}: the process ended with status {process.returncode}")
            break
        word, number, *rest = line.split(maxsplit=2)
        if word == "case":
            last = int(number)
        elif word == "wrong":
            findings.append(f"{name} {number}: {rest[0].strip()}")
    process.kill()
    process.wait()
    return last + 1, findings


def _stat(process: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none where there is no such file."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _is_running(process: int) -> bool:
    return _stat(process)[:1] == ["R"]


def _cpu_seconds(process: int) -> float:
    return sum(map(int, _stat(process)[11:13])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long in all")
    parser.add_argument("--reader", action="append", help=f"only these: {', '.join(readers())}")
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case only, here, its files kept")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.reader or list(readers())
    if options.child:
        child(names[0], int(options.child[0]), float(options.child[1]))
        return 0
    if options.case is not None:
        folder = Path(tempfile.mkdtemp(prefix="thinyolo-fuzz-"))
        wrong = run_case(names[0], readers()[names[0]], options.case, folder / "case", warm=False)
        print(wrong or "nothing wrong")
        return bool(wrong)
    stop_at, following, counts = time.time() + 60 * options.minutes, dict.fromkeys(names, options.seed), Counter()
    findings: list[str] = []
    with suppress(KeyboardInterrupt):  # the turns that are over count
        while time.time() < stop_at:
            for name in names:
                left = min(SLICE, stop_at - time.time())
                if left > 0:
                    begun = following[name]
                    following[name], found = turn(name, begun, left)
                    counts[name] += following[name] - begun
                    findings += found
                    for text in found:
                        print(text, flush=True)
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"{counts.total():,} cases, {len(findings)} findings")
    return bool(findings)


if __name__ == "__main__":
    raise SystemExit(main())
