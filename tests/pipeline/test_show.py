"""What a run shows: channels layer by layer, gammas in W&B; and where it scores and times."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import models
import prune
from engine import distributed
from engine.config import TrainConfig
from models.network import Network
from pipeline.show import GammaHistograms, layer_rows, write_rows
from reporting import results
from tests import nets


def network(text: str) -> Network:
    torch.manual_seed(0)
    return models.init_weights(Network(models.parse_cfg(text)))


def test_layer_rows_name_kinds_and_count_what_stays() -> None:
    net = network(nets.GATED)
    result = prune.channels(net, budget="channels=0.7")
    rows = {row["layer"]: row for row in layer_rows(net, result.network, net.image_size, result.report.held)}
    assert list(rows) == list(net.convolutions)
    kinds = {
        0: "3x3 stride 2",
        1: "1x1",
        2: "3x3 stride 2 depthwise",
        9: "3x3 depthwise",
        17: "1x1 head",
        15: "3x3 stride 2 in 4 groups",
    }
    assert {number: rows[number]["kind"] for number in kinds} == kinds
    assert rows[17]["share"] == 1, "the head stays whole"
    for total, column in ((result.report.params, "parameters"), (result.report.macs, "MACs")):
        for now, when in zip(total, ("before", "after")):
            assert sum(row[f"{column} {when}"] for row in rows.values()) == now
    for row in rows.values():
        assert row["share"] == pytest.approx(row["channels after"] / row["channels before"], abs=1e-4)


def test_removed_block_has_no_channels_left(tmp_path: Path) -> None:
    net = network(nets.RESIDUAL)
    rows = layer_rows(net, prune.shortcuts(net, remove=1).network, net.image_size)
    assert sum(row["channels after"] == 0 for row in rows) == 2
    write_rows(tmp_path / "channels.csv", rows)
    with open(tmp_path / "channels.csv", newline="") as handle:
        read = list(csv.DictReader(handle))
    assert read == [{name: str(value) for name, value in row.items()} for row in rows]


def test_histogram_of_every_epoch_is_of_the_prunable_gammas_as_they_are_then() -> None:
    net = network(nets.RESIDUAL)
    sparsity = prune.Sparsity(net, 0.1)
    logged: list[tuple[str, torch.Tensor]] = []
    tracker: Any = SimpleNamespace(active=True, log_histogram=lambda name, values: logged.append((name, values)))
    hook = GammaHistograms(sparsity, net, tracker)
    for gamma in (1.0, 0.25):
        for conv in net.convolutions.values():
            if conv.bn is not None:
                torch.nn.init.constant_(conv.bn.weight, -gamma)
        assert hook.after_epoch({}) == {}
    assert [(name, values.unique().tolist()) for name, values in logged] == [("gammas", [1.0]), ("gammas", [0.25])]
    assert len(logged[0][1]) == sum(int(mask.sum()) for mask in sparsity.masks.values())
    tracker.active = False
    hook.after_epoch({})
    assert len(logged) == 2


def test_scoring_runs_on_the_device_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(distributed, "start", lambda device: torch.device("cuda", int(device)))
    monkeypatch.setattr(results, "evaluate", lambda net, spec, split, size, batch, device, **_: used.append(device))
    spec: Any = SimpleNamespace(splits={"val": ["a"], "test": []})
    found = results.scores(network(nets.RESIDUAL), spec, TrainConfig(device="1"))
    assert list(found) == ["val"]
    assert used == [torch.device("cuda", 1)]


def test_cpu_time_is_measured_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that was trained on a GPU comes back first."""
    net = network(nets.RESIDUAL)
    moved: list[str] = []
    monkeypatch.setattr(net, "cpu", lambda: moved.append("cpu") or net)
    rows, speeds = results.table({"net": net}, {}, (64, 64))
    assert moved == ["cpu"]
    assert speeds.times["net"].min() > 0
    assert rows[0].cpu_ms == speeds.cpu_ms("net")
