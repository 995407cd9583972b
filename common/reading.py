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


def why_no_file(path: Path) -> str:
    """Why `path` is no ordinary file, as the end of a sentence; "" where it is one."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    except ValueError as error:  # a NUL in the name
        return f"cannot be read: {error}"
    if stat.S_ISREG(mode):
        return ""
    if stat.S_ISDIR(mode):
        return "is a folder, not a file"
    return "is not an ordinary file (a device, a pipe or a socket)"


def read_bytes(path: Path, most: int = MOST, todo: str = "") -> bytes:
    """The bytes of an ordinary file.

    Raises:
        UserError: it is none, it cannot be read, or it holds more than `most` bytes.
    """
    reason = why_no_file(path)
    try:
        if not reason:
            with open(path, "rb") as handle:
                raw = handle.read(most + 1)
            if len(raw) <= most:
                return raw
            reason = f"holds more than {most // 2**20} MiB, which nothing of its kind does"
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
    raise UserError(reason, where=path, todo=todo)


def read_text(path: Path, most: int = MOST_TEXT, todo: str = "") -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line ends are ``\\n``.

    Raises:
        UserError: as `read_bytes`, or it is no UTF-8 (the line is named).
    """
    raw = read_bytes(path, most, todo)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else f"byte {raw[error.start]:#04x}"
        line = raw[: error.start].count(b"\n") + 1
        todo = f"save it as UTF-8 text, e.g. iconv -f {'UTF-16' if kind == 'UTF-16' else 'LATIN1'} -t UTF-8 OLD > NEW"
        raise UserError(f"is not a text file in UTF-8 ({kind})", where=path, line=line, todo=todo) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines_of(text: str) -> list[str]:
    """The lines as an editor counts them; `str.splitlines` also breaks at form feeds and the like."""
    return text.split("\n")
