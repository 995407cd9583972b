"""What is in the files of a data set, told by short digests: a run that goes on knows its pictures and labels again."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from data.label_files import find_labels, read_label_files
from data.remembered import SIZE, Memory, asked, is_file, stamps_of

BLOCK = 4096
WHOLE = 256 * 2**20
"""Bytes: pictures that are no more than this together are read whole; of others their first, middle and last block."""
_KNOWN = {"glimpse": 1, "whole": 2}
_COLUMNS = [("known", np.uint8), *((name, np.uint8, (SIZE,)) for name in _KNOWN)]


def pictures_digest(pictures: Sequence[Path]) -> str:
    """Of the pictures' contents, in their order; a picture that cannot be read counts as such.

    Of a compressed picture the last block changes with any pixel. In one of raw pixels that is larger than `BLOCK` and
    in a split larger than `WHOLE`, a change between the blocks that are read is not seen.
    """
    stamps = stamps_of(pictures)
    found = digests_of(pictures, stamps, whole=read_whole(stamps))
    return hashlib.sha256(b"".join(found)).hexdigest()


def labels_digest(pictures: Sequence[Path]) -> str:
    """Of the pictures' label files; spaces, line ends and empty lines do not count."""
    return hashlib.sha256(b"".join(read_label_files(find_labels(pictures)).digests)).hexdigest()


def last_changed(pictures: Sequence[Path], labels: bool = False) -> str:
    """Which of the files was written last, and when, for a message; "" where there is none."""
    files = find_labels(pictures) if labels else list(map(str, pictures))
    there = [path for path in files if path is not None]
    stamps = stamps_of(there)
    times = [(int(row[2]), path) for row, path in zip(stamps, there, strict=True) if row[0] >= 0]
    if not times:
        return ""
    when, path = max(times)
    return f"{path}, {time.strftime('%F %T', time.localtime(when / 1e9))}"


def read_whole(stamps: np.ndarray) -> bool:
    """Whether pictures with these stamps, together, are read as a whole."""
    return bool(np.maximum(stamps[:, 0], 0).sum() <= WHOLE)


def digests_of(
    pictures: Sequence[Path], stamps: np.ndarray, whole: bool, which: np.ndarray | None = None
) -> list[bytes]:
    """A digest of each picture, remembered until it changes: `SIZE` bytes, or why there is none.

    Args:
        stamps: the pictures', by `data.remembered.stamps_of`.
        whole: of all bytes, or of their number and three blocks. They are the same up to three blocks.
        which: ``(n,)`` bool, those asked for; the others get b"".
    """
    column = "whole" if whole else "glimpse"
    memory = Memory("contents 1", pictures, _COLUMNS, stamps)
    wanted = np.ones(len(stamps), bool) if which is None else which
    known = memory.fresh & (memory.rows["known"] & _KNOWN[column] > 0)
    todo = np.flatnonzero(wanted & is_file(stamps) & ~known).tolist()
    lost = {}
    for place, digest in asked(lambda place: _read(pictures[place], int(stamps[place, 0]), whole), todo):
        if digest is None:
            lost[place] = b"unreadable"
        else:
            _note(memory, place, digest, column)
    if len(todo) > len(lost):
        memory.keep()
    kept: bytes = memory.rows[column].tobytes()
    digests = [kept[start : start + SIZE] for start in range(0, len(kept), SIZE)]
    for place in np.flatnonzero(~wanted | ~is_file(stamps)).tolist():
        lost[place] = b"absent" if wanted[place] else b""
    for place, told in lost.items():
        digests[place] = told
    return digests


def note_contents(pictures: Sequence[Path], stamps: np.ndarray, found: dict[int, tuple[bytes, bytes]]) -> None:
    """Remember digests that somebody else made who read the files: place -> by `digest_of` of three blocks and of all
    bytes; b"" for one that is not known."""
    memory = Memory("contents 1", pictures, _COLUMNS, stamps)
    for place, digests in found.items():
        small = stamps[place, 0] <= 3 * BLOCK  # both are noted at once
        for column, digest in zip(_KNOWN, digests[: 1 if small else 2]):
            if digest:
                _note(memory, place, digest, column)
    memory.keep()


def _note(memory: Memory, place: int, digest: bytes, column: str) -> None:
    row = memory.rows[place]
    if not memory.fresh[place]:
        row["known"], memory.fresh[place] = 0, True
    columns = _KNOWN if memory.stamps[place, 0] <= 3 * BLOCK else (column,)
    for each in columns:
        row[each] = np.frombuffer(digest, np.uint8)
        row["known"] |= _KNOWN[each]


def digest_of(raw: bytes, whole: bool) -> bytes:
    """Of the bytes of a file; without `whole` of their number and of the first, the middle and the last block."""
    return _digest(len(raw), whole, lambda start, count: raw[start:] if count is None else raw[start : start + count])


def _digest(size: int, whole: bool, read: Callable[[int, int | None], bytes]) -> bytes:
    """`digest_of` what `read` gives from a place on: so many bytes, or all."""
    blocks: list[tuple[int, int | None]] = [(place, BLOCK) for place in (0, size // 2, size - BLOCK)]
    found = hashlib.blake2b(str(size).encode(), digest_size=SIZE)
    for start, count in [(0, None)] if whole or size <= 3 * BLOCK else blocks:
        found.update(read(start, count))
    return found.digest()


def _read(path: Path, size: int, whole: bool) -> bytes | None:
    """`digest_of` a file, no more of it read than that takes; None: it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as handle:

            def read(start: int, count: int | None) -> bytes:
                handle.seek(start)
                return handle.read(-1 if count is None else count)

            return _digest(size, whole, read)
    except OSError:
        return None
