"""How many CPU cores this process may use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Those it is bound to (taskset, a container's cpuset), where the system says; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
