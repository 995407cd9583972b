"""Optional material beside the checkout (`../shared`): real data sets, trained weights, published figures.

A fresh clone elsewhere has none of it; the tests that need it skip and say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("THINYOLO_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(relative: str) -> Path:
    """The path of `relative` under the shared folder; skips the calling test where it is absent."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"needs {relative} in the folder 'shared' beside the checkout (or in $THINYOLO_SHARED)")
    return path
