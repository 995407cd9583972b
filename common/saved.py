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
from common.options import options, read_yaml, shown, to_dict
from common.reading import read_text

FIRST_LINE = re.compile(r"# run ([0-9a-f]{16}), options ([0-9a-f]{16})\b")
EACH, SHORT = "# each: ", 3
NO_NUMBERS = {"resume", "project", "name", "exist_ok", "hyp"}
"""Options on which no number of a run depends, whatever they are when it goes on."""


def save_config(config: Any, path: str | Path) -> None:
    """Write every resolved option as flat YAML that `load_config` and ``--hyp`` read back.

    The first lines are comments: the run's identity (that of a file which is there is kept, else a new one is drawn),
    a digest of the options on which numbers depend, and a short one of each. By these a resumed run knows its own files
    (`check_saved`).
    """
    identity = saved_identity(path) or secrets.token_hex(8)
    text = yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        values = read_yaml(type(config), temporary)
        first = f"# run {identity}, options {_digest(type(config), values)}: to go on with the run, leave them"
        temporary.write_text(f"{first}\n# each: {''.join(_short(values).values())}\n{text}", "utf-8")


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


def _short(values: dict[str, Any]) -> dict[str, str]:
    """`SHORT` letters of each option's digest, by name in alphabetical order."""
    return {key: hashlib.sha256(_written({key: values[key]})).hexdigest()[:SHORT] for key in sorted(values)}


def _written(values: dict[str, Any]) -> bytes:
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return json.dumps(plain, sort_keys=True).encode()


def _changed(cls: type, path: Path, values: dict[str, Any], digest: str) -> tuple[str, int | None]:
    """Which options are not what they were, with what they are, as a sentence has it; and the line of the first."""
    lines = read_text(path).splitlines()
    kept = next((line[len(EACH) :].strip() for line in lines[:2] if line.startswith(EACH)), "")
    now = _short(values)
    changed = [key for place, key in enumerate(now) if not kept.startswith(now[key], SHORT * place)]
    changed = [key for key in changed if key in _counted(cls, values)]
    if not changed or len(kept) != SHORT * len(now):
        return "an option in it is not", None
    usual = options(cls)
    before = values | {key: usual[key].default for key in changed}
    known = _digest(cls, before) == digest
    told = [f"`{key}: {shown(values[key])}`" + (f" (was {shown(before[key])})" if known else "") for key in changed]
    line = next((n for n, text in enumerate(lines, 1) if re.match(rf"{re.escape(changed[0])}\s*:", text)), None)
    return f"{', '.join(told[:5])}{', ...' if told[5:] else ''} {'is' if len(told) == 1 else 'are'} not", line


def _counted(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """The options that a resumed run has to keep."""
    known = options(cls)
    return {
        key: value for key, value in values.items() if not known[key].metadata["resumable"] and key not in NO_NUMBERS
    }


def _digest(cls: type, values: dict[str, Any]) -> str:
    """Of the options that a resumed run has to keep."""
    return hashlib.sha256(_written(_counted(cls, values))).hexdigest()[:16]


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
        told, line = _changed(cls, path, values, found[2])
        raise UserError(f"{told} what it was when the run began", where=path, line=line, todo=todo)
