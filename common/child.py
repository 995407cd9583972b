"""Python commands in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError


def line_command(folder: Path, options: Sequence[object]) -> list[object]:
    """What follows `train_prune.py` to begin the run `folder` (PROJECT/train_prune/NAME), or to go on with it."""
    if (folder / "args.yaml").exists():
        return ["--resume", folder]
    return [*options, "--project", folder.parents[1], "--name", folder.name]


def run_python(*command: object, cwd: Path | None = None) -> None:
    """Run this interpreter with `command`: a script, or ``-m`` and a module, and options. Its output is seen at once.

    Raises:
        UserError: it failed; it has said why itself.
    """
    line = [str(part) for part in command]
    status = subprocess.run([sys.executable, *line], check=False, cwd=cwd).returncode
    if status:
        name = line[1] if line[0] == "-m" else Path(line[0]).name
        raise UserError(
            f"{name} ended with status {status}; what is wrong stands above", todo="mend that, and start again"
        )
