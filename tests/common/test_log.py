"""What is said of a file is said once a command."""

from __future__ import annotations

import logging

import pytest

from common.log import log, say_once, show_log


def test_what_is_said_of_a_file_is_said_once_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    handlers, propagate, level = log.handlers[:], log.propagate, log.level
    log.handlers.clear()
    try:
        for _ in range(2):
            show_log()
            for _ in range(3):
                say_once(logging.INFO, "val: %d pictures", 1234567)
        assert capsys.readouterr().err == "val: 1234567 pictures\n" * 2
    finally:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
