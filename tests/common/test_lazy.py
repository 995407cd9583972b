"""Packages whose names are imported at their first use."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("models", "data", "engine", "prune", "distill")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_found_and_is_the_one_a_type_checker_sees(name: str) -> None:
    package = importlib.import_module(name)
    assert set(package.__all__) == set(package._homes)
    for each in package.__all__:
        assert getattr(package, each) is getattr(importlib.import_module(package._homes[each]), each)


def test_a_function_keeps_its_name_when_the_module_of_that_name_is_imported() -> None:
    code = "import engine.evaluate, engine; print(callable(engine.evaluate))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_modules_are_found_as_attributes_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    import engine

    assert engine.distributed is importlib.import_module("engine.distributed")
    with pytest.raises(AttributeError, match="'engine' has no attribute 'nothing'"):
        _ = engine.nothing  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from engine import nothing")


@pytest.mark.parametrize("name", [*PACKAGES, "engine.config"])
def test_naming_a_package_imports_no_torch(name: str) -> None:
    code = f"import sys, {name}; print([each for each in ('torch', 'cv2', 'numpy') if each in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
