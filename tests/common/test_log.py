"""What is said of a file is said once a command."""

from __future__ import annotations

import logging

import pytest

from common.log import log, say_once, show_log


def test_what_is_said_of_a_file_is_said_once_a_command(caplog: pytest.LogCaptureFixture) -> None:
    handlers, propagate = log.handlers[:], log.propagate
    try:
        for _ in range(2):
            show_log()
            log.propagate = True
            for _ in range(3):
                say_once(logging.INFO, "val: %d pictures", 1234567)
        assert caplog.text.count("val: 1234567 pictures") == 2
    finally:
        log.handlers[:], log.propagate = handlers, propagate
