"""The machine that measures: its name, what runs on it beside this program, the packages that count."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from export.formats import PROGRAMS

BUSY = 0.5
"""Processes beside this program's own threads that want to run: above this, others are told of."""


def surroundings(threads: int) -> str:
    """What the numbers depend on, in two lines; a warning where the machine is busy."""
    packages = [f"torch {torch.__version__}"]
    for name in (program.package for program in PROGRAMS.values()):
        try:
            packages.append(f"{name} {__import__(name).__version__.split('-')[0]}")
        except ImportError:
            continue
    words = "1 thread" if threads == 1 else f"{threads} threads"
    return "\n".join(filter(None, [f"{processor()}, {words}; {', '.join(packages)}", busy(threads)]))


def busy(threads: int) -> str:
    """A warning where more wants to run than `threads`, which this program itself may have kept busy; else nothing."""
    load = load_average()
    if load is None or load < threads + BUSY:
        return ""
    return (
        f"load average {load:.1f} with {threads} of this program's own: other programs seem to run, and what is by the "
        "clock waited for them; see CPU time"
    )


def load_average() -> float | None:
    """Processes that wanted to run in the last minute; None where the system does not tell."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """Its name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
