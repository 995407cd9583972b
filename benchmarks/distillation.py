"""Which KD mode helps? The study of docs/results.md: students far thinner than their teachers, and the grids over them.

    python benchmarks/distillation.py --out runs/study --weights yolov5n.pt --sets demo bccd=bccd/data.yaml \\
           --modes "none; hinton; bounded; hinton,bounded; aligned" --seeds 5

For every set the line of `train_prune.py` (baseline, sparsity training, a deep cut) is run once; its pruned network is
the student of all grids, its baseline the teacher. What is there already is not done again, what was stopped goes on:
the same command later with other ``--modes`` or with ``--seeds 5-9`` trains only what is new. Several of these can run
beside each other on different sets. ``demo`` is the built-in data set from random weights; every other set is NAME=YAML
and starts from ``--weights``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from common.child import run_python
from common.errors import UserError, run_cleanly

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Study:
    """One data set of the study.

    Attributes:
        line: options of `train_prune.py` beside those of all.
        grid: options of `finetune_kd.py` beside those of all.
    """

    line: list[str]
    grid: list[str]


def study(name: str, arguments: argparse.Namespace) -> Study:
    """The set that ``--sets`` calls "demo" or "NAME=YAML"."""
    if name == "demo":
        return Study(["--hyp", "demo", "--prune", "params=0.1"], ["--hyp", "demo_kd"])
    _, equals, path = name.partition("=")
    if not equals:
        raise UserError(f"--sets {name} is neither demo nor NAME=YAML", todo="--sets demo hands=hands/data.yaml")
    if not arguments.weights:
        raise UserError(f"--sets {name}: there is nothing to start from", todo="add --weights YOLOV5N.pt")
    shared = ["--data", path, "--imgsz", arguments.imgsz]
    epochs = ["--epochs", str(arguments.epochs), "--sparse-epochs", str(arguments.epochs)]
    line = ["--hyp", "bccd", "--weights", arguments.weights, *shared, *epochs, "--prune", f"params={arguments.keep:g}"]
    return Study(line, ["--hyp", "small_data_kd", *shared])


def run(script: str, folder: Path, options: list[str], arguments: argparse.Namespace) -> None:
    """The command, or its continuation where the folder is there."""
    common = ["--project", str(arguments.out), "--name", folder.name, "--threads", str(arguments.threads)]
    wandb = ["--wandb", "off"]
    if (folder / "args.yaml").exists() and script == "train_prune.py":
        common, options, wandb = ["--resume", str(folder), "--threads", str(arguments.threads)], [], []
    elif script == "finetune_kd.py":
        common.append("--exist-ok")  # finished cells count
    run_python(ROOT / script, *options, *common, *wandb)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--sets", nargs="+", required=True, help="demo, or NAME=YAML")
    parser.add_argument("--weights", default="", help="the YOLOv5n that all sets but demo start from")
    parser.add_argument("--modes", default="none; scaled,bounded; all", help='as --ablate: "none; hinton; bounded"')
    parser.add_argument("--seeds", default="5", help="as --seeds of the grid (default: 5, which is 0-4)")
    parser.add_argument("--imgsz", default="224", help="all sets but demo: 224, or WIDTHxHEIGHT (default: 224)")
    parser.add_argument("--epochs", type=int, default=25, help="of the baseline and of the sparse stage (default: 25)")
    parser.add_argument("--keep", type=float, default=0.06, help="share of the parameters (default: 0.06; demo: 0.1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    for each in arguments.sets:
        name, chosen = each.partition("=")[0], study(each, arguments)
        line = arguments.out / "train_prune" / name
        if not (line / "report.html").exists():
            run("train_prune.py", line, [*chosen.line, "--no-then-kd", "--no-compare-plain"], arguments)
        networks = [
            "--weights",
            str(line / "pruned" / "pruned.pt"),
            "--t_weights",
            str(line / "baseline" / "weights" / "best.pt"),
        ]
        grid = [*chosen.grid, *networks, "--ablate", arguments.modes, "--seeds", arguments.seeds]
        run("finetune_kd.py", arguments.out / "ablate" / name, grid, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
