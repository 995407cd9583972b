"""A bounded part of `python -m tests.hostile`: a file of each kind through each of its entries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.material import job

JOB = """
import sys
from pathlib import Path
from tests.hostile.__main__ import run_all
from tests.hostile.cases import cases
seen, chosen = set(), []
for number, case in enumerate(cases()):
    few = sum(key[:2] == (case.kind, case.entry) for key in seen)
    if few < 1 or number % 60 == 0:
        seen.add((case.kind, case.entry, case.what))
        chosen.append(case)
counts, findings = run_all(chosen, Path(sys.argv[1]).resolve(), aloud=False)
print(len({case.entry for case in chosen}) > 20, findings)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_nothing_in_a_hostile_file_is_run_whatever_it_comes_in_by(tmp_path: Path) -> None:
    done = job(JOB, tmp_path, timeout=500)
    assert done.stdout.splitlines()[-1:] == ["True []"], done.stdout + done.stderr
