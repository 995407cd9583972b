"""Never more threads than cores, whichever command is asked for them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import models
from common import cores
from common.log import _said
from export.opening import open_chosen
from export.options import ExportOptions, NetworkOptions
from pipeline.exporting import Exporter
from reporting.latency_table import latency
from reporting.options import LatencyOptions
from tests.engine.job import make_network, make_pictures, make_trainer


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_cores", lambda: 2)
    _said.clear()


@pytest.mark.parametrize(("asked", "taken"), [(0, 0), (1, 1), (2, 2), (3, 2), (1024, 2)])
def test_threads_end_at_the_cores_and_that_is_said_once(
    asked: int, taken: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "thinyolo"):
        assert [cores.usable_threads(asked) for _ in range(2)] == [taken, taken]
    said = [f"--threads {asked}: this process may use 2 cores, and takes 2"]
    assert [each.getMessage() for each in caplog.records] == said * (asked > 2)


@pytest.mark.parametrize("command", ["train", "val", "export", "latency"])
def test_every_command_asks(command: str, tmp_path: Path) -> None:
    threads, weights = torch.get_num_threads(), tmp_path / "net.pt"
    models.save(make_network(), weights)
    try:
        if command == "train":
            make_trainer(tmp_path, [f"--data={make_pictures(tmp_path / 'data')}", "--threads=256"])
        elif command == "val":
            open_chosen(NetworkOptions(threads=256), weights)
        elif command == "export":
            Exporter(ExportOptions(weights=str(weights), threads=256))
        else:
            latency(LatencyOptions(models=(str(weights),), threads=256, rounds=1, warm_up=0, memory=False))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
