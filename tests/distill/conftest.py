from __future__ import annotations

import pytest
import torch


@pytest.fixture
def fp32_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers answer in FP32, also on a CPU that has units for bf16: for tests that compare numbers exactly."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
