"""fp16 with a loss scale through whole commands, as on a GPU without bf16: on the CPU, where PyTorch has both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import engine.optim
import finetune_kd
import train_prune
from engine import checkpoints
from engine.precision import Precision
from tests import nets
from tests.cli.material import QUICK, in_process, make_set
from tests.engine.test_resume import assert_equal_states

LINE = (
    "--cfg",
    "net.cfg",
    "--data",
    "data.yaml",
    *QUICK,
    "--sparse-epochs",
    "2",
    "--prune",
    "params=0.5",
    "--name",
    "line",
)
PAIR = (
    *("--weights", "runs/train_prune/line/pruned/pruned.pt"),
    *("--t_weights", "runs/train_prune/line/baseline/weights/best.pt", "--kd", "scaled,bounded"),
)
# Two batches of two pictures a step.
DISTIL = ("--data", "data.yaml", *PAIR, *QUICK, "--batch-size", "2", "--epochs", "3")
TOO_LARGE = 2.0**40  # for fp16, so the first steps are skipped until the scale has come down


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Trainings are in fp16 from here on; which of their optimiser steps were skipped."""
    original, step = Precision.__init__, Precision.step
    found: list[bool] = []

    def fp16(self: Precision, mode: str = "auto", opt_level: str = "O1", device: torch.device | str = "cpu") -> None:
        original(self, "off", opt_level, device)
        self.kind, self.dtype = "native", torch.float16
        self._scaler = torch.amp.GradScaler("cpu", init_scale=TOO_LARGE, backoff_factor=2.0**-16)

    def counted(self: Precision, optimizer: torch.optim.Optimizer) -> bool:
        taken = step(self, optimizer)
        found.append(not taken)
        return taken

    monkeypatch.setattr(Precision, "__init__", fp16)
    # On a GPU torch's own choice is not fused.
    monkeypatch.setattr(engine.optim, "SGD", lambda groups, fused, **options: torch.optim.SGD(groups, **options))
    monkeypatch.setattr(Precision, "step", counted)
    return found


def scale_of(run: Path) -> float:
    state = checkpoints.read_last(run)
    assert state is not None
    return state["precision"]["state"]["scale"]


def test_all_stages_and_a_resumed_distillation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None, skipped: list[bool]
) -> None:
    make_set(tmp_path)
    (tmp_path / "net.cfg").write_text(nets.RESIDUAL)
    assert in_process(train_prune.main, monkeypatch, tmp_path, *LINE, "--then-kd") == 0
    line = tmp_path / "runs" / "train_prune" / "line"
    for stage in ("baseline", "sparse", "student"):
        assert scale_of(line / stage) < TOO_LARGE
    assert any(skipped)
    state = checkpoints.read_last(line / "sparse")
    assert state is not None
    assert state["hooks"][0]["importance"].isfinite().all(), "a gradient that overflowed says nothing of a channel"

    skipped.clear()
    assert in_process(finetune_kd.main, monkeypatch, tmp_path, *DISTIL, "--name", "whole") == 0
    runs = tmp_path / "runs" / "finetune_kd"
    steps = len(skipped)
    assert steps == 6
    assert any(skipped)
    assert not all(skipped)

    with monkeypatch.context() as stopping:
        inner = Precision.step

        def stopped(self: Precision, optimizer: torch.optim.Optimizer) -> bool:
            if len(skipped) == steps + 3:  # in the second of three epochs
                raise KeyboardInterrupt
            return inner(self, optimizer)

        stopping.setattr(Precision, "step", stopped)
        assert in_process(finetune_kd.main, stopping, tmp_path, *DISTIL, "--name", "resumed") == 130
    assert in_process(finetune_kd.main, monkeypatch, tmp_path, "--resume", "runs/finetune_kd/resumed") == 0
    whole, resumed = (checkpoints.read_last(runs / name) for name in ("whole", "resumed"))
    assert whole is not None
    assert resumed is not None
    assert_equal_states(whole["network"], resumed["network"])
    assert whole["precision"] == resumed["precision"]
