"""What the CPU can do for this process: how many cores it may use, and which numbers they multiply fast."""

from __future__ import annotations

import logging
import os

from common.log import say_once


def available_cores() -> int:
    """Those it is bound to (taskset, a container's cpuset), where the system says; else all of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_threads(asked: int) -> int:
    """`asked` CPU threads (0: no wish), and no more than there are cores: above that they wait for each other, and a
    step takes twenty times as long. Where that is fewer, it is said once.
    """
    cores = available_cores()
    if asked > cores:
        say_once(logging.WARNING, "--threads %d: this process may use %d cores, and takes %d", asked, cores, cores)
    return min(asked, cores)


def bf16_units() -> bool:
    """Whether the CPU multiplies bf16 in hardware (AMX, AVX512-BF16): there a network takes about half of its FP32
    time in bf16, elsewhere it takes longer.
    """
    import torch  # the rest of this module is for a command line that has not loaded it yet

    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
