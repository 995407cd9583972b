"""A run that goes on knows its own files, options and data again; nothing that is lost begins anew unsaid."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models
from common.rundir import ARGS, BEST, LAST
from tests import nets
from tests.cli.material import QUICK, in_process, make_set
from thinyolo.main import main as thinyolo

LINE = ("--cfg", "net.cfg", "--data", "data.yaml", *QUICK, "--stages", "baseline,prune", "--prune", "channels=0.7")
RUN, OTHER = Path("runs/train_prune/a"), Path("runs/train_prune/b")
PICTURE = Path("images/val/val001.png")
Resume = Callable[[], str]


def raw_picture(path: Path, seed: int) -> None:
    """A picture that is as many bytes, whatever is in it."""
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of the same options, but for the seed."""
    folder = make_set(tmp_path_factory.mktemp("own"))
    raw_picture(folder / PICTURE, 1)
    (folder / "net.cfg").write_text(nets.RESIDUAL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.trainer.plot_results", lambda *_: None)
        for number, name in enumerate(("a", "b")):
            assert in_process(thinyolo, patch, folder, "prune", *LINE, "--name", name, "--seed", str(number)) == 0
    return folder


@pytest.fixture
def resume(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resume:
    """In a copy of the two runs: what `--resume` refuses run a with; "" where it goes on."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def go() -> str:
        capsys.readouterr()
        status = in_process(thinyolo, monkeypatch, tmp_path, "prune", "--resume", str(RUN))
        said = capsys.readouterr().err
        assert status in (0, 2), said
        return " ".join(said[said.rfind("error: ") :].split()) if status else ""

    return go


def test_a_run_as_it_was_left_goes_on(resume: Resume) -> None:
    assert resume() == ""


def test_another_picture_of_the_same_name_size_and_time_is_noticed(resume: Resume) -> None:
    before = PICTURE.stat()
    raw_picture(PICTURE, 2)
    os.utime(PICTURE, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert PICTURE.stat().st_size == before.st_size
    assert re.search(r"val has other pictures under the same names \(written last: .*val001\.png", resume())


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_labels_of_every_split_are_known_again_when_their_stage_is_done(split: str, resume: Resume) -> None:
    label = Path(f"labels/{split}/{split}001.txt")
    label.write_text(f"\n{label.read_text().rstrip()}  \r\n")
    assert resume() == "", "spaces and line ends are no other labels"
    label.write_text("0 .3 .3 .1 .1\n")
    assert f"{split} has other labels (written last: " in resume()


@pytest.mark.parametrize("name", ["start.pt", f"baseline/{LAST}", f"baseline/{BEST}", "pruned/pruned.pt"])
def test_another_runs_file_is_not_taken_for_ones_own(name: str, resume: Resume) -> None:
    shutil.copy(OTHER / name, RUN / name)
    said = resume()
    assert f"{name}: is not the file that this run left here: it is another run's" in said
    assert f"--resume {RUN}" in said


def test_another_file_of_the_same_run_is_not_taken_either(resume: Resume) -> None:
    shutil.copy(RUN / "start.pt", RUN / "pruned/pruned.pt")
    assert "it is a copy of start.pt" in resume()


def test_another_runs_options_are_not_taken(resume: Resume) -> None:
    shutil.copy(OTHER / ARGS, RUN / ARGS)
    assert "is not the file that this run left here" in resume()


@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.9])
def test_options_that_were_cut_off_are_no_defaults(part: float, resume: Resume) -> None:
    lines = (RUN / ARGS).read_text().splitlines(keepends=True)
    (RUN / ARGS).write_text("".join(lines[: int(part * len(lines))]))
    assert re.search(r"\d+ of the run's options are not in it \(.*\): it is cut off", resume())


def test_a_run_without_its_options_is_told_with_what_there_is(resume: Resume) -> None:
    (RUN / ARGS).unlink()
    assert "the run's args.yaml is gone, and with it its options -> put it back, or start a new run" in resume()


def test_an_option_that_was_changed_is_refused_but_not_one_that_may_change(resume: Resume) -> None:
    text = (RUN / ARGS).read_text()
    assert "workers: 0\n" in text
    (RUN / ARGS).write_text(text.replace("workers: 0\n", "workers:  1\n"))
    assert resume() == ""
    (RUN / ARGS).write_text(text.replace("lr0: 0.002\n", "lr0: 0.003\n"))
    assert re.search(r"args.yaml:\d+: `lr0: 0.003` is not what it was when the run began", resume())


@pytest.mark.parametrize("name", ["start.pt", f"baseline/{LAST}", f"baseline/{BEST}", "pruned/pruned.pt"])
@pytest.mark.parametrize("how", ["cut", "empty", "folder", "dangling"])
def test_a_damaged_file_is_told_with_what_is_left_and_what_to_do(name: str, how: str, resume: Resume) -> None:
    path = RUN / name
    raw = path.read_bytes()
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how == "dangling":
        path.symlink_to("nothing")
    else:
        path.write_bytes(raw[: len(raw) // 2] if how == "cut" else b"")
    said = resume()
    if how == "dangling" and name == "pruned/pruned.pt":
        assert said == "", "what is absent is made again"
        return
    assert f"{name}: " in said
    assert "This file of the run is lost; " in said
    assert "still there" in said
    assert "put a copy of it back" in said
    assert "give a .pt" not in said, "advice for somebody who names a network"


def test_what_to_delete_is_what_is_made_again(resume: Resume) -> None:
    before = models.read_checkpoint(RUN / "baseline" / BEST)["state"]
    for name in (f"baseline/{LAST}", "pruned/pruned.pt"):
        (RUN / name).write_bytes(b"")
        named = re.findall(r"\S+\.(?:pt|csv)", resume().split("delete", 1)[1])
        for path in named or [RUN / name]:
            os.unlink(path)
        assert resume() == ""
    after = models.read_checkpoint(RUN / "baseline" / BEST)["state"]
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_a_stage_whose_state_is_gone_does_not_begin_anew_unsaid(resume: Resume) -> None:
    (RUN / "baseline" / LAST).unlink()
    said = resume()
    assert "is not there, and results.csv tells of 2 epochs: the state of this training is lost" in said
    assert "baseline/weights/best.pt" in said
    assert "delete" in said


def test_a_replaced_start_is_noticed_by_the_training_that_began_with_it(resume: Resume) -> None:
    """Its file says that it is the run's own, and its weights are not those of then."""
    content = models.read_checkpoint(RUN / "start.pt")
    content["state"] = {
        key: tensor + 1 if tensor.is_floating_point() and tensor.ndim == 4 else tensor
        for key, tensor in content["state"].items()
    }
    torch.save(content, RUN / "start.pt")
    last = models.read_checkpoint(RUN / "baseline" / LAST)
    last["extra"]["training"]["progress"]["finished"] = False
    torch.save(last, RUN / "baseline" / LAST)
    assert "began with other weights than this one would" in resume()
