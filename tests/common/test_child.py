"""Commands in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.child import run_python
from common.errors import UserError


def test_a_command_is_run_where_it_is_told_to(tmp_path: Path) -> None:
    script = tmp_path / "write.py"
    script.write_text("import sys; open('out.txt', 'w').write(sys.argv[1])")
    run_python(script, 7, cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text() == "7"


def test_failure_of_a_command_names_it_and_its_status(tmp_path: Path) -> None:
    script = tmp_path / "fail.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(UserError, match=r"^fail\.py ended with status 3"):
        run_python(script)
    with pytest.raises(UserError, match=r"^no_such_module ended with status 1"):
        run_python("-m", "no_such_module")
