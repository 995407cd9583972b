"""Beside Torch-Pruning's own YOLOv8 example: two cuts of one checkpoint to the same multiply-adds, fine-tuned alike.

    python benchmarks/beside_torch_pruning.py --example yolov8_pruning.py --weights yolov8n.pt --data mine/data.yaml \\
        --imgsz 160 --out runs/beside

--example is examples/yolov8/yolov8_pruning.py of Torch-Pruning 1.6.1 (github.com/VainF/Torch-Pruning, tag v1.6.1). It
runs unchanged, in a process of its own. What it needs goes into OUT/environment, beside our environment's torch: its
readme says that it is broken with today's ultralytics, so that is 8.0.98 of May 2023, the first release that reads
checkpoints whose layers are in ``ultralytics.nn.modules.conv`` and the like, and still has all that it imports.
The steps:

1. their cut: the example with ``--iterative-steps 1``; its ``--target-prune-rate`` is searched until --share of the
   multiply-adds is left. The network is saved by the example's own function, at the callback *on_train_start* of
   ultralytics, which then ends it: before its fine-tuning. It finds our data set under the name it asks for.
2. read by our reader; what counts are the multiply-adds we count in what was read.
3. our cut of the same checkpoint to the same multiply-adds: no sparse stage, solved.
4. both fine-tuned by our trainer with equal steps, from the labels alone and under the uncut checkpoint.

Children that need it get ``numpy.trapz`` back under its name of before numpy 2 and may unpickle (it is your own
checkpoint). What is there already is not done again. ultralytics is under the AGPL: it is only run, and nothing of it
gets into any result of ours but the widths and weights of the networks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

import models
from common.child import run_python
from common.errors import UserError, run_cleanly
from common.files import whole_file
from engine.config import parse_size
from reporting.tables import table

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch-pruning==1.6.1",
    "ultralytics==8.0.98",
    "setuptools<81",  # the last with pkg_resources, which ultralytics of that time imports
    "pandas",
    "psutil",
    "pytz",
    "seaborn",
    "thop",
)
ASKED_FOR = "coco128.yaml"  # the data set that the example names
MODES = "none; scaled,bounded"
TRIES, CLOSE = 8, 0.003  # of their share of the multiply-adds to --share

# Runs the example as it is, but for the shim, and ends it when it has cut and is about to train.
CHILD = """\
import runpy, sys
import numpy
numpy.trapz = getattr(numpy, "trapz", None) or numpy.trapezoid
from ultralytics.yolo.utils import callbacks
def save(trainer):
    trainer.epoch, trainer.fitness, trainer.best_fitness = 0, 0.0, 0.0
    trainer.save_model()
    raise SystemExit
callbacks.default_callbacks["on_train_start"].append(save)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def environment(folder: Path) -> Path:
    """The folder their packages are in; made once."""
    if not (folder / "torch_pruning").is_dir():
        run_python("-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *PACKAGES)
    return folder


class Example:
    """Torch-Pruning's example on one checkpoint and data set."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.folder = arguments, arguments.out.resolve() / "theirs"
        self.packages = environment(arguments.out.resolve() / "environment")
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.weights, self.folder / "fat.pt")
        self._data()
        defaults = yaml.safe_load((self.packages / "ultralytics/yolo/cfg/default.yaml").read_text(encoding="utf-8"))
        # Nothing downloaded and nothing drawn: AMP's check and figures would.
        own = {"imgsz": parse_size(arguments.imgsz)[0], "device": "cpu", "amp": False, "plots": False}
        (self.folder / "options.yaml").write_text(yaml.safe_dump({**defaults, **own}), encoding="utf-8")

    def _data(self) -> None:
        """A copy under the name the example asks for: ultralytics writes files beside the labels."""
        copied = self.folder / "pictures"
        if not copied.is_dir():
            shutil.copytree(self.arguments.data.parent, copied, copy_function=shutil.copyfile)
        told = yaml.safe_load(self.arguments.data.read_text(encoding="utf-8"))
        told |= {"path": str(copied), "nc": len(told["names"])}
        (self.folder / ASKED_FOR).write_text(yaml.safe_dump(told), encoding="utf-8")

    def cut(self, rate: float) -> Path:
        """The network that the example cuts at ``--target-prune-rate``, and has not trained."""
        kept = self.folder / f"rate{rate:.4f}.pt"
        if kept.is_file():
            return kept
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        surroundings = {
            **os.environ,
            "PYTHONPATH": str(self.packages),
            "YOLO_CONFIG_DIR": str(self.folder),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
            "WANDB_MODE": "disabled",
        }
        options = ["--model", "fat.pt", "--cfg", "options.yaml", "--iterative-steps", "1", "--target-prune-rate", rate]
        line = [sys.executable, "-c", CHILD, self.arguments.example.resolve(), *options]
        print(f"Torch-Pruning's example at --target-prune-rate {rate:.4f}", flush=True)
        with (self.folder / "log.txt").open("w", encoding="utf-8") as log:
            subprocess.run(list(map(str, line)), cwd=self.folder, env=surroundings, stdout=log, stderr=log, check=False)
        saved = list((self.folder / "runs").glob("**/weights/best.pt"))
        if len(saved) != 1:
            raise UserError("it has not saved a network; why stands in its output", where=self.folder / "log.txt")
        return Path(shutil.move(saved[0], kept))


def search(left: Callable[[float], float], share: float) -> float:
    """The rate at which `left` (falls from 1 at rate 0 to 0 at rate 1) is `share`: regula falsi.

    Raises:
        UserError: not within `CLOSE` after `TRIES`.
    """
    known = {0.0: 1.0, 1.0: 0.0}
    for _ in range(TRIES):
        below = max(rate for rate, found in known.items() if found >= share)
        above = min(rate for rate, found in known.items() if found < share)
        rate = round(float(np.interp(share, (known[above], known[below]), (above, below))), 4)
        known[rate] = left(rate)
        if abs(known[rate] - share) <= CLOSE:
            return rate
    tried = ", ".join(f"{rate:.4f} leaves {found:.4f}" for rate, found in sorted(known.items()))
    raise UserError(f"no rate was found that leaves {share} of the multiply-adds: {tried}", todo="another --share")


def our_cut(share: float, arguments: argparse.Namespace) -> Path:
    done = arguments.out / "train_prune" / "ours" / "pruned" / "pruned.pt"
    if not done.is_file():
        options = ["--stages", "prune", "--prune", f"flops={share:.4f}", "--no-then-kd", "--weights", arguments.weights]
        _command("prune", "ours", options, arguments)
    return done


def fine_tuned(name: str, network: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Row of the ablation -> mAP50-95 on test, a value a seed; "not fine-tuned" and "teacher" have one."""
    _command(
        "distill",
        name,
        ["--hyp", "small_data_kd", "--weights", network, "--t_weights", arguments.weights]
        + ["--lr0", "0.001", "--epochs", arguments.epochs, "--ablate", MODES, "--seeds", arguments.seeds],
        arguments,
    )
    grid = json.loads((arguments.out / "ablate" / name / "table.json").read_text(encoding="utf-8"))
    found: dict[str, list[float]] = {
        row["mode"]: [row["mAP50-95 mean"]] for row in grid["rows"] if row["mode"] in ("teacher", "not fine-tuned")
    }
    for run in grid["runs"]:
        split = "test" if "test" in run["scores"] else "val"
        found.setdefault(run["mode"], []).append(run["scores"][split]["mAP50-95"])
    return found


def _command(word: str, name: str, options: list[object], arguments: argparse.Namespace) -> None:
    shared = ["--data", arguments.data, "--imgsz", arguments.imgsz, "--threads", arguments.threads, "--wandb", "off"]
    where = ["--project", arguments.out, "--name", name, "--exist-ok"]
    run_python("-m", "thinyolo", word, *options, *shared, *where, cwd=ROOT)


def text(networks: dict[str, tuple[int, float]], found: dict[str, dict[str, list[float]]]) -> str:
    """The table.

    Args:
        networks: name -> parameters, share of the multiply-adds.
        found: name -> what `fine_tuned` gives.
    """
    modes = ("not fine-tuned", *(mode.strip() for mode in MODES.split(";")))
    heading = ["mAP50-95 on test", "parameters", "of MACs", *modes]
    rows = [
        [name, f"{parameters:,}", f"{share:.4f}", *(_spread(found[name].get(mode, [])) for mode in modes)]
        for name, (parameters, share) in networks.items()
    ]
    return table(heading, rows)


def _spread(values: list[float]) -> str:
    shown = f"{np.mean(values):.4f}" if values else "-"
    return f"{shown} ({min(values):.4f} to {max(values):.4f})" if len(values) > 1 else shown


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, what in (
        ("example", "yolov8_pruning.py of Torch-Pruning 1.6.1"),
        ("weights", "a trained checkpoint of YOLOv8"),
        ("data", "its data set's yaml, in a folder with its pictures"),
        ("out", "folder of all that comes out"),
    ):
        parser.add_argument(f"--{name}", required=True, type=Path, help=what)
    parser.add_argument("--imgsz", default="160", help="side of the pictures (default: %(default)s)")
    parser.add_argument("--share", type=float, default=0.4, help="of the multiply-adds (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.0, help="their --target-prune-rate, where it is known already")
    parser.add_argument("--epochs", type=int, default=12, help="of fine-tuning (default: %(default)s)")
    parser.add_argument("--seeds", default="3", help="as for --ablate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(argv)
    for name in ("example", "weights", "data", "out"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    if missing := [path for path in (arguments.example, arguments.weights, arguments.data) if not path.is_file()]:
        raise UserError(f"{missing[0]} is not there", todo="see --help, which says where the example comes from")
    size = parse_size(arguments.imgsz)
    whole = models.macs(models.load(arguments.weights), size)
    example = Example(arguments)

    def share(network: Path) -> float:
        return models.macs(models.load(network), size) / whole

    theirs = example.cut(arguments.rate or search(lambda rate: share(example.cut(rate)), arguments.share))
    files = {"theirs": theirs, "ours": our_cut(share(theirs), arguments)}
    found = {name: fine_tuned(name, path, arguments) for name, path in files.items()}
    networks = {name: (models.parameters(models.load(path)), share(path)) for name, path in files.items()}
    shown = f"{text(networks, found)}\nuncut: {_spread(found['ours']['teacher'])}"
    print(shown)
    with whole_file(arguments.out / "table.txt") as temporary:
        temporary.write_text(shown + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
