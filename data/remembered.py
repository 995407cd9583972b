"""What was found out about files, kept in the user's cache folder until the files change.

A file counts as unchanged while its size, both its times and its inode are what they were. One that was written within
the last moments is never taken for known: a second change could leave the same times. What is kept is numbers and bytes
only, with checksums; whatever is damaged, or of another version, is as good as none.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import UserError
from common.files import whole_file
from common.log import log
from common.reading import read_bytes
from data.cache import cache_folder

YOUNG = 2 * 10**9
"""Nanoseconds: the coarsest times that file systems write."""
STAMP = np.dtype((np.int64, (4,)))
"""Size, time of change of the content and of the file, inode. Of what is no ordinary file the size is -1; of one that
is too young to be known again the inode is negative."""

_NO_FILE = (-1, 0, 0, -1)

SIZE = 16
"""Bytes of a digest of a file."""
THREADS, PART = 8, 1000
"""Threads where the disk is what is waited for; the files that one takes at once."""
Answer = TypeVar("Answer")

_unwritten: dict[Path, tuple[np.ndarray, bytes]] = {}
"""What cannot be written, where nobody may write: known to this process only."""


def stamps_of(paths: Sequence[str | Path]) -> np.ndarray:
    """``(n, 4)`` int64, see `STAMP`; they are to be taken before the files are read."""
    young = time.time_ns() - YOUNG
    found: list[int] = []
    for path in paths:
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            found += _NO_FILE
            continue
        if stat.S_ISREG(status.st_mode):
            found += (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & 2**63 - 1)
        else:
            found += _NO_FILE
    stamps = np.array(found, np.int64).reshape(-1, 4)
    too_young = (stamps[:, 0] >= 0) & (stamps[:, 1:3].max(axis=1, initial=0) > young)
    stamps[too_young, 3] = ~stamps[too_young, 3]
    return stamps


def is_file(stamps: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: whether they are of ordinary files."""
    return np.asarray(stamps[:, 0] >= 0)


def asked(
    ask: Callable[[int], Answer], places: Sequence[int], threads: int = THREADS, part: int = PART
) -> Iterator[tuple[int, Answer]]:
    """Each place with what `ask` says of it, by several threads, in the order of places."""
    parts = [places[start : start + part] for start in range(0, len(places), part)]
    with ThreadPoolExecutor(threads) as pool:
        for mine, answers in zip(parts, pool.map(lambda part: [ask(place) for place in part], parts), strict=True):
            yield from zip(mine, answers, strict=True)


class Memory:
    """A row for each of some files, in their order, and bytes that belong to all rows.

    Args:
        kind: what is known of the files, and in which version of it.
        paths: the files.
        columns: the fields of a row beside its stamp.
        stamps: the files', where they are known already.

    Attributes:
        rows: ``(n,)`` structured array; those of `fresh` tell of the files as they are.
        more: bytes, of the rows as they were read.
        fresh: ``(n,)`` bool.
        stamps: ``(n, 4)``, of now.
    """

    def __init__(
        self,
        kind: str,
        paths: Sequence[str | Path],
        columns: Sequence[tuple[object, ...]],
        stamps: np.ndarray | None = None,
    ):
        self.dtype = np.dtype([("stamp", STAMP), *columns])
        text = "\n".join([kind, *map(str, paths)])  # a name need not be UTF-8
        self.path = cache_folder() / "checked" / f"{hashlib.sha1(text.encode(errors='surrogatepass')).hexdigest()}.npz"
        self.stamps = stamps_of(paths) if stamps is None else stamps
        self.rows, self.more = self._read(len(paths)) or (np.zeros(len(paths), self.dtype), b"")
        self.fresh = (self.rows["stamp"] == self.stamps).all(axis=1) & (self.stamps[:, 3] >= 0) & is_file(self.stamps)

    def _read(self, count: int) -> tuple[np.ndarray, bytes] | None:
        if self.path in _unwritten:
            return _unwritten[self.path]
        try:
            # The archive's checksums are compared while its parts are read.
            with np.load(io.BytesIO(read_bytes(self.path)), allow_pickle=False) as parts:
                rows, more = parts["rows"], parts["more"]
        except Exception:  # whatever a damaged file makes the parsers stumble over
            return None
        if rows.dtype != self.dtype or rows.shape != (count,) or more.dtype != np.uint8 or more.ndim != 1:
            return None
        return rows, more.tobytes()

    def forget(self) -> None:
        """Take nothing of what was read for true."""
        self.rows, self.more = np.zeros(len(self.rows), self.dtype), b""
        self.fresh[:] = False

    def keep(self, more: bytes = b"") -> None:
        """Write the rows, which now tell of all files as `stamps` say they are, but for those not `fresh`."""
        self.rows["stamp"] = np.where(self.fresh[:, None], self.stamps, -1)
        try:
            with whole_file(self.path) as temporary, open(temporary, "wb") as handle:
                np.savez(handle, rows=self.rows, more=np.frombuffer(more, np.uint8))
            _unwritten.pop(self.path, None)
        except (OSError, UserError) as error:
            log.info("what was found out about the files is not remembered: %s", error)
            _unwritten[self.path] = self.rows, more
