"""A run's folder is one process's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common import lock
from common.errors import UserError
from common.lock import LOCK, hold, release
from common.log import log

HOLD = "import sys, time; from pathlib import Path; from common.lock import hold; hold(Path(sys.argv[1])); "


def elsewhere(folder: Path, then: str) -> subprocess.Popen[str]:
    """Another process that takes `folder`, and then does something."""
    command = [sys.executable, "-c", HOLD + then, str(folder)]
    return subprocess.Popen(command, cwd=Path(lock.__file__).parents[1], stdout=subprocess.PIPE, text=True)


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    other = elsewhere(tmp_path, "print(1, flush=True); time.sleep(60)")
    try:
        assert other.stdout
        assert other.stdout.readline() == "1\n"
        with pytest.raises(UserError, match=f"is in use by process {other.pid} on "):
            hold(tmp_path)
    finally:
        other.kill()
        other.wait()


def test_the_lock_of_a_dead_process_is_taken_over_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "propagate", True)
    other = elsewhere(tmp_path, "import os; os._exit(9)")
    assert other.wait() == 9
    assert (tmp_path / LOCK).exists()
    with caplog.at_level("INFO"):
        hold(tmp_path)
    assert f"taken over from process {other.pid}" in caplog.text
    with pytest.raises(UserError, match="another run of this process"):
        hold(tmp_path)
    release(tmp_path)
    assert not (tmp_path / LOCK).exists()
    hold(tmp_path)
    release(tmp_path)
    release(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        hold(tmp_path)
