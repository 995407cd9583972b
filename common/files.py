"""Files that are either whole or absent, whatever kills the process, and folders that can be written into."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.reading import size_text

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
LEFTOVER = re.compile(rf"\..*\.{HOST}\.(\d+)\.tmp")
# What the system says when a file cannot be written; the others may be about another file, which the writer reads.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
REFUSED = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EEXIST, errno.EIO}

watched: dict[Path, tuple[Path, os.stat_result]] = {}
"""Folders that have to stay while this process writes into them -> a file in each, and what it was at the beginning."""


@contextmanager
def whole_file(path: str | Path, todo: str = "") -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step.

    A reader, or a process restarted after kill -9, sees the old file or the new one, never half of it.

    Args:
        todo: what helps where it cannot be written, if that is something of its own.

    Raises:
        UserError: the disk is full, a limit on files is reached, or nobody may write there.
    """
    path = Path(path)
    check_watched(path)
    # The name is cut: with what is added, one of 255 bytes would be too long.
    own = hashlib.sha256(path.name.encode(errors="surrogateescape")).hexdigest()[:8]
    temporary = path.with_name(f".{path.name[:32]}.{own}.{HOST}.{os.getpid()}.tmp")
    written = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        written = True
        put_in_place(temporary, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: torch's archive writer, which has met an OSError
        check_watched(path)
        cause = _cause(error)
        absent = cause.errno == errno.ENOENT and not written  # what /proc calls a file that is to be made
        if cause.errno in FULL or ((absent or cause.errno in REFUSED) and cause.filename in _named(temporary, path)):
            raise unwritable(path, cause, todo) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a whole file its name, after its bytes are on the disk."""
    with open(temporary, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)


def _cause(error: BaseException | None) -> OSError:
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return OSError()


def _named(*paths: Path) -> set[object]:
    return {name for path in paths for each in (path, *path.parents) for name in (str(each), each)}


def unwritable(path: str | Path, error: OSError, todo: str = "") -> UserError:
    """What to say of a file, or a folder, that cannot be written."""
    usual = {
        errno.ENOSPC: "make room, then start again; a run goes on with --resume",
        errno.EDQUOT: "your quota is used up",
        errno.EFBIG: "the shell limits the size of files: ulimit -f unlimited",
    }
    todo = todo or usual.get(error.errno or 0, "choose a place where you may write")
    return UserError(f"cannot be written: {error.strerror}; {free_text(path)} free there", where=path, todo=todo)


def free_space(path: str | Path) -> int:
    """Bytes that may still be written where `path` is, or would be."""
    folder = Path(os.path.abspath(path))
    while not os.path.isdir(folder):
        folder = folder.parent
    return shutil.disk_usage(folder).free


def free_text(path: str | Path) -> str:
    return size_text(free_space(path))


def need_space(folder: str | Path, total: int, largest: int, what: str) -> None:
    """Refuse long work whose files would not fit.

    Args:
        folder: where they go.
        total, largest: bytes of all files together, and of the largest of them.
        what: who writes them, for the message.

    Raises:
        UserError: there is less free space, or files may not be so large (ulimit -f).
    """
    if (free := free_space(folder)) < total:
        raise UserError(
            f"{what} writes about {size_text(total)}, and {size_text(free)} are free there",
            where=folder,
            todo="make room, or choose another place by --project",
        )
    try:
        import resource
    except ImportError:  # not on Windows
        return
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and limit < largest:
        raise UserError(
            f"{what} writes a file of about {size_text(largest)}, and files may have {size_text(limit)} here",
            where=folder,
            todo="the shell limits the size of files: ulimit -f unlimited",
        )


def watch_folder(folder: Path, by: Path) -> None:
    """From now on `whole_file` refuses to write into `folder` once the file `by` in it is gone.

    Without it, a folder that somebody deletes would be made again, with half of what was in it.
    """
    watched[Path(os.path.abspath(folder))] = by, by.stat()


def unwatch_folder(folder: Path) -> None:
    watched.pop(Path(os.path.abspath(folder)), None)


def check_watched(path: Path) -> None:
    """Raise a `UserError` where `path` is in a watched folder that was deleted meanwhile."""
    if not watched:
        return
    whole = Path(os.path.abspath(path))
    for folder, (by, was) in watched.items():
        if folder != whole and folder not in whole.parents:
            continue
        try:
            same = os.path.samestat(by.stat(), was)
        except OSError:
            same = False
        if not same:
            raise UserError(
                "was deleted, moved or emptied while this process was writing into it",
                where=folder,
                todo="what was in it is gone: start anew",
            )


def clear_leftovers(folder: Path) -> None:
    """Delete what processes of this machine that are no more had begun to write into `folder`, at any depth."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if (found := LEFTOVER.fullmatch(name)) and not is_alive(int(found[1])):
                with suppress(OSError):
                    os.unlink(os.path.join(parent, name))


def is_alive(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    if os.name == "nt":  # where a signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def read_json(path: Path) -> dict[str, Any]:
    """What a file of ours holds; nothing where there is none, or it is not whole."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def need_folder(folder: str | Path, option: str) -> None:
    """Make a folder that the user chose by `option`, before long work is done for it.

    Raises:
        UserError: it cannot be made, or nothing can be written into it.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(
            f"{option}: nothing can be written into {folder}: {said}", todo=f"give another {option}"
        ) from error
