"""Shared by the tests of the training loop."""

from __future__ import annotations

from pathlib import Path

import pytest

import engine.trainer
from tests.engine.job import make_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The yaml of a data set of 22 + 6 pictures of 64 x 64 pixels with three classes."""
    return make_pictures(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing `results.png` takes longer than these trainings."""
    monkeypatch.setattr(engine.trainer, "plot_results", lambda *_: None)
