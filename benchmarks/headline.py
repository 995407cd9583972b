"""YOLOv3 from random weights on real pictures, cut to 18 % and to 2.2 % of its parameters, and told what that costs.

    python benchmarks/headline.py --data hand_gesture/data.yaml --out runs/headline

Published for YOLOv3 by channel and layer pruning, each on its author's data: mAP50 .769 -> .775 at 82 % fewer
parameters and 71 % fewer multiply-adds (noise of +-.02, he says), and .83 -> .79 at 97.8 % fewer. Here one baseline and
one sparse network are trained, and three cuts of the sparse one fine-tuned with and without a teacher, by default the
sparse network itself: it is as fat as the baseline and was trained on from it.

- a: 18 % of the parameters;
- b: 2.2 %;
- c: 2.2 %, and 16 of the 23 shortcut blocks gone as well.

The sparse stage aims at c. Then the files of the baseline and of the best of each cut are timed in ONNX Runtime (FP32
and INT8) in interleaved rounds of one process, and the test split is scored.

What is there already is not done again, what was stopped goes on: the same command later.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from common.child import line_command, run_python
from common.errors import run_cleanly
from common.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
ROWS = ("none", "scaled,bounded")


def cuts(blocks: int) -> dict[str, list[str]]:
    """What each cut asks for."""
    deep = ["--prune", "params=0.022"]
    return {"a": ["--prune", "params=0.18"], "b": deep, "c": [*deep, "--shortcuts", str(blocks)]}


class Stages:
    """Runs what is not done yet, and keeps what each stage took: wall and CPU seconds, over all its sessions."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.path = arguments.out / "times.json"
        self.times: dict[str, list[float]] = read_json(self.path) if self.path.exists() else {}

    def run(self, name: str, done: Path, *command: object) -> None:
        """`command`, unless `done` is there; its time is added even where it is stopped."""
        if done.exists():
            return
        wall, cpu = time.monotonic(), _children()
        try:
            run_python(*command, cwd=ROOT)
        finally:
            before = self.times.get(name, [0.0, 0.0])
            self.times[name] = [before[0] + time.monotonic() - wall, before[1] + _children() - cpu]
            write_json(self.path, self.times)
            print(f"{name}: {self.times[name][0] / 60:.1f} minutes, {self.times[name][1] / 60:.1f} of CPU", flush=True)

    def line(self, name: str, *options: object) -> Path:
        """A run of `train_prune.py`, begun or gone on with."""
        folder = self.arguments.out / "train_prune" / name
        command = line_command(folder, [*options, *self.shared])
        threads = ["--threads", self.arguments.threads]
        self.run(name, folder / "report.html", ROOT / "train_prune.py", *command, *threads)
        return folder

    @property
    def shared(self) -> list[object]:
        """Options of every training."""
        given = self.arguments
        pictures, how = ["--data", given.data, "--imgsz", given.imgsz], ["--seed", given.seed, "--amp", given.amp]
        return [*pictures, *how, "--wandb", "off"]


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trained(stages: Stages) -> dict[str, Path]:
    """The baseline, each cut's network as it was cut, and the baseline that was trained as long; fine-tunes them."""
    given = stages.arguments
    epochs = ["--epochs", given.epochs, "--sparse-epochs", given.sparse_epochs]
    whole = ["--hyp", given.hyp, "--cfg", given.cfg, "--stages", "baseline,sparse,prune", *epochs, "--no-then-kd"]
    wanted = cuts(given.blocks)
    line = stages.line("line", *whole, *wanted["c"])
    teachers = {"baseline": line / "baseline/weights/best.pt", "sparse": line / "sparse/weights/sparse.pt"}
    found = {"baseline": teachers["baseline"]}
    for name, cut in wanted.items():
        sparse = ["--hyp", given.hyp, "--weights", teachers["sparse"], "--stages", "prune"]
        folder = stages.line(f"cut-{name}", *sparse, *cut, "--no-then-kd")
        found[name] = folder / "pruned/pruned.pt"
        networks = ["--weights", found[name], "--t_weights", teachers[given.teacher], "--exist-ok"]
        tune = [
            "--hyp",
            "small_data_kd",
            "--epochs",
            given.finetune_epochs,
            "--lr0",
            given.finetune_lr0,
            "--ablate",
            "; ".join(ROWS),
            "--seeds",
            "1",
        ]
        table = given.out / "ablate" / f"tuned-{name}" / "table.json"
        place = ["--project", given.out, "--name", f"tuned-{name}", "--threads", given.threads]
        command = [ROOT / "finetune_kd.py", *tune, *networks, *stages.shared, *place]
        stages.run(f"tuned-{name}", table, *command)
    if given.equal_baseline:
        long = given.epochs + given.sparse_epochs + given.finetune_epochs
        fat = ["--hyp", given.hyp, "--cfg", given.cfg, "--stages", "baseline", "--epochs", long, "--no-then-kd"]
        found["equal"] = stages.line("equal", *fat) / "baseline/weights/best.pt"
    return found


def exported(stages: Stages, networks: dict[str, Path]) -> list[Path]:
    """ONNX and INT8 files, scored on test."""
    given = stages.arguments
    files: list[Path] = []
    for name, path in networks.items():
        folder = given.out / "export"
        written = [folder / f"{name}.onnx", folder / f"{name}-int8.onnx"]
        options = ["--weights", path, "--to", "onnx,int8", "--imgsz", given.imgsz, "--data", given.data]
        place = ["--split", "test", "--out", folder, "--name", name, "--no-latency", "--threads", given.threads]
        stages.run(f"export-{name}", written[-1], "-m", "thinyolo", "export", *options, *place)
        files += written
    return files


def best_of(out: Path, name: str) -> Path:
    """The fine-tuned network of a cut that val likes best."""
    folder = out / "ablate" / f"tuned-{name}"
    runs = read_json(folder / "table.json")["runs"]
    best = max(runs, key=lambda run: run["scores"]["val"]["mAP50-95"])
    return folder / best["mode"].replace(",", "+") / f"seed{best['seed']}" / "weights/best.pt"


def told(out: Path, files: list[Path], wanted: dict[str, list[str]]) -> str:
    """A table of all, from the records that the stages left."""
    lines = []
    for name, cut in wanted.items():
        table = (out / "ablate" / f"tuned-{name}" / "table.txt").read_text(encoding="utf-8").split("\n\n")[0]
        lines += [f"cut {name}: {' '.join(cut)}", table, ""]
    timed = read_json(out / "latency.json")["rows"]
    for path, row in zip(files, timed):
        card = json.loads(Path(f"{path}.card.json").read_text(encoding="utf-8"))
        latency: dict[str, Any] = row["latency"]
        lines.append(
            f"{path.name:20} {card['network']['parameters']:>11,} parameters, "
            f"{latency['median_ms']:7.2f} ms, {1 / latency['cpu_ratio']:5.2f} x, "
            f"mAP50-95 {card['file']['scores']['mAP50-95']:.4f}, mAP50 {card['file']['scores']['mAP50']:.4f}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a data set's yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--cfg", default="yolov3", help="(default: yolov3)")
    parser.add_argument("--hyp", default="headline", help="recipe of the long trainings (default: headline)")
    parser.add_argument("--imgsz", default="160")
    parser.add_argument("--epochs", type=int, default=12, help="of the baseline (default: 12)")
    parser.add_argument("--sparse-epochs", type=int, default=7, help="(default: 7)")
    parser.add_argument("--finetune-epochs", type=int, default=5, help="(default: 5)")
    parser.add_argument("--finetune-lr0", default="0.001", help="peak learning rate of the fine-tunes (default: 0.001)")
    parser.add_argument("--blocks", type=int, default=16, help="shortcut blocks that go in cut c (default: 16)")
    parser.add_argument("--teacher", choices=("baseline", "sparse"), default="sparse", help="(default: sparse)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--equal-baseline", action="store_true", help="and an uncut network, trained for all epochs behind a student"
    )
    parser.add_argument("--amp", default="auto", help="of all trainings: auto, native, off (default: auto)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    stages = Stages(arguments)
    networks = trained(stages)
    wanted = cuts(arguments.blocks)
    best = {name: best_of(arguments.out, name) for name in wanted}
    shipped = {name: best.get(name, path) for name, path in networks.items()}
    files = exported(stages, shipped)
    latency = ["-m", "thinyolo", "latency", *files, "--imgsz", arguments.imgsz, "--threads", arguments.threads]
    timed = arguments.out / "latency.json"
    stages.run("latency", timed, *latency, "--rounds", "30", "--no-memory", "--json", timed)
    print(told(arguments.out, files, wanted))
    for name, (wall, cpu) in stages.times.items():
        print(f"{name}: {wall / 60:.1f} minutes, {cpu / 60:.1f} of CPU")
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
