"""The logger of the whole project. Library code warns here; nothing but entry points prints."""

from __future__ import annotations

import logging

log = logging.getLogger("thinyolo")


def show_log(level: int = logging.INFO) -> None:
    """Send the project's log to stderr, one plain line a message; entry points call this once."""
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)
