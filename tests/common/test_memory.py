"""Freed memory is kept where the C library can, and where the user has not said otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = "from common.memory import keep_freed_memory; print(keep_freed_memory(), keep_freed_memory())"


def said(**variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    environment.pop("GLIBC_TUNABLES", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**environment, **variables}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_glibc_keeps_it_unless_the_user_decides():
    assert said() == "True True"
    assert said(MALLOC_TRIM_THRESHOLD_="100000") == "False False"
    assert said(GLIBC_TUNABLES="glibc.malloc.trim_threshold=100000") == "False False"
