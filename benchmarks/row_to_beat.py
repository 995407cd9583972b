"""Against YOLOv5s on face masks: how much smaller and faster a pruned, distilled INT8 student is, and what it costs.

    python benchmarks/row_to_beat.py --weights yolov5n_v6.1.pt --data face_mask/data.yaml --out runs/row_to_beat

A published YOLOv5s for face masks went from 29 MB and 400 ms to 1.3 MB and 30 ms (ONNX Runtime on a CPU, 1280x800
input): 22 times smaller, 13 times faster. Here three networks are trained at the same size, each until its val mAP no
longer rises: YOLOv5s from random weights, YOLOv5n from its published ones, and the student that ``--hyp face_mask``
cuts out of that YOLOv5n. Their files are timed side by side at 1280x800 and scored on the test split at the training
size; the same files, whose input size is open. The mAP bound is against the better of the two baselines.

What is there already is not done again, a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.child import line_command, run_python
from common.errors import run_cleanly
from common.files import whole_file
from data import Dataset, load_spec, make_loader
from engine.evaluate import detect
from engine.metrics import coco_scores
from engine.plots import plot_compared
from export.opening import input_size, open_model
from reporting.tables import table

ROOT = Path(__file__).resolve().parents[1]
SMALLER, FASTER, BELOW = 22, 13, 0.02
INPUT = "1280x800"
RESAMPLED = 300
# YOLOv5s has no published weights here: random ones need more epochs, and a longer memory of their average.
FROM_RANDOM = {
    "--epochs": 80,
    "--batch-size": 8,
    "--nominal-batch": 8,
    "--optimizer": "adamw",
    "--lr0": 0.001,
    "--warmup-epochs": 3,
    "--ema-decay": 0.995,
    "--close-mosaic": 20,
    "--val-every": 4,
    "--cache": "ram",
    "--workers": 0,
}


@dataclass(frozen=True)
class Row:
    """One file of the comparison.

    Attributes:
        parameters: of its network.
        bytes: of the file.
        map50_95, map50: of the file, on test, at the training size.
        milliseconds: a picture of `INPUT`, median by the clock.
        faster: the first row's time over this one's, the median over rounds.
        faster_cpu: the same in CPU time, which other programs on the machine stretch less.
    """

    name: str
    parameters: int
    bytes: int
    map50_95: float
    map50: float
    milliseconds: float
    faster: float
    faster_cpu: float


def train(folder: Path, done: str, options: list[object], arguments: argparse.Namespace) -> Path:
    """A run of `train_prune.py`, begun, gone on with, or left as it is; its network is in `done`."""
    shared = ["--data", arguments.data, "--imgsz", arguments.imgsz, "--seed", arguments.seed, "--wandb", "off"]
    shared += ["--amp", arguments.amp]
    if not (folder / "report.html").exists():
        command = line_command(folder, [*options, *shared])
        run_python(ROOT / "train_prune.py", *command, "--threads", arguments.threads, cwd=ROOT)
    return folder / done


def trained(arguments: argparse.Namespace) -> dict[str, Path]:
    """The three networks."""
    runs = arguments.out / "train_prune"
    best = "baseline/weights/best.pt"
    flags = [part for pair in FROM_RANDOM.items() for part in pair]
    small = train(runs / "yolov5s", best, ["--cfg", "yolov5s", "--stages", "baseline", *flags], arguments)
    tuned = ["--hyp", "bccd", "--weights", arguments.weights, "--stages", "baseline", "--epochs", 60]
    nano = train(runs / "yolov5n", best, tuned, arguments)
    student = train(runs / "student", "student/weights/best.pt", ["--hyp", "face_mask", "--weights", nano], arguments)
    return {"yolov5s": small, "yolov5n": nano, "student": student}


def exported(name: str, weights: Path, arguments: argparse.Namespace) -> None:
    """Files of a network that take any input size, scored on test at the training size."""
    # The student's convolutions are all to be in INT8 if val allows it: a first one in FP32 costs time.
    bound = ["--max-drop", 0.01] if name == "student" else []
    run_python(
        "-m",
        "thinyolo",
        "export",
        "--weights",
        weights,
        "--to",
        "onnx,int8",
        "--dynamic",
        "size",
        "--imgsz",
        arguments.imgsz,
        "--data",
        arguments.data,
        "--split",
        "test",
        "--out",
        arguments.out / "export",
        "--name",
        name,
        "--no-latency",
        "--threads",
        arguments.threads,
        *bound,
        cwd=ROOT,
    )


def compared(files: dict[str, Path], arguments: argparse.Namespace) -> list[Row]:
    """Every file timed in one process, in interleaved rounds."""
    times = arguments.out / "latency.json"
    run_python(
        "-m",
        "thinyolo",
        "latency",
        *files.values(),
        "--imgsz",
        INPUT,
        "--threads",
        arguments.threads,
        "--rounds",
        arguments.rounds,
        "--no-memory",
        "--json",
        times,
        cwd=ROOT,
    )
    timed = json.loads(times.read_text(encoding="utf-8"))["rows"]
    rows = []
    for (name, path), time in zip(files.items(), timed):
        card = json.loads(Path(f"{path}.card.json").read_text(encoding="utf-8"))
        scores, latency = card["file"]["scores"], time["latency"]
        rows.append(
            Row(
                name,
                card["network"]["parameters"],
                path.stat().st_size,
                scores["mAP50-95"],
                scores["mAP50"],
                latency["median_ms"],
                1 / latency["ratio_to_first"],
                1 / latency["cpu_ratio"],
            )
        )
    return rows


def better_baseline(rows: list[Row]) -> Row:
    return max((row for row in rows if row.name in ("yolov5s", "yolov5n")), key=lambda row: row.map50)


def chance(better: Path, student: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """95 % of the differences in mAP50, student - better, over resampled test pictures (percentile bootstrap)."""
    networks = [open_model(path, threads=arguments.threads) for path in (better, student)]
    spec, size = load_spec(arguments.data), input_size(arguments.imgsz, networks[0])
    loader = make_loader(Dataset(spec, "test", size, cache="ram"), 16, shuffle=False)
    found = [detect(network, loader)[0] for network in networks]
    generator, count = np.random.default_rng(0), len(found[0])
    differences = []
    for _ in range(RESAMPLED):
        chosen = generator.integers(0, count, count)
        fat, thin = (coco_scores([each[number] for number in chosen], len(spec.names)).mean(0) for each in found)
        differences.append(thin - fat)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def verdict(rows: list[Row]) -> list[str]:
    """The bounds, and whether the last row, the student in INT8, keeps them."""
    fat, student, better = rows[0], rows[-1], better_baseline(rows)
    smaller, drop = fat.bytes / student.bytes, better.map50 - student.map50
    lines = []
    in_cpu_time = f"(in CPU time {student.faster_cpu:.1f} x)"
    for what, kept in (
        (f"{smaller:.1f} x smaller than {fat.name} (to beat: {SMALLER} x)", smaller >= SMALLER),
        (f"{student.faster:.1f} x faster {in_cpu_time} at {INPUT} (to beat: {FASTER} x)", student.faster >= FASTER),
        (
            f"test mAP50 {student.map50:.4f} against {better.map50:.4f} of {better.name}, the better baseline: "
            f"{-drop:+.4f} (allowed: {-BELOW:+.2f})",
            drop <= BELOW,
        ),
    ):
        lines.append(f"{'kept  ' if kept else 'MISSED'} {what}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="published weights of YOLOv5n")
    parser.add_argument("--data", type=Path, required=True, help="the data set's yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--imgsz", default="256x192", help="size of training and scoring (default: 256x192)")
    parser.add_argument("--seed", type=int, default=0, help="of all trainings (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--amp", default="auto", help="of all trainings: auto, native, off (default: auto)")
    parser.add_argument("--rounds", type=int, default=30, help="of the latency measurement (default: 30)")
    arguments = parser.parse_args()
    for name in ("weights", "data", "out"):
        setattr(arguments, name, getattr(arguments, name).resolve())
    networks = trained(arguments)
    files = {}
    for name, weights in networks.items():
        exported(name, weights, arguments)
        files[name] = arguments.out / "export" / f"{name}.onnx"
        files[f"{name}, INT8"] = arguments.out / "export" / f"{name}-int8.onnx"
    rows = compared(files, arguments)
    curves = {name: path.parents[1] / "results.csv" for name, path in networks.items()}
    plot_compared(curves, "val/mAP50", arguments.out / "curves.png")
    head = ["", "parameters", "file MB", "test mAP50-95", "mAP50", f"ms at {INPUT}", "faster", "in CPU time"]
    body = [
        [
            row.name,
            f"{row.parameters:,}",
            f"{row.bytes / 1e6:.2f}",
            f"{row.map50_95:.4f}",
            f"{row.map50:.4f}",
            f"{row.milliseconds:.1f}",
            f"{row.faster:.1f} x",
            f"{row.faster_cpu:.1f} x",
        ]
        for row in rows
    ]
    low, high = chance(files[better_baseline(rows).name], files[rows[-1].name], arguments)
    lucky = f"       over {RESAMPLED} resamplings of the test pictures: {low:+.4f} to {high:+.4f} (95 %)"
    text = "\n".join([table(head, body), *verdict(rows), lucky])
    print(text)
    with whole_file(arguments.out / "table.txt") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="The same command goes on."))
