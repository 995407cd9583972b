"""Where a run lives: ``runs/<kind>/<name>`` with its `args.yaml`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError
from engine import distributed, tracking

ARGS, START = "args.yaml", "start.pt"
LAST, BEST = Path("weights") / "last.pt", Path("weights") / "best.pt"

_made: set[Path] = set()  # by this process: nobody else has anything in these


def make_run_dir(project: str | Path, kind: str, name: str, *, exist_ok: bool = False) -> Path:
    """Create ``project/kind/name``; when it exists, ``name2``, ``name3``, ...

    `mkdir` itself decides whether a name is free, so two runs started at once get two folders.
    """
    parent = Path(project) / kind
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if exist_ok and path.is_dir():
                return path
            if exist_ok:
                raise UserError(f"{path} is a file", todo="give the run another --name") from None
            number += 1
        except OSError as error:
            raise UserError(f"cannot create the run's folder {path}: {error}", todo="set --project") from None
        else:
            _made.add(path)
            return path


@contextmanager
def no_trace_if_refused(run: Path, resumed: bool) -> Iterator[None]:
    """A run that ends with a `UserError` before it has left any network behind leaves no folder behind either.

    A folder that was there before this process, or that is resumed, stays whatever happens.
    """
    try:
        yield
    except UserError:
        if distributed.is_main() and run in _made and not resumed and not _networks(run):
            tracking.close_all()  # W&B writes into the folder until then
            shutil.rmtree(run, ignore_errors=True)
        raise


def _networks(run: Path) -> list[Path]:
    """The checkpoints that a run has made; what it began with is none."""
    return [path for path in run.rglob("*.pt") if path != run / START]


def find_run(resume: str | Path, project: str | Path = "runs") -> Path:
    """The folder that ``--resume`` names: a run, a checkpoint in it, or "latest" under `project`.

    Raises:
        UserError: there is no such run.
    """
    if str(resume) == "latest":
        runs = sorted(Path(project).glob(f"*/*/{ARGS}"), key=lambda path: _touched(path.parent))
        if not runs:
            raise UserError(f"no run under {project} to go on with", todo="name it: --resume runs/train/exp")
        return runs[-1].parent
    path = Path(resume)
    for folder in (path, *path.parents):
        if (folder / ARGS).is_file():
            return folder
    raise UserError(
        f"--resume {resume}: neither it nor a folder above it holds an {ARGS}",
        todo="name the run's folder, for example runs/train/exp",
    )


def _touched(run: Path) -> float:
    return max(path.stat().st_mtime for path in (run, *run.glob("*"), *run.glob("**/weights/last.pt")))
