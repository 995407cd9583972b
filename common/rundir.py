"""Where a run lives: ``runs/<kind>/<name>`` with its `args.yaml`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.lock import in_use
from common.log import log
from common.reading import shown_path
from common.saved import saved_identity

ARGS, START, REPORT = "args.yaml", "start.pt", "report.html"
RESULTS = "results.csv"
MARK = "run"
"""Where a checkpoint has its `mark`, under "extra"."""
LAST, BEST = Path("weights") / "last.pt", Path("weights") / "best.pt"
LATEST = "latest"
COMMANDS = {"train": "train", "train_prune": "prune", "finetune_kd": "distill", "ablate": "ablate"}
"""The folder of runs of a kind -> the command that makes them and goes on with them."""
NETWORKS = (
    *(f"student/{name}" for name in (BEST, LAST)),
    "pruned/pruned.pt",
    "sparse/weights/sparse.pt",
    *(f"baseline/{name}" for name in (BEST, LAST)),
    "cut/pruned.pt",
    "pruned.pt",
    "weights/sparse.pt",
    str(BEST),
    str(LAST),
    "sparse.pt",
    BEST.name,
    LAST.name,
)
"""What the stages of a run leave, the last first; then what one stage leaves in its folder, and in its ``weights``."""

EXPORTED_FILES = (".onnx", ".xml", ".engine", ".param", ".tflite")
"""How a file ends that other programs run."""
CHECKPOINTS = (".pt", ".pth")
"""How a checkpoint ends: ours, or another program's."""
NETWORK_FILES = (*CHECKPOINTS, ".weights", ".cfg", *EXPORTED_FILES)
"""How a file of a network ends, whoever runs it."""

begun: list[Path] = []
"""The run that this process works at, once it has one: what to go on with after a Ctrl-C."""
made_here: set[Path] = set()
"""The folders this process made: nobody else has anything in these."""


def make_run_dir(project: str | Path, kind: str, name: str, *, exist_ok: bool = False) -> Path:
    """Create ``project/kind/name``; when it exists, ``name2``, ``name3``, ...

    `mkdir` itself decides whether a name is free, so two runs started at once get two folders.

    Raises:
        UserError: it cannot be made, or the name leads out of `project`.
    """
    if not name.strip(". ") or ".." in Path(name).parts or Path(name).is_absolute():
        raise UserError(f"--name {shown_path(name)!r} is no name of a folder in {project}", todo="--name exp")
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


def find_run(resume: str | Path, project: str | Path = "runs", kinds: Sequence[str] = ()) -> Path:
    """The folder that ``--resume`` names: a run, a file in it, or "latest", the newest unfinished one of `project`.

    Args:
        kinds: of which commands the run may be (`COMMANDS`); none: of any.

    Raises:
        UserError: there is no such run, or it is of another command, which is named.
    """
    if str(resume) == LATEST:
        return _newest_unfinished(Path(project), kinds)
    path = Path(resume)
    for folder in (path, *path.parents):
        if not os.path.isfile(folder / ARGS):
            continue
        if kinds and (kind := folder.absolute().parent.name) in COMMANDS and kind not in kinds:
            raise UserError(
                f"{folder} is a run of thinyolo {COMMANDS[kind]}", todo=f"thinyolo {COMMANDS[kind]} --resume {folder}"
            )
        return folder
    if left := next((name for name in (*NETWORKS, START) if os.path.isfile(path / name)), ""):
        raise UserError(
            f"--resume {shown_path(resume)}: the run's {ARGS} is gone, and with it its options",
            todo=f"put it back, or start a new run from what there is: --weights {path / left}",
        )
    raise UserError(
        f"--resume {shown_path(resume)}: neither it nor a folder above it holds an {ARGS}",
        todo="name the run's folder, for example runs/train/exp",
    )


def _newest_unfinished(project: Path, kinds: Sequence[str]) -> Path:
    runs = [path.parent for path in project.glob(f"*/*/{ARGS}") if not kinds or path.parent.parent.name in kinds]
    open_ones = [run for run in runs if not (run / REPORT).exists()]
    if free := [run for run in open_ones if not in_use(run)]:
        return max(free, key=_touched)
    if open_ones:
        raise UserError(
            f"the unfinished run {max(open_ones, key=_touched)} is at work in another process", todo="let it end"
        )
    whose = f" of thinyolo {' or '.join(dict.fromkeys(COMMANDS[kind] for kind in kinds))}" if kinds else ""
    newest = f"; the newest, {max(runs, key=_touched)}, has its {REPORT}" if runs else ""
    raise UserError(
        f"no unfinished run{whose} under {project} to go on with{newest}", todo="name one: --resume runs/train/exp"
    )


def _touched(run: Path) -> float:
    return max(path.stat().st_mtime for path in (run, *run.glob("*"), *run.glob("**/weights/last.pt")))


def run_of(path: str | Path) -> Path | None:
    """The folder of the run that a file is in: the nearest above it with an `args.yaml`."""
    return next((folder for folder in Path(path).parents if os.path.isfile(folder / ARGS)), None)


def mark(path: str | Path) -> dict[str, str]:
    """Which file of which run `path` is: what a checkpoint carries, so that another in its place is told.

    Empty where no folder above it is a run's.
    """
    path = Path(os.path.abspath(path))
    run = run_of(path)
    return {"run": saved_identity(run / ARGS), "file": path.relative_to(run).as_posix()} if run else {}


def check_mark(kept: object, path: str | Path, todo: str) -> None:
    """Refuse a file of a run that is another run's, or another file of this one.

    Args:
        kept: the `mark` in the file; anything else where it was written by an earlier version or elsewhere.
        todo: what to do then.

    Raises:
        UserError: it does not belong there.
    """
    here = mark(path)
    if not here or not (here["run"] or kept) or kept == here:
        return
    whose = "another run's"
    if isinstance(kept, dict) and kept.get("run") == here["run"]:
        whose = f"a copy of {kept.get('file')}"
    raise UserError(f"is not the file that this run left here: it is {whose}", where=path, todo=todo)


def go_on() -> str:
    """What to type to go on with the run that was stopped, or that none was begun; "" where it is gone again."""
    if not begun:
        return "Nothing was begun yet."
    run = begun[-1]
    kind = run.absolute().parent.name
    return f"Go on with: thinyolo {COMMANDS.get(kind, 'train')} --resume {run}" if run.exists() else ""


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is called like a checkpoint."""
    return Path(path).suffix in CHECKPOINTS


def chosen_network(path: str | Path) -> Path:
    """The file `path`, or which one the folder of a run stands for (`network_in`); that is said."""
    if not os.path.isdir(path):
        return Path(path)
    file = network_in(path)
    log.info("%s stands for %s", path, file.relative_to(path))
    return file


def network_in(run: str | Path) -> Path:
    """The network that the folder of a run, or of one of its stages, stands for: what its last stage has left.

    Raises:
        UserError: it is no run's folder, or there is none yet, or several that are alike (an ablation).
    """
    run = Path(run)
    for name in NETWORKS:
        if os.path.isfile(run / name):
            return run / name
    others = sorted(path for path in run.glob(f"*/*/{BEST}"))
    if others:
        raise UserError("holds several networks", where=run, todo=f"name one, for example {others[0]}")
    if (run / ARGS).exists():
        raise UserError("is a run's folder without a network yet", where=run, todo="name a file: a .pt of another run")
    there = sorted(path for path in run.glob("*") if path.suffix in NETWORK_FILES and path.is_file())
    what = "is a folder, and no run's"
    if not there:
        raise UserError(f"{what}; no network is in it", where=run, todo="name a file: a .pt, or an exported network")
    named = ", ".join(path.name for path in there[:6]) + (", ..." if len(there) > 6 else "")
    raise UserError(f"{what}; in it are {named}", where=run, todo=f"name one, for example {there[0]}")
