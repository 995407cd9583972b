"""A person's mistake ends in a sentence and status 2; a bug keeps its traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError, run_cleanly

ROOT = Path(__file__).parents[2]


def test_the_message_names_file_and_line_and_what_to_do():
    error = UserError("class 7 of 3", where="labels/a.txt", line=4, todo="correct the number")
    first, second = str(error).splitlines()
    assert first == "labels/a.txt:4: class 7 of 3"
    assert "correct the number" in second


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("nothing fits"), "nothing fits"),
        (UserError("nothing fits", where=Path("a.cfg")), "a.cfg: nothing fits"),
        (UserError("nothing fits", where=""), "nothing fits"),
        (UserError("nothing fits", line=3), "nothing fits"),  # a line without its file says nothing
    ],
)
def test_what_is_not_known_is_not_shown(error, text):
    assert str(error) == text


def test_a_user_error_is_printed_without_traceback_and_gives_status_2(capsys):
    def main() -> int:
        raise UserError("no such file", where="x.yaml")

    assert run_cleanly(main) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: x.yaml: no such file\n"


def test_an_interrupt_says_how_to_go_on_and_gives_the_shells_status(capsys):
    def main() -> int:
        raise KeyboardInterrupt

    assert run_cleanly(main, after_stop="Go on with --resume.") == 130
    assert capsys.readouterr().err == "\nstopped. Go on with --resume.\n"
    assert run_cleanly(main) == 130
    assert capsys.readouterr().err == "\nstopped.\n"


@pytest.mark.parametrize(("returned", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_status_of_an_entry_point_is_passed_on(returned, status):
    assert run_cleanly(lambda: returned) == status


def test_any_other_exception_is_a_bug_and_escapes():
    def main() -> int:
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        run_cleanly(main)


@pytest.mark.parametrize("signal_, status", [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_process_that_is_told_to_end_closes_what_is_open_and_says_how_to_go_on(signal_, status):
    code = (
        "import os, signal\nfrom common.errors import run_cleanly\n"
        # A shell's background jobs ignore it, and hand that on.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n    try:\n"
        f"        os.kill(os.getpid(), signal.{signal_}); signal.pause()\n"
        "    finally:\n        print('closed')\n"
        "raise SystemExit(run_cleanly(main, 'Go on with --resume.'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, "closed\n", "\nstopped. Go on with --resume.\n")


def test_a_sigterm_that_comes_while_an_object_dies_is_heeded_at_the_next_step():
    code = (
        "import os, signal\nfrom common.errors import run_cleanly, stop_if_asked\n"
        "class Dying:\n    def __del__(self):\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "def main():\n    Dying()\n    print('step', flush=True)\n    stop_if_asked()\n    print('lost')\n"
        "raise SystemExit(run_cleanly(main))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "step\n")
    assert done.stderr.endswith("stopped.\n")


def test_who_no_longer_reads_ends_us_quietly():
    code = (
        "from common.errors import run_cleanly\nraise SystemExit(run_cleanly(lambda: [print(i) for i in range(99999)]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141


def test_a_message_is_as_long_as_can_be_read():
    assert len(str(UserError("x" * 10**6, todo="y" * 10**6))) < 5000
