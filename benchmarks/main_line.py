"""The README's line with nothing but its defaults on every data set, beside a baseline that was trained as long.

    python benchmarks/main_line.py --out runs/main_line --weights yolov5n.pt --seeds 3 \\
           --sets demo bccd=bccd/data.yaml@320 hands=hand_gesture/data.yaml@192 face=face_mask/data.yaml@256x192
    python benchmarks/main_line.py --out runs/main_line --table

A set is NAME=YAML@SIZE and starts from ``--weights``; ``demo`` is `make demo`. ``--equal-baseline`` is added to either,
so that the student is compared with an uncut network that was trained for as many epochs as its whole line, and
``--compare-plain``. What stands behind ``--`` goes to every line:

    ... --seeds 3 -- --epochs 30

What is there already is not done again, what was stopped goes on: the same command later. ``--table`` trains nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.child import line_command, run_python
from common.errors import UserError, run_cleanly
from pipeline.ablate_grid import parse_seeds
from pipeline.statistics import mean_sd, paired
from reporting.record import read_record
from reporting.tables import table

ROOT = Path(__file__).resolve().parents[1]
DEMO = "demo"
SHARED = ("--equal-baseline", "--compare-plain", "--wandb", "off")


def options_of(name: str, arguments: argparse.Namespace) -> list[str]:
    """Of `train_prune.py`, for the set that ``--sets`` calls "demo" or "NAME=YAML@SIZE"."""
    if name == DEMO:
        return ["--hyp", "demo"]
    data, at, size = name.partition("=")[2].rpartition("@")
    if not at or not data:
        raise UserError(f"--sets {name} is neither demo nor NAME=YAML@SIZE", todo="--sets bccd=bccd/data.yaml@320")
    if not arguments.weights:
        raise UserError(f"--sets {name}: there is nothing to start from", todo="add --weights YOLOV5N.pt")
    network = ["--cfg", "yolov5n", "--weights", arguments.weights]
    return [*network, "--data", data, "--imgsz", size, "--prune", "params=0.25", "--then-kd"]


def train(arguments: argparse.Namespace) -> None:
    """Every line that is still to be run, a seed of every set before the next seed."""
    for seed in parse_seeds(arguments.seeds):
        for name in arguments.sets:
            folder = arguments.out / "train_prune" / f"{name.partition('=')[0]}-{seed}"
            if not (folder / "report.html").exists():
                options = [*options_of(name, arguments), *SHARED, "--seed", str(seed), *arguments.more]
                command = line_command(folder, options)
                run_python(ROOT / "train_prune.py", *command, "--threads", arguments.threads)


def lines_of(out: Path) -> dict[str, dict[int, dict[str, Mapping[str, Any]]]]:
    """set -> seed -> row -> what the table of the run says of it."""
    found: dict[str, dict[int, dict[str, Mapping[str, Any]]]] = {}
    for folder in sorted((out / "train_prune").iterdir()):
        name, _, seed = folder.name.rpartition("-")
        if (folder / "report.html").exists():
            found.setdefault(name, {})[int(seed)] = {row["name"]: row for row in read_record(folder)["rows"]}
    return found


def told(name: str, runs: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    """A set's table: every row over its seeds, and how far the student is from it, seed by seed."""
    cells = []
    for row in next(iter(runs.values())):
        scores = [run[row]["map50_95"] for run in runs.values()]
        mean, sd = mean_sd(scores)
        apart = paired([run["student"]["map50_95"] - run[row]["map50_95"] for run in runs.values()])
        first = next(iter(runs.values()))[row]
        cells.append(
            [
                row,
                f"{first['parameters']:,}",
                f"{first['macs'] / 1e9:.3f}",
                f"{first['epochs']}",
                f"{mean:.4f}" + (f" +- {sd:.4f}" if apart.n > 1 else ""),
                ""
                if row == "student"
                else f"{apart.mean:+.4f}" + (f" [{apart.low:+.4f}, {apart.high:+.4f}]" if apart.n > 1 else ""),
            ]
        )
    heading = ["network", "parameters", "MACs (G)", "epochs", "test mAP50-95", "student against it, 95 % t"]
    return f"{name}: seeds {', '.join(map(str, sorted(runs)))}\n{table(heading, cells)}\n"


def main() -> int:
    place = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    own, more = sys.argv[1:place], sys.argv[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--sets", nargs="+", default=[DEMO], help="demo, or NAME=YAML@SIZE (default: demo)")
    parser.add_argument("--weights", default="", help="the YOLOv5n that all sets but demo start from")
    parser.add_argument("--seeds", default="3", help="3 is 0-2; 5-9, or 0,3,7 (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    arguments = parser.parse_args(own)
    arguments.more = more
    if not arguments.table:
        train(arguments)
    print("\n".join(told(name, runs) for name, runs in lines_of(arguments.out).items()))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
