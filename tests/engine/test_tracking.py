"""Tracking with the real client: what is asked for is in the run's own records, and no error stops a training."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from wandb.proto import wandb_internal_pb2 as pb

from common.errors import UserError
from engine import tracking
from engine.tracking import Tracker, _trackers, need_tensorboard
from tests.tracked import history, records, settled


@pytest.fixture(autouse=True)
def nobody_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DISABLED", "NETRC", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_without_a_login_the_run_is_recorded_offline_and_reads_back(tmp_path, caplog):
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"weights")
    caplog.set_level("INFO", "thinyolo")
    tracker = Tracker(tmp_path / "run", {"lr": 0.01, "imgsz": (160, 160)}, group="demo", kind="kd")
    assert tracker.active
    folder, identity = tracker.folder, tracker.id
    assert any("wandb sync" in message for message in caplog.messages)
    for epoch in range(2):
        tracker.log_histogram("gammas", np.random.default_rng(epoch).random((4, 5)))
        if epoch == 1:
            tracker.log_table("channels", ["layer", "before", "after"], [[0, 16, 9], [2, 32, 8]])
            tracker.log_pictures("predictions", [("one", np.zeros((8, 8, 3), np.uint8))])
        tracker.log_epoch(epoch, {"student/mAP50-95": 0.25 + epoch / 4, "teacher/mAP50-95": 0.75, "gap/mAP50-95": 0.5})
    tracker.log_artifact(weights, "student of run", metadata={"teacher": "abc", "lineage": [{"sha256": "abc"}]})
    tracker.finish()
    tracker.finish()

    rows = history(folder, 2)
    assert [row["_step"] for row in rows] == [0, 1], "one commit per epoch"
    assert [row["student/mAP50-95"] for row in rows] == [0.25, 0.5]
    assert rows[0]["gammas"]["_type"] == "histogram"
    assert sum(rows[0]["gammas"]["values"]) == 20
    assert rows[1]["channels"]["_type"] == "table-file"
    assert rows[1]["channels"]["nrows"] == 2
    assert rows[1]["predictions"]["captions"] == ["one"]
    by_kind: dict[str, list[pb.Record]] = {}
    for record in records(folder):
        by_kind.setdefault(record.WhichOneof("record_type"), []).append(record)
    run = by_kind["run"][0].run
    assert (run.run_id, run.run_group, run.job_type, run.project) == (identity, "demo", "kd", "thinyolo")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["lr"] == 0.01
    assert config["imgsz"] == [160, 160]
    artifacts = [record.request.log_artifact.artifact for record in by_kind.get("request", [])]
    artifacts += [record.artifact for record in by_kind.get("artifact", [])]
    student = next(item for item in artifacts if item.name == "student-of-run")
    assert student.type == "model"
    assert json.loads(student.metadata)["teacher"] == "abc"
    assert [entry.path for entry in student.manifest.contents] == ["best.pt"]


def test_run_lands_in_its_folder_although_the_clients_process_was_started_in_another(tmp_path, monkeypatch):
    """A command started by a program that tracks a run of its own shares that one's process (WANDB_SERVICE)."""
    Tracker(tmp_path / "first").finish()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    tracker = Tracker("second")
    tracker.log_epoch(0, {"a": 1})
    tracker.finish()
    folder = next((tmp_path / "elsewhere" / "second" / "wandb").glob("offline-run-*"))
    assert [row["a"] for row in history(folder, 1)] == [1]


def test_a_resumed_run_keeps_its_id_and_its_steps(tmp_path):
    first = Tracker(tmp_path / "run", mode="offline")
    first.log_epoch(0, {"a": 1})
    known = first.id
    first.finish()
    second = Tracker(tmp_path / "run", mode="offline")
    folder = second.folder
    second.log_epoch(1, {"a": 2})
    assert second.id == known
    second.finish()
    assert [(row["_step"], row["a"]) for row in history(folder, 1)] == [(1, 2)]


def test_a_stage_that_counts_from_zero_again_does_not_lose_epochs(tmp_path):
    tracker = Tracker(tmp_path / "run", mode="offline")
    folder = tracker.folder
    for epoch in (0, 1, 0):
        tracker.log_epoch(epoch, {"a": epoch})
    tracker.finish()
    assert [(row["_step"], row["epoch"]) for row in history(folder, 3)] == [(0, 0), (1, 1), (2, 0)]


def test_run_that_goes_on_is_not_logged_to_steps_it_already_has(tmp_path, monkeypatch):
    """As W&B resumes a run online: it drops what is not after its last step."""
    logged = []
    run = SimpleNamespace(
        step=7,
        id="abc",
        dir=str(tmp_path / "wandb" / "files"),
        finish=lambda exit_code: None,
        log=lambda row, step: logged.append((step, row)),
    )
    monkeypatch.setattr("wandb.init", lambda **_: run)
    tracker = Tracker(tmp_path / "run", mode="offline")
    tracker.log_epoch(2, {"a": 1})
    tracker.log_table("summary", ["a"], [[1]])
    tracker.finish()
    assert [step for step, _ in logged] == [7, 8]
    assert logged[0][1]["epoch"] == 2


@pytest.mark.parametrize("error", [None, UserError("no such weights")])
def test_run_of_a_stage_that_fails_is_finished_as_failed(tmp_path, error):
    with contextlib.suppress(UserError), Tracker(tmp_path / "run", mode="offline") as tracker:
        folder = tracker.folder
        if error is not None:
            raise error
    assert not tracker.active
    ends = [record.exit.exit_code for record in settled(folder) if record.WhichOneof("record_type") == "exit"]
    assert ends == [0 if error is None else 1]


def test_what_waits_at_the_end_is_not_lost(tmp_path):
    tracker = Tracker(tmp_path / "run", mode="offline")
    folder = tracker.folder
    tracker.log_table("summary", ["a"], [[1]])
    tracker.finish()
    assert history(folder, 1)[0]["summary"]["nrows"] == 1


@pytest.mark.parametrize("asked, active", [("disabled", False), ("offline", True)])
def test_auto_does_what_the_environment_says(tmp_path, monkeypatch, asked, active):
    monkeypatch.setenv("WANDB_MODE", asked)
    tracker = Tracker(tmp_path / "run")
    assert tracker.active is active
    tracker.log_epoch(0, {"a": 1})
    tracker.finish()


def test_an_error_of_the_client_ends_tracking_and_not_the_training(tmp_path, caplog):
    tracker = Tracker(tmp_path / "run", mode="offline")
    tracker.log_artifact(tmp_path / "absent.pt", "student")
    assert not tracker.active
    assert sum("no further" in message for message in caplog.messages) == 1
    tracker.log_epoch(0, {"a": 1})
    tracker.finish()


@pytest.mark.parametrize("reachable", [tracking._reachable, lambda url: True], ids=["known before", "client fails"])
def test_without_a_network_an_online_run_is_recorded_offline(tmp_path, monkeypatch, caplog, reachable):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr("engine.tracking._reachable", reachable)
    monkeypatch.setattr("engine.tracking.INIT_SECONDS", 1)
    tracker = Tracker(tmp_path / "run", settings={"base_url": "http://127.0.0.1:9"})
    folder = tracker.folder
    tracker.log_epoch(0, {"a": 1})
    tracker.finish()
    assert any("recording offline" in message for message in caplog.messages)
    assert history(folder, 1)[0]["a"] == 1


def test_off_records_nothing(tmp_path):
    tracker = Tracker(tmp_path / "run", mode="off")
    tracker.log_epoch(0, {"a": 1})
    tracker.finish()
    assert not tracker.active
    assert not (tmp_path / "run").exists()


def test_an_unknown_mode_is_named(tmp_path):
    with pytest.raises(UserError, match="sometimes"):
        Tracker(tmp_path, mode="sometimes")


def test_tags_go_to_the_run(tmp_path):
    tracker = Tracker(tmp_path / "run", mode="offline", tags=("thin", "night"))
    assert tracker._run is not None
    assert set(tracker._run.tags) == {"thin", "night"}
    tracker.finish()


def test_tensorboard_gets_every_epoch_beside_or_without_wandb(tmp_path, monkeypatch):
    written = []

    class Board:
        def add_scalar(self, name, value, epoch):
            written.append((name, value, epoch))

        def flush(self):
            written.append("flush")

        def close(self):
            written.append("close")

    monkeypatch.setattr("engine.tracking.board_in", lambda folder: Board())
    tracker = Tracker(tmp_path / "run", mode="off", tensorboard=True)
    tracker.log_epoch(1, {"val/mAP50": 0.5})
    tracker.finish()
    assert written == [("val/mAP50", 0.5, 1), "flush", "close"]


def test_a_full_disk_ends_tensorboard_and_no_training(tmp_path, monkeypatch, caplog):
    class Full:
        def add_scalar(self, name, value, epoch):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.tracking.board_in", lambda folder: Full())
    tracker = Tracker(tmp_path / "run", mode="off", tensorboard=True)
    assert tracker in _trackers, "its folder is not deleted under it"
    for epoch in (1, 2):
        tracker.log_epoch(epoch, {"val/mAP50": 0.5})
    tracker.finish()
    assert caplog.text.count("TensorBoard is off: [Errno 28] No space left on device") == 1


def test_without_the_package_tensorboard_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"package tensorboard(.|\n)*pip install"):
        need_tensorboard()


def test_tensorboards_files_are_read_back(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = Tracker(tmp_path / "run", mode="off", tensorboard=True)
    for epoch in (1, 2):
        tracker.log_epoch(epoch, {"val/mAP50": epoch / 4})
    tracker.finish()
    events = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [(each.step, each.value) for each in events.Scalars("val/mAP50")] == [(1, 0.25), (2, 0.5)]
