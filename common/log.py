"""The logger of the whole project. Library code warns here; nothing but entry points prints."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from common.addresses import without_secrets

log = logging.getLogger("thinyolo")


class _Stderr(logging.StreamHandler[TextIO]):
    """Whatever stderr is when something is to be said: who calls commands from a program may have replaced it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


_said: set[str] = set()


def say_once(level: int, message: str, *arguments: object) -> None:
    """Log what is of a file and not of an event: a run looks at its data set a dozen times, and once is enough."""
    text = message % arguments
    if text not in _said and log.isEnabledFor(level):
        _said.add(text)
        log.log(level, "%s", text)


class _Plain(logging.Formatter):
    """The message alone, without what an address in it would let somebody in by."""

    def format(self, record: logging.LogRecord) -> str:
        return without_secrets(super().format(record))


def show_log(level: int = logging.INFO) -> None:
    """Send the project's log to stderr, one plain line a message; entry points call this once."""
    _said.clear()
    if not log.handlers:
        handler = _Stderr()
        handler.setFormatter(_Plain("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)
