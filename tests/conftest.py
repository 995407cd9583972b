"""Shared by all tests."""

from __future__ import annotations

import pytest

from common import log


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    """A command says some things once; every test is one of its own."""
    log._said.clear()
