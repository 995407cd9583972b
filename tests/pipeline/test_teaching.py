"""What is said of a teacher before the first step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data import DataSpec
from engine.config import TrainConfig
from pipeline.teaching import BesideTeacher, announce_teacher, teacher_scores
from tests.data.made import write_picture


def score(value: float) -> Any:
    return SimpleNamespace(map50_95=value, map50=value + 0.2)


@pytest.mark.parametrize(
    ("train", "val", "start", "said"),
    [
        (0.43, 0.317, 0.1, "may know them by heart"),
        (0.36, 0.317, 0.1, ""),
        (0.30, 0.317, 0.1, ""),
        (0.43, 0.317, 0.4, "little to teach"),
    ],
    ids=["by heart", "a little better", "worse", "worse than its student"],
)
def test_teacher_that_can_be_of_no_use_is_warned_of(
    caplog: pytest.LogCaptureFixture, train: float, val: float, start: float, said: str
) -> None:
    caplog.set_level("INFO", "thinyolo")
    announce_teacher({"val": score(val), "train": score(train)}, start)
    assert f"teacher on val: mAP50-95 {val:.4f}" in caplog.messages[0]
    assert f"teach on: mAP50-95 {train:.4f}" in caplog.messages[0]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == bool(said)
    assert said in "".join(warned)


class Reached:
    def __init__(self, value: float, **classes: float):
        self.values = {"mAP50-95": value, "mAP50": value * 0.5, "mAP75": value}
        self.classes = {f"{kind}/{name}": each for name, each in classes.items() for kind in ("AP50-95", "AP50")}

    def as_dict(self, classes: bool = False) -> dict[str, float]:
        return self.values | (self.classes if classes else {})


def test_student_stands_beside_its_teacher_in_the_whole_and_class_by_class() -> None:
    net: Any = None
    student, teacher = Reached(0.25, cat=0.5, dog=0.0), Reached(0.75, cat=1.0)
    found = BesideTeacher(teacher).after_validation(net, net, student, net)  # type: ignore[arg-type]
    assert list(found.items()) == [
        ("student/mAP50-95", 0.25),
        ("student/mAP50", 0.125),
        ("student/AP50-95/cat", 0.5),
        ("student/AP50-95/dog", 0.0),
        ("teacher/mAP50-95", 0.75),
        ("teacher/mAP50", 0.375),
        ("teacher/AP50-95/cat", 1.0),
        ("gap/mAP50", 0.25),
        ("gap/AP50-95/cat", 0.5),
        ("gap", 0.5),
    ]
    alone = BesideTeacher(None).after_validation(net, net, student, net)  # type: ignore[arg-type]
    assert alone == {"student/mAP50-95": 0.25, "student/mAP50": 0.125}


def test_teacher_is_also_scored_on_as_many_of_its_pupils_pictures_as_val_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those without an object, which no score is made of, do not count."""
    splits: dict[str, tuple[Path, ...]] = {}
    for split, count in (("train", 9), ("val", 2)):
        paths = [tmp_path / "images" / split / f"{number}.png" for number in range(count)]
        for number, path in enumerate(paths):
            write_picture(path, np.zeros((16, 16, 3), np.uint8))
            label = tmp_path / "labels" / split / f"{number}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 .5 .5 .2 .2\n" if number % 2 == 0 else "")
        splits[split] = tuple(paths)
    asked: list[tuple[tuple[str, ...], tuple[Path, ...]]] = []

    def scored(network: Any, spec: DataSpec, config: Any, folder: Any = None, splits: Any = ("val", "test")) -> dict:
        asked.append((splits, spec.splits["train"]))
        return dict.fromkeys(splits, score(0.5))

    monkeypatch.setattr("pipeline.teaching.scores", scored)
    spec = DataSpec(("a",), splits, tmp_path / "data.yaml")
    found = teacher_scores(SimpleNamespace(network=None, folds=None), spec, TrainConfig())  # type: ignore[arg-type]
    assert set(found) == {"train", "val", "test"}
    assert asked == [(("val", "test"), splits["train"]), (("train",), splits["train"][0:9:4])]
