from __future__ import annotations

import pytest


@pytest.fixture
def fp32_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers answer in FP32, also on a CPU that has units for bf16: for tests that compare numbers exactly."""
    monkeypatch.setattr("distill.teacher.bf16_units", lambda: False)
