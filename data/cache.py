"""Decoded pictures kept at hand: in RAM or on disk, already shrunk to the network's size.

A cached picture equals a freshly decoded one byte for byte, so caching never changes a training.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np

from common.cores import available_cores
from common.errors import UserError
from common.files import whole_file
from common.log import log, say_once
from common.reading import read_bytes

Fetch = Callable[[int], np.ndarray]
"""Picture number -> (h, w, 3) uint8 RGB."""

RAM_SHARE = 0.8
"""At most this share of the free memory is filled with pictures; the rest is for the training itself."""


def cache_folder() -> Path:
    """Where ThinYOLO keeps what it can make again: $THINYOLO_CACHE, or `thinyolo` in the user's cache folder."""
    own = os.environ.get("THINYOLO_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "thinyolo"


def with_cache(kind: str | None, fetch: Fetch, keys: Sequence[str], sizes: Sequence[int]) -> Fetch:
    """`fetch`, remembered in the way `kind` says.

    Args:
        kind: None, "ram" (filled now, so that worker processes share the pages) or "disk" (filled on first use).
        fetch: decodes one picture.
        keys: for each picture a text that changes whenever its pixels would.
        sizes: for each picture its bytes, for the estimate.

    Raises:
        UserError: `kind` is none of these.
    """
    if kind in (None, "", "none"):
        return fetch
    if kind == "disk":
        return DiskCache(fetch, keys)
    if kind != "ram":
        raise UserError(f"cache must be ram or disk, not {kind!r}", todo="use --cache ram or --cache disk, or neither")
    needed, free = sum(sizes), free_memory()
    if free is not None and needed > RAM_SHARE * free:
        log.warning(
            "%d pictures need %.1f GB of RAM and %.1f GB are free: they are decoded each time (see --cache disk)",
            len(sizes),
            needed / 1e9,
            free / 1e9,
        )
        return fetch
    say_once(logging.INFO, "keeping %d pictures in RAM (%.2f GB)", len(sizes), needed / 1e9)
    return RamCache(fetch, len(keys))


class RamCache:
    """All pictures decoded at once, before workers are forked, so that they share the memory."""

    def __init__(self, fetch: Fetch, count: int):
        with ThreadPoolExecutor(max_workers=min(16, available_cores())) as pool:
            self.pictures = list(pool.map(fetch, range(count)))
        for picture in self.pictures:
            picture.flags.writeable = False

    def __call__(self, index: int) -> np.ndarray:
        return self.pictures[index]


class DiskCache:
    """One `.npy` a picture in the cache folder; half-written or damaged files are made again."""

    def __init__(self, fetch: Fetch, keys: Sequence[str]):
        self.fetch = fetch
        folder = cache_folder() / "pictures"
        self.files = [folder / f"{hashlib.sha1(key.encode(errors='surrogatepass')).hexdigest()}.npy" for key in keys]

    def __call__(self, index: int) -> np.ndarray:
        path = self.files[index]
        picture = _remembered(path)
        if picture is not None:
            return picture
        picture = self.fetch(index)
        todo = "free some space, set $THINYOLO_CACHE to another disk, or leave out --cache disk"
        with whole_file(path, todo) as temporary, open(temporary, "wb") as handle:
            np.save(handle, picture, allow_pickle=False)
            handle.write(_checksum(picture))
        return picture


def _remembered(path: Path) -> np.ndarray | None:
    """The picture in the file, if it is whole and not one bit of it has changed."""
    try:
        content = io.BytesIO(read_bytes(path))
        picture = np.load(content, allow_pickle=False)
        whole = content.read() == _checksum(picture)
    except Exception:  # whatever the header of a damaged file makes NumPy's parser stumble over
        return None
    return picture if whole and picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3 else None


def _checksum(picture: np.ndarray) -> bytes:
    """What follows the array in the file, of its shape and values; ``np.load`` does not look at it."""
    return zlib.crc32(picture.tobytes(), len(picture)).to_bytes(4, "big")


def free_memory() -> int | None:
    """Bytes this process may still take: the machine's free memory or the container's limit; None where unknown."""
    amounts = []
    with suppress(OSError, KeyError, ValueError), open("/proc/meminfo", encoding="ascii") as handle:
        fields = dict(line.split(":", 1) for line in handle)
        amounts.append(int(fields["MemAvailable"].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # absent, or "max": no limit
            amounts.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
    return min(amounts) if amounts else None
