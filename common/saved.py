"""A run's `args.yaml`: all its options, and who it is; by both a resumed run knows its own files."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

import yaml

from common.errors import UserError
from common.files import whole_file
from common.options import options, read_yaml, to_dict

FIRST_LINE = re.compile(r"# run ([0-9a-f]{16}), options ([0-9a-f]{16})\b")
NO_NUMBERS = {"resume", "project", "name", "exist_ok", "hyp"}
"""Options on which no number of a run depends, whatever they are when it goes on."""


def save_config(config: Any, path: str | Path) -> None:
    """Write every resolved option as flat YAML that `load_config` and ``--hyp`` read back.

    The first line is a comment: the run's identity (that of a file which is there is kept, else a new one is drawn),
    and a digest of the options on which numbers depend. By these a resumed run knows its own files (`check_saved`).
    """
    identity = saved_identity(path) or secrets.token_hex(8)
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        digest = _digest(type(config), read_yaml(type(config), temporary))
        temporary.write_text(f"# run {identity}, options {digest}: to go on with the run, leave them\n{text}", "utf-8")


def saved_identity(path: str | Path) -> str:
    """The identity of the run whose options a file holds; "" where there is none, as in one of an earlier version."""
    found = _first_line(path)
    return found[1] if found else ""


def _first_line(path: str | Path) -> re.Match[str] | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return FIRST_LINE.match(handle.readline(200))
    except OSError:
        return None


def _digest(cls: type, values: dict[str, Any]) -> str:
    """Of the options that a resumed run has to keep."""
    known = options(cls)
    counted = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if not known[key].metadata["resumable"] and key not in NO_NUMBERS
    }
    return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:16]


def check_saved(cls: type, path: Path, values: dict[str, Any]) -> None:
    """Refuse to go on with options that are not those `save_config` wrote; an option that is absent would be a default.

    Args:
        values: from `read_yaml`.

    Raises:
        UserError: the file was cut off, or something in it was changed.
    """
    absent = [key for key in options(cls) if key not in values]
    found = _first_line(path)
    if found and found[2] == _digest(cls, values):
        return  # what is absent did not exist yet when it was written
    named = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
    todo = "put it back as the run wrote it; a new run goes on from what this one has so far with --weights"
    if absent:
        old = "" if found else ", or of an earlier version"
        raise UserError(
            f"{len(absent)} of the run's options are not in it ({named}): it is cut off{old}. They would be defaults "
            "from here on",
            where=path,
            todo=todo if found else f"write those lines into it ({absent[0]}: ...), or {todo}",
        )
    if found:
        raise UserError("an option in it is not what it was when the run began", where=path, todo=todo)
