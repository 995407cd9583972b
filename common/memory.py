"""Memory that tensors free stays with the process, not given back to the system and asked for again; and a collector
that rests while many objects are made."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

# mallopt's numbers (malloc.h), and the variables by which a user decides the same.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_OF_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_OWN_PAGES = 1 << 30
"""Blocks of so many bytes still have pages of their own, which go back as soon as they are freed."""
_OLD_LIMIT = 32 << 20  # older versions of glibc take no higher threshold
_KEPT = (1 << 31) - 1


@lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Let glibc reuse large blocks; whether it does. Elsewhere, and where the user has set it otherwise, nothing.

    By default every block above 32 MB, and in time every one of a feature map's size, is mapped anew: the kernel
    zeroes its pages again for each tensor, which takes a quarter of a small network's forward pass. No number that is
    computed depends on it. Processes that are forked later keep it too.
    """
    if any(os.environ.get(name) for name in _OF_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 - other C libraries have a mallopt with other numbers
    except (OSError, AttributeError, TypeError):
        return False
    mapped = mallopt(_MMAP_THRESHOLD, _OWN_PAGES) or mallopt(_MMAP_THRESHOLD, _OLD_LIMIT)
    return bool(mapped and mallopt(_TRIM_THRESHOLD, _KEPT))


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles, for work that makes very many objects and none in cycles."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()
