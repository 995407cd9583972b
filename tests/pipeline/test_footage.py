"""Footage in a run: gathered once, refused where it is of no use, looked at by the teacher, told of."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from data import load_spec, make_loader
from distill import KDConfig
from models.heads import AnchoredSpec
from pipeline.calibration import Calibration
from pipeline.distil_options import DistilConfig
from pipeline.footage import (
    FootageColumns,
    FootageFacts,
    check_footage,
    footage_of,
    gathered,
    unlabelled_batches,
    uses_footage,
)
from tests.cli.material import make_set
from tests.data.made import write_picture
from tests.data.test_footage import make_video


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_set(tmp_path)
    for number in range(5):
        shade = np.full((32, 64, 3), 10 * number, np.uint8)
        write_picture(tmp_path / "footage" / f"{number}.png", shade)
    return tmp_path


def config_of(folder: Path, kd: str = "scaled,bounded", **options: Any) -> DistilConfig:
    options = {"unlabelled": (str(folder / "footage"),), "imgsz": "64", "workers": 0, "device": "cpu", **options}
    return DistilConfig(data=str(folder / "data.yaml"), distil=KDConfig(kd=kd), **options)


@pytest.mark.parametrize("kd", ["none", "bounded", "imitation,bounded", "bounded,scaled:0"])
def test_footage_from_which_nothing_would_be_learnt_is_refused(folder: Path, kd: str) -> None:
    with pytest.raises(UserError, match="nothing would be learnt") as refused:
        check_footage(config_of(folder, kd))
    assert "scaled" in refused.value.todo
    assert "bounded" not in refused.value.todo
    assert not uses_footage(config_of(folder, kd))
    for good in (config_of(folder), config_of(folder, kd, unlabelled_as="labels")):
        check_footage(good)
        assert uses_footage(good)
    check_footage(config_of(folder, kd, unlabelled=()))


def test_resumed_run_finds_the_pictures_it_began_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever has become of folder and video since, and wherever the run lies now."""
    make_video(folder / "footage/film.avi")
    config, spec, run = config_of(folder, unlabelled_every=20), load_spec(folder / "data.yaml"), folder / "run"
    first = gathered(config, spec, run)
    lines = Path(first.unlabelled[0]).read_text().split()
    assert [Path(each).name for each in lines] == [
        *(f"{number}.png" for number in range(5)),
        "0000000.jpg",
        "0000020.jpg",
    ]
    assert [each.startswith("./") for each in lines] == [False] * 5 + [True] * 2
    monkeypatch.chdir(folder)
    run.rename(folder / "moved")
    shutil.move(folder / "footage/film.avi", folder / "gone.avi")
    write_picture(folder / "footage/new.png", np.zeros((8, 8, 3), np.uint8))
    config.resume = "moved"
    again = gathered(config, spec, folder / "moved")
    assert again.unlabelled == (str(folder / "moved/unlabelled" / Path(first.unlabelled[0]).name),)
    assert Path(again.unlabelled[0]).read_text().split() == lines
    assert gathered(again, spec, folder / "moved/stage") is again, "a stage takes the list of its run"
    assert gathered(again, spec, folder / "other") is not again, "another run looks itself: val may be in it"


def test_other_footage_in_a_reused_folder_is_another_list(folder: Path) -> None:
    config, spec = config_of(folder), load_spec(folder / "data.yaml")
    first = gathered(config, spec, folder / "run")
    assert gathered(config, spec, folder / "run") == first
    write_picture(folder / "footage/new.png", np.zeros((8, 8, 3), np.uint8))
    other = gathered(config, spec, folder / "run")
    assert other.unlabelled != first.unlabelled
    assert len(Path(other.unlabelled[0]).read_text().split()) == 6


class Seer:
    """Detects, in a 64 x 64 input, an object of class 1 in the middle, the surer the brighter the picture."""

    full_digest, resize = "seer", "letterbox"
    asked = 0
    specs = (AnchoredSpec(((8.0, 8.0),), 8, 2),)

    @property
    def network(self) -> Any:
        return self

    def to(self, device: Any) -> Seer:
        return self

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        return images

    def decode(self, images: Tensor) -> Tensor:
        sure = images[:, :, 32, 32].mean(dim=1) * 255 / 50  # .0, .2, .4, .6, .8
        rows = [torch.tensor([32.0, 32.0, 16.0, 8.0, float(each), 0.0, 1.0]) for each in sure]
        return torch.stack(rows)[:, None]


def look(config: DistilConfig, seer: Seer, threshold: float = 0.5) -> Any:
    spec = load_spec(config.data)
    return footage_of(gathered(config, spec, Path(config.data).parent / "run"), spec, seer, threshold)  # type: ignore[arg-type]


def test_facts_say_how_much_the_teacher_sees(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    footage, facts = look(config_of(folder), Seer())
    assert (facts.pictures, facts.labelled, facts.looked_at) == (5, 8, 5)
    assert facts.confidence == pytest.approx(0.4, abs=0.01)
    assert facts.empty == pytest.approx(0.4)
    assert footage.scan.boxes == 0
    assert not footage.labelled
    columns = FootageColumns(facts).after_epoch({})
    assert columns["unlabelled/pictures"] == 5
    assert columns["unlabelled/empty"] == pytest.approx(0.4)
    assert "unlabelled/boxes" not in columns
    facts.announce()
    assert "WARNING" not in caplog.text
    FootageFacts(10, 5, 10, 0.1, 0.7).announce()
    assert "sees nothing above 0.25 on 70 %" in caplog.text


def test_many_pictures_are_looked_at_in_a_sample(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.footage.LOOKED_AT", 3)
    footage, facts = look(config_of(folder), Seer())
    assert (facts.pictures, facts.looked_at, len(footage.scan.pictures)) == (5, 3, 5)
    assert facts.confidence == pytest.approx(0.4, abs=0.01), "the first, the middle and the last"
    assert "3 of them were looked at" in str(facts)


def test_detections_above_the_threshold_become_the_targets_of_their_pictures(folder: Path) -> None:
    """As pixels of the 64 x 32 picture the box is 16 x 8 in the middle; two pictures are bright enough."""
    seer = Seer()
    config = config_of(folder, "none", unlabelled_as="labels")
    footage, facts = look(config, seer)
    assert footage.labelled
    assert (facts.boxes, facts.threshold) == (2, 0.5)
    assert [len(labels) for labels in footage.scan.labels] == [0, 0, 0, 1, 1]
    assert footage.scan.labels[4].tolist() == [pytest.approx([1, 0.5, 0.5, 0.25, 0.25])]
    spec = load_spec(config.data)
    companions = footage.companions(spec, (64, 64))
    batch = next(iter(make_loader(companions.dataset, 5, shuffle=False)))
    assert batch.targets.tolist() == [[number, 1, 32, 32, 16, 8] for number in (3, 4)]
    assert "2 detections above 0.500 stand for labels" in str(facts)


def test_teacher_is_asked_once(folder: Path) -> None:
    seer = Seer()
    config = config_of(folder, unlabelled_as="labels")
    first, again = look(config, seer), look(config, seer)
    assert seer.asked == 5
    assert first[1] == again[1]
    assert all(map(np.array_equal, first[0].scan.labels, again[0].scan.labels))
    look(config, seer, threshold=0.7)
    assert seer.asked == 10, "another threshold is another question"


@pytest.mark.parametrize("what", ["gone", "another"])
def test_teacher_is_asked_anew_where_pictures_are_not_those_it_saw(folder: Path, what: str) -> None:
    """Answers go by a picture's place in the list: one that has gone would hand all later ones another's boxes."""
    config = config_of(folder, unlabelled_as="labels")
    spec, seer = load_spec(config.data), Seer()
    begun = gathered(config, spec, folder / "run")
    footage_of(begun, spec, seer, 0.5)  # type: ignore[arg-type]
    if what == "gone":
        (folder / "footage/0.png").unlink()
    else:
        (folder / "footage/0.png").write_bytes((folder / "footage/4.png").read_bytes())
    footage, _ = footage_of(begun, spec, seer, 0.5)  # type: ignore[arg-type]
    found = {path.name: len(labels) for path, labels in zip(footage.scan.pictures, footage.scan.labels, strict=True)}
    rest = {"1.png": 0, "2.png": 0, "3.png": 1, "4.png": 1}
    assert found == (rest if what == "gone" else {"0.png": 1, **rest})


def test_gathered_pictures_are_handed_over_as_they_are(folder: Path) -> None:
    config, spec = config_of(folder), load_spec(folder / "data.yaml")
    (batch,) = unlabelled_batches(gathered(config, spec, folder / "run"), spec, 200, "letterbox")
    assert batch.images.shape == (5, 3, 64, 64)
    assert sorted(batch.images[:, 0, 32, 32].tolist()) == [0, 10, 20, 30, 40]
    assert len(batch.targets) == 0


def test_a_thin_network_is_solved_on_footage_too(folder: Path) -> None:
    config, spec = config_of(folder, batch_size=4), load_spec(folder / "data.yaml")
    alone = Calibration(replace(config, unlabelled=()), spec, "letterbox").to_solve_on
    assert [len(batch.images) for batch in alone] == [4, 4]
    both = Calibration(gathered(config, spec, folder / "run"), spec, "letterbox").to_solve_on
    assert [len(batch.images) for batch in both] == [4, 4, 5]
    assert all(torch.equal(one.images, other.images) for one, other in zip(alone, both))


def test_switched_off_teacher_takes_its_footage_along(folder: Path) -> None:
    from pipeline.begun import kd_off

    found = {name: {"val": SimpleNamespace(map50_95=value)} for name, value in (("teacher", 0.1), ("start", 0.3))}
    assert "so --unlabelled is not used" in kd_off(config_of(folder, "auto"), {}, found)  # type: ignore[arg-type]
    assert "--unlabelled" not in kd_off(config_of(folder, "auto", unlabelled=()), {}, found)  # type: ignore[arg-type]
