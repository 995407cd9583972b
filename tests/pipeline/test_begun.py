"""A fine-tune that is resumed has the teacher it began with."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import UserError
from pipeline.begun import check_teacher


@pytest.mark.parametrize(
    ("before", "guide", "goes_on"),
    [
        ({"teacher": {"sha256": "a", "source": "fat.pt"}}, "a", True),
        ({"teacher": {"sha256": "a", "source": "fat.pt"}}, "b", False),
        ({"teacher": {"sha256": "a", "source": "fat.pt"}}, None, True),
        ({"kd_off": "it was worse", "seen": 3}, "b", True),
        ({}, "b", True),
        ({"teacher": {"sha256": "digest", "source": "fat.pt"}}, "b", True),  # as earlier versions knew it
    ],
)
def test_another_teacher_than_taught_so_far_is_refused(
    before: dict[str, Any], guide: str | None, goes_on: bool, tmp_path: Path
) -> None:
    teacher: Any = (
        SimpleNamespace(full_digest="digest", known_as=lambda lineage: guide, source="new.pt") if guide else None
    )
    student: Any = SimpleNamespace(lineage=[])
    if goes_on:
        check_teacher(before, teacher, student, tmp_path)
        return
    with pytest.raises(UserError, match=r"taught by another network than new\.pt now holds") as refused:
        check_teacher(before, teacher, student, tmp_path)
    assert "put the teacher back as it was (fat.pt)" in refused.value.todo
