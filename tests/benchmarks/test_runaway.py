"""The benchmark of activations tells the picture on which they run away."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from models.network import Network, adapt_classes
from tests import nets
from tests.alive import alive
from tests.cli.material import make_set

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks/runaway.py"


def test_the_picture_that_none_is_like_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    cfg = models.parse_cfg(nets.RESIDUAL)
    adapt_classes(cfg, 2)
    net = alive(Network(cfg, ["red", "blue"]))
    folder = make_set(tmp_path / "set")
    val = sorted((folder / "images/val").iterdir())
    for place, path in enumerate(val):
        cv2.imwrite(str(path), np.full((64, 64, 3), 255 if place == 1 else 2, np.uint8))
    first = net.convolutions[0]
    assert first.bn is not None
    with torch.no_grad():  # in answer to light alone
        first.conv.weight.fill_(1.0)
        first.bn.running_mean.zero_()
        first.bn.bias.zero_()
    models.save(net, tmp_path / "net.pt")
    asked = ["--weights", str(tmp_path / "net.pt"), "--data", str(folder / "data.yaml")]
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *asked])
    assert runpy.run_path(str(SCRIPT))["main"]() == 0
    shown = capsys.readouterr().out
    first_row = shown.splitlines()[2].split()
    assert (first_row[0], first_row[3], first_row[4]) == ("0", "1", val[1].name)
    assert float(first_row[2]) > 10 * float(first_row[1])
