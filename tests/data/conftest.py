"""Every data test has a cache folder of its own, and sees the project's log."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("THINYOLO_CACHE", str(folder))
    # An entry point run earlier in the same process may have taken the log away from pytest.
    monkeypatch.setattr(logging.getLogger("thinyolo"), "propagate", True)
    return folder
