"""The one exception type for mistakes a person at the keyboard can mend.

Anything else that escapes is a bug in ThinYOLO and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from common.addresses import without_secrets

LONGEST = 2000  # characters of a line: what was read may be of any length


class UserError(Exception):
    """What is wrong, where, and what to do about it; the logins of addresses are left out.

    Args:
        problem: one sentence naming the offending value.
        where: the file at fault; shown as ``file:line``.
        line: 1-based line in that file.
        todo: what the reader can type or change to go on.
    """

    def __init__(self, problem: str, *, where: str | Path | None = None, line: int | None = None, todo: str = ""):
        problem, todo = without_secrets(problem), without_secrets(todo)
        self.problem, self.where, self.line, self.todo = problem, where, line, todo
        place = "" if where is None or where == "" else f"{where}:{line}: " if line is not None else f"{where}: "
        lines = (f"{place}{problem}" + (f"\n  -> {todo}" if todo else "")).split("\n")
        lines[0] = without_secrets(lines[0])
        super().__init__("\n".join(each if len(each) <= LONGEST else f"{each[:LONGEST]} [...]" for each in lines))


def first_line(error: Exception) -> str:
    """What an error says, on one line: the first that holds anything; what it is called where none does."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def closest(word: str, known: Iterable[str], cutoff: float = 0.6, most: int = 1) -> list[str]:
    """Which of the `known` words somebody may have meant by `word`; a longer one than all of them means none."""
    known = list(known)
    if len(word) > 2 * max(map(len, known), default=0):
        return []  # comparing takes the square of its length
    return difflib.get_close_matches(word, known, n=most, cutoff=cutoff)


def run_cleanly(main: Callable[[], int | None], after_stop: str | Callable[[], str] = "") -> int:
    """Run an entry point; a `UserError` is printed without a traceback and gives exit status 2.

    A SIGTERM, by which batch systems and `kill` end a process, is a Ctrl-C: what is open is closed, what can be said is
    said. Who no longer reads our output (``| head``) ends us quietly.

    Args:
        after_stop: what to say to somebody who pressed Ctrl-C, how to go on; or what tells it then.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be what no terminal can show
    try:
        with _term_as_interrupt():
            status = main() or 0
            sys.stdout.flush()
        return status
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        said = after_stop if isinstance(after_stop, str) else after_stop()
        print(f"\nstopped. {said}".rstrip(), file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # or Python tries once more at its end, and complains
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as of a process that SIGPIPE ended


class _Terminated(KeyboardInterrupt):
    """A SIGTERM came."""


_asked_to_stop = False


def stop_if_asked() -> None:
    """Stop where a SIGTERM came whose exception was lost: Python drops one that is raised while an object dies."""
    if _asked_to_stop:
        raise _Terminated


@contextlib.contextmanager
def _term_as_interrupt() -> Iterator[None]:
    """Where nobody else has a handler; under torchrun, whose agent waits for processes that it ends, the usual one."""
    mine = threading.current_thread() is threading.main_thread() and "TORCHELASTIC_RUN_ID" not in os.environ
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _: object) -> None:
        global _asked_to_stop
        _asked_to_stop = True
        raise _Terminated

    global _asked_to_stop
    _asked_to_stop = False
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
