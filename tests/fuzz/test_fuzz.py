from __future__ import annotations

import logging
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import UserError
from tests.fuzz import Reader, corpus, kept, readers, run_case


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINYOLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(logging.getLogger("thinyolo"), "disabled", True)


@pytest.mark.parametrize("name", readers())
def test_whatever_is_in_the_files_comes_out_as_a_result_or_a_user_error(name: str, tmp_path: Path) -> None:
    reader = readers()[name]
    run_case(name, reader, 0, tmp_path / "case", warm=False)  # imports, and what else is slow once

    @settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(st.integers(0, 10**6))
    def cases(seed: int) -> None:
        assert not run_case(name, reader, seed, tmp_path / "case"), (
            f"python -m tests.fuzz --reader {name} --case {seed}"
        )

    cases()


@pytest.mark.parametrize(("name", "case"), corpus(), ids="/".join)
def test_cases_that_were_kept_stay_mended(name: str, case: str, tmp_path: Path) -> None:
    assert not run_case(name, kept(name, case), 0, tmp_path / "case", warm=False)


def nothing(rng: random.Random, folder: Path) -> None:
    (folder / "x").write_text(str(rng.random()))


def refuse(folder: Path) -> None:
    raise UserError("no")


def stumble(folder: Path) -> None:
    raise KeyError("x")


def compute(folder: Path) -> None:
    start = time.process_time()
    while time.process_time() < start + 0.02:
        pass


def test_a_foreign_exception_and_a_hang_are_findings_and_a_user_error_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.fuzz.SECONDS", 0.01)
    assert not run_case("x", Reader(nothing, refuse), 1, tmp_path / "case")
    assert run_case("x", Reader(nothing, stumble), 1, tmp_path / "case").startswith("KeyError: \"'x'\" at ")
    assert run_case("x", Reader(nothing, compute), 1, tmp_path / "case").startswith("took ")
    monkeypatch.setattr("tests.fuzz.PATIENCE", 1)
    waits = Reader(nothing, lambda folder: time.sleep(5))
    assert run_case("x", waits, 1, tmp_path / "case").startswith("TimeoutError: 'no end after 1 s'")
