"""What does a thin student gain from its teacher? The study of docs/results.md: students, ways of teaching, seeds.

    python benchmarks/distillation.py --out runs/study --weights yolov5n.pt --sets demo bccd=bccd/data.yaml \\
           --students sparse=0.1 sparse=0.05 baseline=0.1 --seeds 5 \\
           --modes "none; scaled,bounded; none reconstruct; scaled,bounded reconstruct"
    python benchmarks/distillation.py --out runs/study --table

For every set the line of `train_prune.py` (baseline, sparsity training, a cut to a tenth) is run once. A student
``sparse=0.05`` is its sparse network cut to 5 % of the parameters, ``baseline=0.1`` its baseline cut without sparsity
training; the baseline teaches them all. In a row of ``--modes`` the word ``reconstruct`` stands for the network that
the student was cut from, ``footage`` for the folder of ``--footage``.

What is there already is not done again, what was stopped goes on: the same command later with other rows, or with
``--seeds 5-9``, trains only what is new. Several of these can run beside each other on different sets. ``demo`` is the
built-in data set from random weights; every other set is NAME=YAML and starts from ``--weights``.

``--oracle LABELS`` trains the plain student of every seed once more, with the true labels of the footage: as many
pictures of either kind a step, and as many steps, as with footage. ``--table`` trains nothing and prints a line a
student; ``--figure PNG`` draws them.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import models
from common.child import line_command, run_python
from common.errors import UserError, run_cleanly
from engine.plots import GREY, LINES, new_figure, save_figure
from pipeline.ablate_grid import parse_seeds

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "none"


@dataclass(frozen=True)
class Study:
    """One data set of the study.

    Attributes:
        line: options of `train_prune.py` beside those of all.
        cut: those of its cuts.
        grid: options of `finetune_kd.py` beside those of all.
        epochs: of a fine-tune.
    """

    line: list[str]
    cut: list[str]
    grid: list[str]
    epochs: int


def study(name: str, arguments: argparse.Namespace) -> Study:
    """The set that ``--sets`` calls "demo" or "NAME=YAML"."""
    rate = ["--lr0", arguments.lr0] if arguments.lr0 else []
    if name == "demo":
        line = ["--hyp", "demo", "--sparse-epochs", "10"]  # as long as the study was begun with
        return Study(line, ["--hyp", "demo", "--cfg", ""], ["--hyp", "demo_kd", *rate], 6)
    _, equals, path = name.partition("=")
    if not equals:
        raise UserError(f"--sets {name} is neither demo nor NAME=YAML", todo="--sets demo hands=hands/data.yaml")
    if not arguments.weights:
        raise UserError(f"--sets {name}: there is nothing to start from", todo="add --weights YOLOV5N.pt")
    shared = ["--data", path, "--imgsz", arguments.imgsz]
    cut = ["--hyp", "bccd", *shared]
    epochs = ["--epochs", str(arguments.epochs), "--sparse-epochs", str(arguments.sparse_epochs or arguments.epochs)]
    return Study([*cut, "--weights", arguments.weights, *epochs], cut, ["--hyp", "small_data_kd", *shared, *rate], 12)


def run(script: str, folder: Path, options: list[str], arguments: argparse.Namespace) -> None:
    """The command, or its continuation where the folder is there."""
    options = [*options, "--wandb", "off", "--amp", arguments.amp]
    if script == "train_prune.py":
        command = line_command(folder, options)
    else:
        place = ["--project", arguments.out, "--name", folder.name]
        command = [*options, *place, "--exist-ok"]  # finished cells count
    run_python(ROOT / script, *command, "--threads", arguments.threads)


def student(name: str, line: Path, chosen: Study, arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The student that ``--students`` calls "sparse=0.05", and what it was cut from."""
    kind, equals, share = name.partition("=")
    if kind not in ("sparse", "baseline") or not equals:
        raise UserError(f"--students {name} is neither sparse=SHARE nor baseline=SHARE", todo="--students sparse=0.05")
    ancestor = line / "sparse/weights/sparse.pt" if kind == "sparse" else line / "baseline/weights/best.pt"
    folder = line.with_name(f"{line.name}-{kind}-{share}")
    if not (folder / "report.html").exists():
        cut = ["--weights", str(ancestor), "--stages", "prune", "--prune", f"params={share}", "--no-reconstruct"]
        run("train_prune.py", folder, [*chosen.cut, *cut, "--no-then-kd", "--no-compare-plain"], arguments)
    return folder / "pruned/pruned.pt", ancestor


def rows(ancestor: Path, arguments: argparse.Namespace) -> str:
    """``--modes`` with the words that stand for files replaced."""
    words = {"reconstruct": f"reconstruct={ancestor}", "footage": f"unlabelled={arguments.footage}"}
    entries = [" ".join(words.get(word, word) for word in row.split()) for row in arguments.modes.split(";")]
    return "; ".join(entries)


def with_oracle(name: str, arguments: argparse.Namespace) -> Path:
    """A data set of its own: the labelled pictures, repeated until they are as many as the footage, and the footage
    with its true labels."""
    source = Path(name.partition("=")[2])
    content: dict[str, Any] = yaml.safe_load(source.read_text(encoding="utf-8"))
    root = source.parent / content.get("path", "")
    folder = arguments.out / "oracle" / name.partition("=")[0]
    if not (folder / "data.yaml").exists():
        labelled = sorted((root / content["train"]).iterdir())
        footage = sorted(Path(arguments.footage).iterdir())
        for kind in ("images", "labels"):
            (folder / kind / "train").mkdir(parents=True, exist_ok=True)
        for time in range(max(1, round(len(footage) / len(labelled)))):
            for picture in labelled:
                label = Path(str(picture.parent).replace("images", "labels")) / f"{picture.stem}.txt"
                _copy(picture, label, folder, f"{picture.stem}-{time}")
        for picture in footage:
            _copy(picture, Path(arguments.oracle) / f"{picture.stem}.txt", folder, f"footage-{picture.stem}")
        splits = {split: str((root / content[split]).resolve()) for split in ("val", "test") if content.get(split)}
        description = {"train": str((folder / "images/train").resolve()), **splits, "names": content["names"]}
        (folder / "data.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    return folder / "data.yaml"


def _copy(picture: Path, label: Path, folder: Path, stem: str) -> None:
    shutil.copy(picture, folder / "images/train" / f"{stem}{picture.suffix}")
    text = label.read_text(encoding="utf-8") if label.exists() else ""
    (folder / "labels/train" / f"{stem}.txt").write_text(text, encoding="utf-8")


def oracle_options(grid: list[str], data: Path, plain: Path, arguments: argparse.Namespace) -> list[str]:
    """The options of the grid on the oracle's data: twice the pictures a step, as many steps."""
    steps = next(each["steps"] for each in _table(plain)["runs"] if each["mode"] == PLAIN)
    batch = 2 * 8
    pictures = sum(1 for _ in (data.parent / "images/train").iterdir())
    epochs = max(1, round(steps / math.ceil(pictures / batch)))
    place = grid.index("--data") + 1
    return [
        *grid[:place],
        str(data),
        *grid[place + 1 :],
        *("--batch-size", str(batch), "--nominal-batch", str(batch)),
        *("--epochs", str(epochs), "--val-every", "1", "--close-mosaic", str(max(1, epochs // 3))),
    ]


def _table(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "table.json").read_text(encoding="utf-8"))


def suffix(arguments: argparse.Namespace) -> str:
    """What tells the folders of other fine-tunes than the usual apart."""
    times = f"-x{arguments.times}" if arguments.times > 1 else ""
    return times + (f"-lr{arguments.lr0}" if arguments.lr0 else "")


def train(arguments: argparse.Namespace) -> None:
    """Everything that is still to be trained."""
    for each in arguments.sets:
        name, chosen = each.partition("=")[0], study(each, arguments)
        line = arguments.out / "train_prune" / name
        if not (line / "report.html").exists():
            options = [*chosen.line, "--prune", "params=0.1", "--no-then-kd", "--no-compare-plain", "--no-reconstruct"]
            run("train_prune.py", line, options, arguments)
        for wanted in arguments.students:
            thin, ancestor = student(wanted, line, chosen, arguments)
            networks = ["--weights", str(thin), "--t_weights", str(line / "baseline/weights/best.pt")]
            grid = [*chosen.grid, *networks]
            if arguments.times > 1:
                grid += ["--epochs", str(arguments.times * chosen.epochs)]
            folder = arguments.out / "ablate" / f"{thin.parents[1].name}{suffix(arguments)}"
            seeds = ["--seeds", arguments.seeds]
            run("finetune_kd.py", folder, [*grid, "--ablate", rows(ancestor, arguments), *seeds], arguments)


def train_oracle(arguments: argparse.Namespace) -> None:
    """The plain fine-tune with the true labels of the footage."""
    for each in arguments.sets:
        name, chosen = each.partition("=")[0], study(each, arguments)
        line = arguments.out / "train_prune" / name
        for wanted in arguments.students:
            thin, _ = student(wanted, line, chosen, arguments)
            plain = arguments.out / "ablate" / f"{thin.parents[1].name}{suffix(arguments)}"
            options = oracle_options(chosen.grid, with_oracle(each, arguments), plain, arguments)
            for seed in parse_seeds(arguments.seeds):
                folder = arguments.out / "finetune_kd" / f"{plain.name}-oracle-{seed}"
                if not (folder / "report.html").exists():
                    start = ["--weights", str(thin), "--kd", "none", "--seed", str(seed)]
                    run("finetune_kd.py", folder, [*options, *start], arguments)


def told(folder: Path) -> list[str]:
    """A table as text: what the cut took, what is left of mAP, what every row reached."""
    content = _table(folder)
    cut = models.read_checkpoint(content["settings"]["weights"])["extra"]["pruning"]
    alive = cut.get("alive")
    lines = [
        folder.name,
        f"  {alive:.1%} of all |gamma| went with channels that were alive" if alive is not None else "",
        "",
    ]
    return [*lines, (folder / "table.txt").read_text(encoding="utf-8").split("\n\n")[0], ""]


def figure(arguments: argparse.Namespace) -> None:
    """mAP50-95 against the share of parameters, a panel a set, a line a row of the tables; bars are standard
    deviations over seeds."""
    panels: dict[str, list[tuple[float, list[dict[str, Any]]]]] = {}
    for folder in sorted((arguments.out / "ablate").iterdir()):
        named = re.fullmatch(r"(.+)-sparse-([0-9.]+)" + re.escape(suffix(arguments)), folder.name)
        if named and (folder / "table.json").exists():
            panels.setdefault(named[1], []).append((float(named[2]), _table(folder)["rows"]))
    drawn, every = new_figure(1, len(panels), width=3.4 * len(panels), height=3.4)
    colours: dict[str, str] = {}  # a row has one in all panels
    for axes, (name, points) in zip(every, panels.items()):
        points.sort(key=lambda point: point[0])
        for row in _shown_rows(points):
            found = [(share, each) for share, table in points for each in table if each["mode"] == row]
            axes.errorbar(
                [100 * share for share, _ in found],
                [each["mAP50-95 mean"] for _, each in found],
                [each["mAP50-95 sd"] or 0.0 for _, each in found],
                color=colours.setdefault(_short(row), LINES[len(colours) % len(LINES)]),
                marker="o",
                markersize=3,
                capsize=2,
                label=_short(row),
            )
        teacher = next(each["mAP50-95 mean"] for each in points[0][1] if each["mode"] == "teacher")
        axes.axhline(teacher, color=GREY, linewidth=1)
        ticks = [100 * share for share, _ in points]
        axes.set(
            title=name,
            xticks=ticks,
            xlim=(min(ticks) - 1, max(ticks) + 1),
            xlabel="share of the parameters, %",
            ylabel="mAP50-95",
        )
    max(every, key=lambda axes: len(axes.get_legend_handles_labels()[1])).legend(fontsize=7)
    save_figure(drawn, arguments.figure)


def _shown_rows(points: list[tuple[float, list[dict[str, Any]]]]) -> list[str]:
    """The rows that every student of a set has."""
    names = [
        [row["mode"] for row in table if row["difference"] is not None or row["mode"] == PLAIN] for _, table in points
    ]
    return [name for name in names[0] if all(name in other for other in names)]


def _short(row: str) -> str:
    """A row's name without files."""
    return re.sub(r"=\S*/\S*", "", row)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--sets", nargs="+", default=[], help="demo, or NAME=YAML")
    parser.add_argument("--weights", default="", help="the YOLOv5n that all sets but demo start from")
    parser.add_argument("--students", nargs="+", default=["sparse=0.05"], help="sparse=SHARE or baseline=SHARE")
    parser.add_argument(
        "--modes",
        default="none; scaled,bounded; none reconstruct; scaled,bounded reconstruct",
        help='as --ablate: "none; hinton; none reconstruct"',
    )
    parser.add_argument("--seeds", default="5", help="as --seeds of the grid (default: 5, which is 0-4)")
    parser.add_argument("--imgsz", default="224", help="all sets but demo: 224, or WIDTHxHEIGHT (default: 224)")
    parser.add_argument("--epochs", type=int, default=25, help="of the baseline and of the sparse stage (default: 25)")
    parser.add_argument("--sparse-epochs", type=int, default=0, help="of the sparse stage, if they are others")
    parser.add_argument("--times", type=int, default=1, help="fine-tunes so many times as long (default: 1)")
    parser.add_argument("--lr0", default="", help="of the fine-tunes (default: their recipe's)")
    parser.add_argument("--footage", default="", help="pictures without labels: a folder")
    parser.add_argument("--oracle", default="", help="the folder of their true labels, for the oracle alone")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--figure", type=Path, help="only draw what is there, into this PNG")
    parser.add_argument("--amp", default="auto", help="of all trainings: auto, native, off (default: auto)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    if arguments.table:
        for folder in sorted((arguments.out / "ablate").glob("*/table.json")):
            print("\n".join(told(folder.parent)))
    elif arguments.figure:
        figure(arguments)
    elif arguments.oracle:
        train_oracle(arguments)
    else:
        train(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
