"""The benchmark of training: every part has a row, and the other program's trainer is timed between its callbacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import throughput
from common.errors import UserError
from tests.cli.material import make_set
from tests.nets import TINY

# Stands for the other program: burns CPU time before each batch and a fourth of it in the batch.
STAND_IN = """
import time
__version__ = "0.0"
class YOLO:
    def __init__(self, cfg, task):
        self.cfg, self.calls = cfg, {}
    def add_callback(self, event, call):
        self.calls[event] = call
    def train(self, data, imgsz, batch, nbs, project, **others):
        assert self.cfg == "tiny.cfg.yaml" and imgsz == 64 and batch == nbs == 4 and open(data)
        self.calls["on_train_start"](self)
        for epoch in range(1000):
            self.calls["on_train_epoch_start"](self)
            for _ in range(3):
                burn(.04)
                self.calls["on_train_batch_start"](self)
                burn(.01)
                self.calls["on_train_batch_end"](self)
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options of a quick measurement."""
    data = make_set(tmp_path / "set") / "data.yaml"
    (tmp_path / "tiny.cfg").write_text(TINY["residual"], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield ["--cfg", "tiny.cfg", "--imgsz", "64", "--data", str(data), "--batch", "4", "--rounds", "2", "--steps", "4"]
    torch.set_num_threads(threads)


def rival(tmp_path: Path, program: str) -> str:
    package = tmp_path / "rival" / "ultralytics"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(program, encoding="utf-8")
    return str(package.parent)


def test_every_part_has_a_row_and_a_rivals_pictures_count_apart(
    pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert throughput.main([*pictures, "--rival", rival(tmp_path, STAND_IN)]) == 0
    shown = capsys.readouterr().out
    assert "ultralytics 0.0" in shown
    rates = {}
    for name in (throughput.STEP, throughput.FED, throughput.ALONE, throughput.RIVAL, throughput.RIVAL_FED):
        row = next(line for line in shown.splitlines() if line.startswith(name + "  "))
        rates[name] = float(row.removeprefix(name).split()[0])
    assert rates[throughput.STEP] > rates[throughput.FED]
    assert 3.5 < rates[throughput.RIVAL] / rates[throughput.RIVAL_FED] < 6.5  # .01 of .05 seconds
    assert not list((tmp_path / "set").rglob("*.cache"))


def test_a_rival_that_ends_is_said_with_its_own_words(pictures: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such thing"):
        throughput.main([*pictures, "--rival", rival(tmp_path, "raise ImportError('no such thing')")])


def test_shares_are_of_the_same_round() -> None:
    """A machine twice as slow in one round stretches both: the ratio stays."""
    step = np.array([1.0, 2.0, 1.0])
    shown = throughput.text({throughput.STEP: step, throughput.ALONE: step * 0.5}, pictures=10)
    assert "0.500  0.500 to 0.500" in shown
    assert "20.0" in shown
