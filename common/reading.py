"""Files that a person named: what they hold, with a bound on it, and every way not to get it told as one `UserError`.

A path may name a folder, a device that never ends, a pipe that nobody writes to or a file of another encoding. Whoever
reads texts and paths from outside does it by this module.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from common.errors import UserError

MOST = 512 * 2**20
"""More bytes than this are no file that a person wrote or a converter reads."""
MOST_TEXT = 64 * 2**20
"""The same for lists, names, yaml and the like."""


def user_path(text: str | Path) -> Path:
    """What a person wrote as a path: ``~`` is a home folder.

    Raises:
        UserError: it cannot be one.
    """
    written = str(text)
    if "\0" in written:
        raise UserError(f"a path cannot hold a NUL character: {written[:80]!r}", todo="correct the path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        name = written.split("/", 1)[0]
        raise UserError(f"{written[:80]!r}: there is no user {name[1:]!r} here", todo="write the whole path") from None


def is_file(path: Path) -> bool:
    """Whether `path` is an ordinary file; no for what the system cannot even be asked about (a name too long)."""
    return stat.S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def exists(path: Path) -> bool:
    return bool(_mode(path))


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):
        return 0


def why_no_file(path: str | Path) -> str:
    """Why `path` is no ordinary file, as the end of a sentence; "" where it is one."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        absent = isinstance(error, FileNotFoundError)
        return "does not exist" if absent else f"cannot be read: {getattr(error, 'strerror', None) or error}"
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    return "is not an ordinary file (a device, a pipe or a socket)"


def need_file(path: str | Path, most: int, todo: str = "check the path") -> int:
    """The size of a file that somebody named, in bytes, which is now safe to be read as a whole.

    Raises:
        UserError: it does not exist, is a folder, a device or a pipe, may not be looked at, or is too large.
    """
    if reason := why_no_file(path):
        raise UserError(reason, where=shown_path(path), todo=todo)
    if (size := os.stat(path).st_size) > most:
        told = f"has {size_text(size)}, more than such a file can have ({size_text(most)})"
        raise UserError(told, where=shown_path(path), todo=todo)
    return size


def read_bytes(path: str | Path, most: int = MOST, todo: str = "check the path") -> bytes:
    """The bytes of an ordinary file.

    Raises:
        UserError: see `need_file`, or it cannot be read.
    """
    need_file(path, most, todo)
    try:
        with open(path, "rb") as handle:
            return handle.read(most)  # files of /proc say a size of 0, whatever they hold
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=path, todo=todo) from error


def read_text(path: str | Path, most: int = MOST_TEXT, todo: str = "check the path", *, lossy: bool = False) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line ends are ``\\n``.

    Args:
        lossy: what is no UTF-8 becomes a replacement character, where only words in ASCII matter.

    Raises:
        UserError: as `read_bytes`, or it is no UTF-8 (the line is named).
    """
    raw = read_bytes(path, most, todo)
    try:
        text = raw.decode("utf-8-sig", "replace" if lossy else "strict")
    except UnicodeDecodeError as error:
        if kind := _binary(raw):
            raise UserError(f"is {kind}, no text file", where=path, todo=todo) from None
        kind = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte {raw[error.start]:#04x}"
        line = raw[: error.start].count(b"\n") + 1
        todo = f"save it as UTF-8 text, e.g. iconv -f {'UTF-16' if kind == 'UTF-16' else 'LATIN1'} -t UTF-8 OLD > NEW"
        raise UserError(f"is not a text file in UTF-8 ({kind})", where=path, line=line, todo=todo) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


_MAGIC = {b"PK\x03\x04": "a zip archive (as a .pt is one)", b"\x89PNG": "a picture", b"\xff\xd8\xff": "a picture"}


def _binary(raw: bytes) -> str:
    """What bytes are that were never a text in any encoding; "" where they may be one."""
    known = next((kind for magic, kind in _MAGIC.items() if raw.startswith(magic)), "")
    wide = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    return known or ("a binary file" if b"\0" in raw[:4096] and not wide else "")


def lines_of(text: str) -> list[str]:
    """The lines as an editor counts them; `str.splitlines` also breaks at form feeds and the like."""
    return text.split("\n")


def shown_path(path: str | Path, most: int = 200) -> str:
    """A path for a message: what somebody pasted in its place may be very long."""
    text = str(path)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters)"


def size_text(count: float) -> str:
    """12.3 GB, 45.0 MB, 2 kB"""
    return next((f"{count / unit:.1f} {name}" for unit, name in ((1e9, "GB"), (1e6, "MB")) if count >= unit), "") or (
        f"{count / 1e3:.0f} kB"
    )
