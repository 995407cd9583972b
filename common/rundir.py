"""Where a run lives: ``runs/<kind>/<name>`` with its `args.yaml`."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

ARGS, START = "args.yaml", "start.pt"
LAST, BEST = Path("weights") / "last.pt", Path("weights") / "best.pt"

made_here: set[Path] = set()
"""The folders this process made: nobody else has anything in these."""


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
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise UserError(f"cannot create the run's folder {path}: {error}", todo="set --project, --name") from None
        else:
            made_here.add(path)
            return path


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
