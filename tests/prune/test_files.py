"""A thin network is a cfg and weights like any other: it reloads elsewhere, and OpenCV's DNN runs it alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
import prune
from models.cfg import parse_cfg
from tests.alive import alive
from tests.nets import TINY
from tests.opencv import DARKNET_CFGS, assert_opencv_agrees, needs_opencv_4
from tests.prune.reference import wither

ROOT = Path(__file__).resolve().parents[2]

RELOAD = """
import sys, torch, models
for name in sys.argv[2:]:
    images, wanted = torch.load(f"{sys.argv[1]}/{name}.out", weights_only=True)
    for net in (models.load(f"{sys.argv[1]}/{name}.pt"),
                models.load(f"{sys.argv[1]}/{name}.cfg", f"{sys.argv[1]}/{name}.weights")):
        with torch.no_grad():
            for one, two in zip(net.eval()(images), wanted, strict=True):
                assert torch.equal(one, two), name
"""


def thin_network(cfg: models.Cfg, shortcuts: int = 0) -> models.Network:
    net = alive(models.Network(cfg))
    wither(net, prune.trace(net), 0.5)
    return prune.prune(net, shortcuts=shortcuts, ratio=0.5).network


def test_thin_networks_give_equal_outputs_in_a_fresh_process(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for name, text in TINY.items():
        thin = thin_network(parse_cfg(text))
        models.save(thin, tmp_path / f"{name}.pt")
        models.save_darknet(thin, tmp_path / f"{name}.cfg", tmp_path / f"{name}.weights")
        with torch.no_grad():
            torch.save((images, [head.clone() for head in thin(images)]), tmp_path / f"{name}.out")
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path), *TINY], check=True, cwd=ROOT)


def test_the_lineage_survives_the_checkpoint(tmp_path: Path) -> None:
    thin = thin_network(parse_cfg(TINY["residual"]), shortcuts=1)
    models.save(thin, tmp_path / "thin.pt")
    lineage = models.load(tmp_path / "thin.pt").lineage
    assert lineage == thin.lineage
    cut = lineage[-1]["cut"]
    assert (cut["asked"]["ratio"], cut["asked"]["shortcuts"]) == (0.5, 1)
    assert cut["params"] == (lineage[-1]["parameters"], models.parameters(thin))


def test_a_cut_remembers_shares_of_nothing_and_what_was_switched_off() -> None:
    fat = alive(models.Network(parse_cfg(TINY["residual"])))
    wither(fat, prune.trace(fat), 0.5)
    plan = prune.CutPlan(threshold=0.0, fold=False, layer_keep=0.0)
    asked = prune.prune(fat, plan).network.lineage[-1]["cut"]["asked"]
    assert (asked["threshold"], asked["fold"], asked["layer_keep"]) == (0.0, False, 0.0)
    assert not {"budget", "include", "shortcuts", "seed"} & set(asked)


def test_trained_on_and_cut_again_a_network_remembers_both_cuts() -> None:
    once = thin_network(parse_cfg(TINY["residual"]))
    twice = prune.channels(once, ratio=0.3).network
    first, second = twice.lineage
    assert (first["cut"]["asked"]["ratio"], second["cut"]["asked"]["ratio"]) == (0.5, 0.3)
    assert first["parameters"] > second["parameters"] == models.parameters(once) > models.parameters(twice)


@needs_opencv_4
@pytest.mark.parametrize("name", TINY)
def test_opencv_runs_thin_networks_alike(name: str, tmp_path: Path) -> None:
    assert_opencv_agrees(thin_network(parse_cfg(TINY[name])), tmp_path)


@needs_opencv_4
@pytest.mark.parametrize("name", ["residual", "yolov5", "gated"])
def test_opencv_runs_networks_without_a_block_alike(name: str, tmp_path: Path) -> None:
    assert_opencv_agrees(thin_network(parse_cfg(TINY[name]), shortcuts=1), tmp_path)


@needs_opencv_4
@pytest.mark.parametrize("path", DARKNET_CFGS, ids=lambda path: path.stem)
def test_opencv_runs_every_shipped_network_alike_once_pruned(path: Path, tmp_path: Path) -> None:
    cfg = models.read_cfg(path)
    blocks = sum(section.kind == "shortcut" for section in cfg.layers) // 3
    assert_opencv_agrees(thin_network(cfg, blocks), tmp_path)
