"""A file is the old one or the new one, never half of either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.files import whole_file


def test_the_file_appears_whole_and_nothing_is_left_beside_it(tmp_path):
    with whole_file(tmp_path / "new" / "folder" / "a.txt") as path:
        path.write_text("half")
        assert not (tmp_path / "new/folder/a.txt").exists()
        path.write_text("whole")
    assert (tmp_path / "new/folder/a.txt").read_text() == "whole"
    assert [entry.name for entry in (tmp_path / "new/folder").iterdir()] == ["a.txt"]


def test_an_exception_leaves_the_old_file_and_is_passed_on(tmp_path):
    (tmp_path / "a.txt").write_text("old")

    def write() -> None:
        with whole_file(tmp_path / "a.txt") as path:
            path.write_text("half of the n")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        write()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_exception_before_anything_is_written_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="early"), whole_file(tmp_path / "a.txt"):
        raise RuntimeError("early")
    assert list(tmp_path.iterdir()) == []


def test_a_body_that_writes_nothing_does_not_replace_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.txt"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_killed_process_leaves_the_old_file(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    code = (
        "import os, signal, sys\nfrom common.files import whole_file\n"
        "with whole_file(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(files.__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], cwd=root, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "a.txt").read_text() == "old"


def test_the_bytes_are_on_disk_before_the_name_points_to_them(tmp_path, monkeypatch):
    """After a power cut the name must not point to a file whose bytes never reached the disk."""
    order = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (order.append("fsync"), real_fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), real_replace(a, b)))
    with whole_file(tmp_path / "a.txt") as path:
        path.write_text("whole")
    assert order == ["fsync", "replace"]
