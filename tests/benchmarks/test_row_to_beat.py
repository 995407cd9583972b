"""What `benchmarks/row_to_beat.py` concludes from its rows."""

from __future__ import annotations

import pytest

from benchmarks.row_to_beat import Row, verdict

FAT = Row("yolov5s", 7_000_000, 28_000_000, 0.30, 0.50, 400.0, 1.0, 1.0)
NANO = Row("yolov5n", 1_800_000, 7_000_000, 0.33, 0.54, 90.0, 4.4, 4.4)
NANO_INT8 = Row("yolov5n, INT8", 1_800_000, 1_900_000, 0.35, 0.60, 60.0, 6.6, 6.6)


def student(size: int = 700_000, score: float = 0.53, faster: float = 16.0) -> Row:
    return Row("student, INT8", 600_000, size, 0.31, score, 400 / faster, faster, faster)


@pytest.mark.parametrize(
    "row,missed",
    [
        (student(), []),
        (student(size=1_280_000), ["smaller"]),
        (student(faster=12.9), ["faster"]),
        (student(score=0.515), ["mAP50"]),  # .015 above YOLOv5s, .025 below YOLOv5n
        (student(size=2_000_000, score=0.1, faster=2.0), ["smaller", "faster", "mAP50"]),
    ],
)
def test_each_bound_is_judged_against_its_own_baseline(row: Row, missed: list[str]) -> None:
    lines = verdict([FAT, NANO, NANO_INT8, row])
    assert [word for word, line in zip(("smaller", "faster", "mAP50"), lines) if line.startswith("MISSED")] == missed
    assert all(word in line for word, line in zip(("smaller", "faster", "mAP50"), lines, strict=True))
    assert "of yolov5n, the better baseline" in lines[2]
