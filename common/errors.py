"""The one exception type for mistakes a person at the keyboard can mend.

Anything else that escapes is a bug in ThinYOLO and keeps its traceback.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """What is wrong, where, and what to do about it.

    Args:
        problem: one sentence naming the offending value.
        where: the file at fault; shown as ``file:line``.
        line: 1-based line in that file.
        todo: what the reader can type or change to go on.
    """

    def __init__(self, problem: str, *, where: str | Path | None = None, line: int | None = None, todo: str = ""):
        self.problem, self.where, self.line, self.todo = problem, where, line, todo
        place = "" if where is None or where == "" else f"{where}:{line}: " if line is not None else f"{where}: "
        super().__init__(f"{place}{problem}" + (f"\n  -> {todo}" if todo else ""))


def run_cleanly(main: Callable[[], int | None], after_stop: str = "") -> int:
    """Run an entry point; a `UserError` is printed without a traceback and gives exit status 2.

    Args:
        after_stop: what to say to somebody who pressed Ctrl-C, how to go on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be what no terminal can show
    try:
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nstopped. {after_stop}".rstrip(), file=sys.stderr)
        return 130
