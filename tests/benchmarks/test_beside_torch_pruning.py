"""The comparison with Torch-Pruning's example: it runs as it is and ends before it trains; the rate is searched."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import beside_torch_pruning as beside
from common.errors import UserError
from tests.cli.material import make_set

# Stands for the example: cuts, trains, and saves as the other program's trainer does.
EXAMPLE = """
import sys
from pathlib import Path
import numpy
from ultralytics.yolo.utils import callbacks
class Trainer:
    def save_model(self):
        path = Path("runs/detect/exp/weights/best.pt")
        path.parent.mkdir(parents=True)
        data = Path("coco128.yaml").read_text()
        path.write_text(f"{__name__} {sys.argv[1:]} {self.epoch} {numpy.trapz([1, 1])} {data}")
for call in callbacks.default_callbacks["on_train_start"]:
    call(Trainer())
Path("trained").touch()
"""


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    out, example, weights = tmp_path / "out", tmp_path / "example.py", tmp_path / "yolo.pt"
    for name, content in {
        "torch_pruning/__init__.py": "",
        "ultralytics/yolo/__init__.py": "",
        "ultralytics/yolo/cfg/default.yaml": "imgsz: 640\nlr0: 0.01\n",
        "ultralytics/yolo/utils/__init__.py": "",
        "ultralytics/yolo/utils/callbacks.py": "default_callbacks = {'on_train_start': []}",
    }.items():
        path = out / "environment" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    example.write_text(EXAMPLE, encoding="utf-8")
    weights.write_bytes(b"network")
    return argparse.Namespace(
        out=out, example=example, weights=weights, data=make_set(tmp_path / "set") / "data.yaml", imgsz="64"
    )


def test_the_example_runs_as_it_is_and_ends_before_it_trains(arguments: argparse.Namespace) -> None:
    example = beside.Example(arguments)
    said = example.cut(0.25).read_text(encoding="utf-8")
    assert said.startswith("__main__ ['--model', 'fat.pt'")
    assert "'--iterative-steps', '1', '--target-prune-rate', '0.25'] 0 1.0" in said
    assert str(example.folder / "pictures") in said
    assert not (example.folder / "trained").exists()
    assert "imgsz: 64" in (example.folder / "options.yaml").read_text(encoding="utf-8")


def test_what_is_cut_already_is_not_cut_again(arguments: argparse.Namespace) -> None:
    done = beside.Example(arguments).cut(0.25)
    arguments.example.write_text("raise RuntimeError", encoding="utf-8")
    assert beside.Example(arguments).cut(0.25) == done
    with pytest.raises(UserError, match=r"log\.txt"):
        beside.Example(arguments).cut(0.5)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_rate_that_leaves_a_share_is_found(share: float) -> None:
    rate = beside.search(lambda rate: (1 - rate) ** 2, share)
    assert (1 - rate) ** 2 == pytest.approx(share, abs=beside.CLOSE)


def test_a_share_that_no_rate_leaves_is_refused_with_what_was_tried() -> None:
    with pytest.raises(UserError, match=r"no rate.*leaves 0\.2000"):
        beside.search(lambda rate: 0.7 if rate < 0.5 else 0.2, 0.4)


def test_the_table_tells_how_far_the_seeds_lie_apart() -> None:
    found = {"a": {"not fine-tuned": [0.1], "none": [0.2, 0.4]}}
    row = beside.text({"a": (1000, 0.4)}, found).splitlines()[-1].split()
    assert row == ["a", "1,000", "0.4000", "0.1000", "0.3000", "(0.2000", "to", "0.4000)", "-"]
