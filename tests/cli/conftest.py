"""Shared by the tests of the commands."""

from __future__ import annotations

import pytest

import engine.plots
import engine.trainer
import pipeline.show


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these trainings."""
    monkeypatch.setattr(engine.plots, "plot_score", lambda *_: [])
    monkeypatch.setattr(engine.trainer, "plot_results", lambda *_: None)
    monkeypatch.setattr(pipeline.show, "plot_labels", lambda *_: None)
