"""`thinyolo train` and `ablate`: the same as a stage, or a mode, of the commands that do more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
import train_prune
from common.options import load_config
from engine.config import TrainConfig
from pipeline.distil_options import AblateAll, AblateConfig
from pipeline.stage import with_size
from tests import nets
from tests.cli.material import QUICK, in_process, make_set
from thinyolo.main import main as thinyolo
from thinyolo.training import ABLATE, DISTILL

TRAIN = ("--cfg", "net.cfg", "--data", "data.yaml", *QUICK)


def state(path: Path) -> dict[str, torch.Tensor]:
    return models.read_checkpoint(path)["state"]


def test_train_is_the_baseline_stage_alone_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_plots: None
) -> None:
    folder = make_set(tmp_path)
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    assert in_process(thinyolo, monkeypatch, folder, "train", *TRAIN) == 0
    assert in_process(train_prune.main, monkeypatch, folder, *TRAIN, "--stages", "baseline") == 0
    run, same = folder / "runs/train/exp", folder / "runs/train_prune/exp"
    mine, theirs = (state(each / "baseline/weights/best.pt") for each in (run, same))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert load_config(TrainConfig, run).epochs == 2, "its args.yaml holds its own options and no others"
    assert (run / "report.html").exists()
    assert in_process(thinyolo, monkeypatch, folder, "train", "--resume", "runs/train/exp") == 0


def test_without_a_size_it_is_what_the_weights_were_trained_for(tmp_path: Path) -> None:
    net = models.Network(models.parse_cfg(nets.RESIDUAL)).with_image_size((64, 96))
    models.save(net, tmp_path / "net.pt")
    weights = str(tmp_path / "net.pt")
    assert with_size(TrainConfig(weights=weights)).imgsz == "96x64"
    assert with_size(TrainConfig(weights=weights, imgsz="32")).imgsz == "32"
    assert with_size(TrainConfig(weights=weights, cfg="yolov3-tiny")).imgsz == "416"
    assert with_size(TrainConfig(cfg="yolov3-tiny")).imgsz == "416"


def test_train_knows_nothing_of_pruning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert in_process(thinyolo, monkeypatch, tmp_path, "train", "--prune", "params=0.5") == 2
    assert "unknown argument '--prune'" in capsys.readouterr().err


def test_ablate_is_distill_with_a_comparison() -> None:
    given = ["--weights", "thin.pt", "--t_weights", "fat.pt", "--data", "d.yaml", "--seeds", "2"]
    assert ABLATE.parse(given) == AblateAll(**vars(DISTILL.parse([*given, "--ablate"])))
    assert ABLATE.parse([*given, "--modes", "none; hinton"]).ablate == "none; hinton"
    assert isinstance(ABLATE.parse(given), AblateConfig)
    assert ABLATE.load() is DISTILL.load()
