"""The benchmark of widths times the same chain of convolutions in every runtime."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra export")


@pytest.fixture(scope="module")
def module() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "width_steps.py"))


@pytest.mark.parametrize("runtime", ["int8", "openvino", "ncnn", "opencv"])
def test_every_runtime_computes_the_same_chain(module: dict[str, Any], runtime: str) -> None:
    pytest.importorskip({"int8": "onnxruntime", "opencv": "cv2"}.get(runtime, runtime), reason=f"needs {runtime}")
    (wanted,) = module["call"]("onnx", 6, 3, 3, 8)()
    found = module["call"](runtime, 6, 3, 3, 8)()
    found = np.asarray(found[0] if isinstance(found, (list, tuple)) else found).reshape(wanted.shape)
    assert wanted.max() > 0.01
    assert np.abs(found - wanted).max() < (0.1 if runtime == "int8" else 1e-4) * wanted.max()


def test_every_width_has_a_row_and_what_it_loses(module: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    assert module["main"](["--runtimes", "onnx", "--widths", "14,15,16,24,32", "--kernels", "1", "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["14", "15", "16", "24", "32"]
    assert [line.split()[0] for line in lines if " to " in line][:3] == ["odd", "2", "8"]
