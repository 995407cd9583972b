"""A run's record with every part, and names that try to be more than names."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from engine.bootstrap import Matches
from engine.plots import plot_channels
from reporting.record import FOLDER, Record
from reporting.report import Row

BASE = Row("baseline", 1_000_000, 4.0, 2e9, 10.0, 0.90, 0.600, epochs=16)
STUDENT = Row("student", 200_000, 0.8, 5e8, 4.0, 0.89, 0.590, epochs=31)
AGAINST = {"difference": -0.01, "low": -0.016, "high": -0.004, "pictures": 200}
HOSTILE = (
    "<script>document.title = 'broken'</script>",
    "\"'><img src=x onerror=\"document.title='broken'\">",
    "two\nlines\tand a tab",
    "\u202eright to left\u202c\u200f",
    "{{ 7 * 7 }} {% raw %} ${1} </style></svg>",
    "very-long-" * 200,
)


def matches(pictures: int = 40, right: float = 0.7, seed: int = 0) -> Matches:
    """Of one class with an object a picture, of which a share is found."""
    found = np.random.default_rng(seed).random(pictures) < right
    numbers, label = np.arange(pictures, dtype=np.int32), np.zeros(pictures, np.int32)
    return Matches(numbers, label, np.repeat(found[:, None], 10, 1), np.ones((pictures, 1), np.int32))


def point(name: str, kind: str, ms: float | None, score: float, file: str = "") -> dict[str, object]:
    """A mark of the accuracy-latency figure."""
    measured = {"map50_95": score, "against": AGAINST, "macs": 1e9, "ms": ms, "megabytes": 0.8}
    return {"name": name, "kind": kind, "size": [64, 96], "runtime": "onnxruntime", "file": file, **measured}


def full_record(run: Path, names: tuple[str, ...] = ("cat", "dog"), name: str = "a run") -> Record:
    """A record with all there is; its files lie in `run`. `name` is the run's, and that of files and settings."""
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(0).integers(0, 255, (90, 160, 3)).astype(np.uint8)
    cv2.imwrite(str(run / FOLDER / "0.jpg"), picture)
    (run / "results.csv").write_text(
        "epoch,train/box,student/mAP50-95,teacher/mAP50-95,gamma/q5,gamma/q50,gamma/q95\n"
        + "".join(f"{n},{2 / n},{0.1 * n},0.5,{0.01 * n},{0.1 * n},{n}\n" for n in range(1, 6))
    )
    plot_channels([(0, 16, 8), (2, 32, 4)], run / "channels.png")
    objects = [
        {"label": 0, "box": [10.0, 10.0, 60.0, 50.0], "first": 0.9, "second": None},
        {"label": 1, "box": [80.0, 20.0, 150.0, 80.0], "first": 0.8, "second": 0.7},
        {"label": 1, "box": [5.0, 60.0, 30.0, 88.0], "first": None, "second": None},
    ]
    false = [{"label": 0, "box": [40.0, 5.0, 90.0, 40.0], "confidence": 0.4, "by": "second"}]
    split = {"count": 40, "sha256": "a", "contents": "b", "labels": "c"}
    return {
        "title": name,
        "asked": "cut to params=0.2",
        "made": "2026-01-02 03:04 UTC",
        "machine": "a machine",
        "data": {
            "name": name,
            "classes": list(names),
            "pictures": {"train": 100, "test": 40},
            "identity": {"test": split, "names": list(names)},
        },
        "split": "test",
        "size": [64, 96],
        "verdict": "student against baseline: 80 % fewer.\nstudent against plain: no difference shown.",
        "lead": "student against baseline: it detects worse: mAP50-95 0.600 -> 0.590 (-0.010; -0.016 to -0.004).",
        "interval": AGAINST,
        "rows": [asdict(BASE), {**asdict(STUDENT), "note": name}],
        "baseline": "baseline",
        "last": "student",
        "measured_with": "CPU (ms): CPU time in PyTorch",
        "counted": "mAP counts 100 boxes",
        "rivals": ["baseline at 48x32 against student: it detects worse."],
        "points": [  # type: ignore[typeddict-item]
            point("baseline", "fat", 10.0, 0.6),
            point("baseline at 48x32", "smaller", 4.0, 0.5),
            point("student", "cut", 4.0, 0.59, "student/export/student.onnx"),
            point("student, INT8", "file", 2.0, 0.585, f"student/export/{name}.onnx"),
        ],
        "timed": "CPU time of one picture in ONNX Runtime",
        "ship": 3,
        "ship_why": "The fastest file.",
        "classes": [{"name": each, "boxes": 20, "first": 0.6, "second": 0.59, "against": AGAINST} for each in names],
        "tally": {
            "objects": 3,
            "both": 1,
            "first": 1,
            "second": 0,
            "neither": 1,
            "false_first": 0,
            "false_second": 1,
        },
        "pictures": [
            {
                "file": f"{FOLDER}/0.jpg",
                "name": name,
                "size": [90, 160],
                "scale": 1.0,
                "objects": objects,
                "false": false,
            }
        ],
        "cut": [{"title": "what the cut did", "plain": ["Half of it went."], "text": f"asked: {name}"}],
        "channels": "channels.png",
        "layers": [{"layer": 0, "before": 16, "after": 8}, {"layer": 2, "before": 32, "after": 4}],
        "results": {"baseline": "results.csv", "never ran": "absent/results.csv"},
        "figures": [[name, "channels.png"], ["gone", "gone.png"]],
        "settings": {"run": {"name": name, "augment": {"mosaic": 0.5}}},
        "lineage": [{"kind": "baseline", "sha256": "a1b2", "layers": 2}],
    }
