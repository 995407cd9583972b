"""The page of an ablation and its figure."""

from __future__ import annotations

import math
from pathlib import Path

from reporting.ablation import Difference, figure_name, plot_differences, write_ablation
from reporting.html import LONGEST
from tests.reporting.material import HOSTILE


def test_figure_has_the_names_of_rows_in_short_lines() -> None:
    name = f"scaled,bounded reconstruct=/{'deep/' * 20}sparse.pt"
    lines = figure_name(name).splitlines()
    assert lines[0] == "scaled, bounded"
    assert lines[1].startswith("reconstruct=..")
    assert lines[1].endswith("/sparse.pt")
    assert max(map(len, lines)) <= 30
    assert figure_name("hinton,bounded:0.3") == "hinton, bounded:0.3"


def test_one_seed_has_a_point_and_no_interval(tmp_path: Path) -> None:
    nothing = (math.nan, math.nan)
    one = Difference("hinton", [0.01], nothing, nothing, False)
    more = Difference("bounded", [0.01, 0.03], (0.0, 0.04), (-0.01, 0.05), True)
    assert plot_differences([], "test", tmp_path / "none.png") is None
    assert plot_differences([one, more], "test", tmp_path / "some.png") == tmp_path / "some.png"
    assert (tmp_path / "some.png").read_bytes()[:4] == b"\x89PNG"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = [(["mode", "runs"], [[name, "1"] for name in HOSTILE])]
    page = write_ablation(tmp_path / "report.html", "".join(HOSTILE), rows, HOSTILE, None, {"weights": HOSTILE[0]})
    text = page.read_text(encoding="utf-8")
    assert "default-src" in text, "the page may load nothing"
    for name in HOSTILE:
        assert "<" not in name or name not in text
    assert len(text.partition("<title>")[2].partition("</title>")[0]) < 10 * LONGEST
