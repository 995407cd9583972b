"""What is in the files of a data set, told by short digests: a run that goes on knows its pictures and labels again."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from common.reading import MOST_TEXT, is_file
from data.spec import find_label

BLOCK = 4096
WHOLE = 256 * 2**20
"""Bytes: pictures that are no more than this together are read whole; of others their first, middle and last block."""
_THREADS, PART = 8, 1000  # the disk is what is waited for; the files one thread takes at once

_read: dict[tuple[Path, bool], tuple[tuple[int, ...], bytes]] = {}
"""What this process has read, by path and whether all of it -> what changes with the file, and the digest."""


def pictures_digest(pictures: Sequence[Path]) -> str:
    """Of the pictures' contents, in their order; a picture that cannot be read counts as such.

    Of a compressed picture the last block changes with any pixel. In one of raw pixels that is larger than `BLOCK` and
    in a split larger than `WHOLE`, a change between the blocks that are read is not seen.
    """
    sizes = [status.st_size if (status := _status(path)) else 0 for path in pictures]
    return _combined(pictures, partial(_digest, whole=sum(sizes) <= WHOLE))


def labels_digest(pictures: Sequence[Path]) -> str:
    """Of the pictures' label files; spaces, line ends and empty lines do not count."""
    return _combined(pictures, _label_digest)


def last_changed(pictures: Sequence[Path], labels: bool = False) -> str:
    """Which of the files was written last, and when, for a message; "" where there is none."""
    files = [found for path in pictures if (found := find_label(path) if labels else path)]
    times = [(status.st_ctime, path) for path in files if (status := _status(path))]
    if not times:
        return ""
    when, path = max(times)
    return f"{path}, {time.strftime('%F %T', time.localtime(when))}"


def _combined(pictures: Sequence[Path], digest: Callable[[Path], bytes]) -> str:
    parts = [pictures[start : start + PART] for start in range(0, len(pictures), PART)]
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda part: b"".join(map(digest, part)), parts)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def _digest(path: Path, whole: bool) -> bytes:
    """Of one picture; read once by a process, for a run of several stages asks again and again."""
    status = _status(path)
    if status is None or not stat.S_ISREG(status.st_mode):
        return b"absent"
    stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    known = _read.get((path, whole))
    if known and known[0] == stamp:
        return known[1]
    found = hashlib.blake2b(str(status.st_size).encode(), digest_size=16)
    try:
        with open(path, "rb", buffering=0) as handle:
            if whole or status.st_size <= 3 * BLOCK:
                found.update(handle.read())
            else:
                for place in (0, status.st_size // 2, status.st_size - BLOCK):
                    handle.seek(place)
                    found.update(handle.read(BLOCK))
    except OSError:
        return b"unreadable"
    _read[path, whole] = stamp, found.digest()
    return found.digest()


def _label_digest(picture: Path) -> bytes:
    path = find_label(picture)
    if path is None or not is_file(path):
        return b"absent"
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MOST_TEXT)
    except OSError:
        return b"unreadable"
    lines = [b" ".join(line.split()) for line in raw.splitlines()]
    return hashlib.blake2b(b"\n".join(filter(None, lines)), digest_size=16).digest()
