"""One process a run's folder: two that write into one would each lose what the other wrote."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from common.errors import UserError
from common.files import clear_leftovers, unwatch_folder, unwritable, watch_folder
from common.log import log

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"

_held: dict[Path, IO[str]] = {}


def hold(folder: Path) -> None:
    """Take `folder` for this process, and clear away what a process that died in it had begun to write.

    The system gives a lock back when its process ends, however it ends; the file says who that was. A lock counts among
    the processes of one machine (on most network disks also between machines).

    Raises:
        UserError: another process has it; nothing can be written there.
    """
    if fcntl is None:
        return
    path = folder / LOCK
    if folder.absolute() in _held:  # before it is opened: to close it would give this process's own lock back
        raise UserError("is in use by another run of this process", where=folder, todo="let it end")
    while True:
        try:
            handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            # A record lock: a process that this one starts does not inherit it, and so cannot outlive this one with it.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise _in_use(folder, handle) from None
        except OSError as error:
            log.warning("%s: not locked against a second process: %s", folder, error.strerror)
        if _is_still(path, handle):
            break
        handle.close()  # whoever had it deleted it in between
    if before := _read(handle):
        log.info(
            "%s: taken over from process %s on %s, which is no more", folder, before.get("pid"), before.get("host")
        )
    handle.truncate(0)
    handle.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}))
    handle.flush()
    _held[folder.absolute()] = handle
    watch_folder(folder, path)
    clear_leftovers(folder)


def release(folder: Path) -> None:
    """Give `folder` back, if this process has it."""
    handle = _held.pop(folder.absolute(), None)
    if handle is None:
        return
    unwatch_folder(folder)
    if _is_still(folder / LOCK, handle):
        (folder / LOCK).unlink(missing_ok=True)  # before it is given back: then it may be another's
    handle.close()


def in_use(folder: Path) -> bool:
    """Whether another process has `folder`."""
    if fcntl is None or folder.absolute() in _held:
        return False
    try:
        with open(folder / LOCK, "r+", encoding="utf-8") as handle:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back where the file is closed
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # no lock, or a disk that has none
        return False
    return False


def _is_still(path: Path, handle: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle.fileno()))
    except OSError:
        return False


def _in_use(folder: Path, handle: IO[str]) -> UserError:
    owner = _read(handle)
    return UserError(
        f"is in use by process {owner.get('pid', '?')} on {owner.get('host', 'some machine')}, since "
        f"{owner.get('since', 'a moment ago')}",
        where=folder,
        todo="let it end, or stop it; two processes in one run would lose each other's work",
    )


def _read(handle: IO[str]) -> dict[str, object]:
    handle.seek(0)
    try:
        content = json.loads(handle.read())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
