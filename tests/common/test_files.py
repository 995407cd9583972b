"""A file is the old one or the new one, never half of either."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.errors import UserError
from common.files import HOST, clear_leftovers, need_space, unwatch_folder, watch_folder, whole_file
from common.reading import need_file


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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_said_with_path_and_free_space(tmp_path, monkeypatch, number):
    (tmp_path / "a.txt").write_text("old")

    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "put_in_place", full)
    said = rf"a\.txt: cannot be written: {os.strerror(number)}; .*B free there"
    with pytest.raises(UserError, match=said), whole_file(tmp_path / "a.txt") as path:
        path.write_text("new")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]


def test_a_limit_on_files_is_said_by_who_writes_networks(tmp_path):
    import models
    from tests import nets

    net = models.Network(models.parse_cfg(nets.RESIDUAL))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, hard))
        with pytest.raises(UserError, match="File too large"):
            models.save(net, tmp_path / "net.pt")
        with pytest.raises(UserError, match=r"files may have 20 kB here"):
            need_space(tmp_path, 0, 10**6, "it")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"writes about 1000000000\.0 GB, and"):
        need_space(tmp_path / "new", 10**18, 0, "it")


def test_an_error_that_is_not_about_the_file_is_passed_on(tmp_path):
    with pytest.raises(PermissionError), whole_file(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "denied", "another file")


def test_a_name_may_be_as_long_as_names_can_be(tmp_path):
    with whole_file(tmp_path / ("a" * 255)) as path:
        path.write_text("whole")
    assert (tmp_path / ("a" * 255)).read_text() == "whole"


def test_what_the_dead_began_to_write_is_cleared_and_what_the_living_write_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, theirs, other = (
        tmp_path / "deep" / f".a.txt.1234.{end}.tmp"
        for end in (f"{HOST}.{dead.pid}", f"{HOST}.{os.getpid()}", f"elsewhere.{dead.pid}")
    )
    left.parent.mkdir()
    for path in (left, theirs, other):
        path.touch()
    clear_leftovers(tmp_path)
    assert sorted(left.parent.iterdir()) == sorted([theirs, other])


def test_a_folder_that_is_deleted_meanwhile_is_not_made_again(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").touch()
    watch_folder(run, run / "lock")
    try:
        with whole_file(run / "deep" / "a.txt") as path:
            path.touch()
        shutil.rmtree(run)
        with pytest.raises(UserError, match="was deleted"), whole_file(run / "deep" / "a.txt") as path:
            path.touch()
        with whole_file(tmp_path / "beside.txt") as path:
            path.touch()
    finally:
        unwatch_folder(run)
    assert not run.exists()


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "big").touch()
    os.truncate(tmp_path / "big", 10**11)
    for path, said in (
        (tmp_path / "pipe", "a device, a pipe"),
        ("/dev/zero", "a device, a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "big", "has 100.0 GB"),
        ("a" * 5000, "File name too long"),
        ("nul\0", "null byte"),
        (tmp_path / "absent", "does not exist"),
    ):
        with pytest.raises(UserError, match=said):
            need_file(path, 10**6)
