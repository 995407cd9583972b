"""The table and the page: what they say is what was measured, and names stay names."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from reporting.html import plain, short, typeset
from reporting.page import made_again, write_report
from reporting.record import MATCHES, RECORD, read_matches, read_record
from reporting.report import Row, text_table
from tests.reporting.material import BASE, HOSTILE, full_record, matches

VOID = ("img", "meta", "br", "line", "rect", "circle", "polyline")


def test_the_terminal_table_lines_up_and_marks_what_is_missing() -> None:
    table = text_table([BASE, Row("random init", 1_000_000, note="untrained")]).splitlines()
    assert len(table) == 4
    assert table[0].split() == [
        *("network", "parameters", "MB", "MACs", "(G)", "CPU", "(ms)", "epochs", "mAP50", "mAP50-95")
    ]
    assert table[2].split() == ["baseline", "1,000,000", "4.00", "2.000", "10.0", "16", "0.900", "0.600"]
    assert table[3].split() == ["random", "init", "1,000,000", "-", "-", "-", "-", "-", "-", "untrained"]
    assert table[2].index("1,000,000") == table[3].index("1,000,000")


class Page(HTMLParser):
    """What matters of a page; every element has to be closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.scripts: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag == "img":
            self.sources.append(dict(attrs)["src"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def test_a_full_report_is_one_page_that_holds_its_pictures(tmp_path: Path) -> None:
    text = write_report(tmp_path, full_record(tmp_path)).read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == [
        "Networks",
        "What each of the two sees",
        "What the cut did",
        "Training",
        "Evaluation and data",
        "Settings",
        "Lineage",
    ]
    assert len(page.sources) == 3
    for source in page.sources:
        found = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source)
        assert found
        assert base64.b64decode(found[2])[:2] == (b"\x89P" if found[1] == "png" else b"\xff\xd8")
    assert "://" not in text, "nothing is loaded from elsewhere"
    for said in (
        "100 train, 40 test",
        "a machine",
        "2026-01-02 03:04 UTC",
        "Student against baseline: it detects worse: mAP50-95 0.600 → 0.590 (−0.010; −0.016 to −0.004).",
        "student against plain: no difference shown.",
        "student/export/a run.onnx</bdi></strong>: 2.00 ms of CPU time a picture in ONNX Runtime, mAP50-95 0.585, ",
        "baseline at 48x32 against student",
        "<small>20%</small>",
        "<small>-0.010</small>",
        "CPU time in PyTorch",
        "of all training in this run",
        "Of the 3 objects in test, both find 1, only baseline 1, only student 0, neither 1",
        "Half of it went.",
        "augment.mosaic",
        "a1b2",
    ):
        assert said in text, said


def test_the_first_screen_shows_accuracy_beside_latency_with_the_rival(tmp_path: Path) -> None:
    text = write_report(tmp_path, full_record(tmp_path)).read_text(encoding="utf-8")
    assert text.index("Ship ") < text.index("Accuracy beside latency") < text.index(">Networks<")
    assert 'data-tip="baseline at 48x32: mAP50-95 0.500, input 96x64, 4.00 ms in onnxruntime' in text
    assert 'data-tip="cat: 0.600 → 0.590 (-0.010; 95 % interval over 200 pictures -0.016 to -0.004)"' in text


def test_curves_tell_the_teacher_and_the_quantiles_apart(tmp_path: Path) -> None:
    text = write_report(tmp_path, full_record(tmp_path)).read_text(encoding="utf-8")
    panel = text[text.index("mAP50-95 over epochs") :]
    assert re.search(r'stroke="var\(--orange\)"[^>]*stroke-dasharray="6 4"', panel), "the teacher is dashed"
    quantiles = text[text.index("quantiles of |gamma| over epochs") :]
    lines = re.findall(r'<polyline[^>]*stroke="([^"]+)"[^>]*stroke-dasharray="([^"]+)"', quantiles)[:3]
    assert len(set(lines)) == 3, "no two quantiles are drawn alike"
    for label in ("5 % below", "median", "95 % below"):
        assert label in quantiles


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_becomes_markup_or_changes_the_text_around_it(tmp_path: Path, name: str) -> None:
    harmless = Page(write_report(tmp_path / "a", full_record(tmp_path / "a")).read_text(encoding="utf-8"))
    record = full_record(tmp_path / "b", (name, "dog"), name)
    text = write_report(tmp_path / "b", record).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags == harmless.tags
    assert page.scripts == harmless.scripts
    assert not page.handlers
    assert "\u202e" not in text
    assert "49 " not in text


def test_only_the_page_s_own_script_may_run(tmp_path: Path) -> None:
    text = write_report(tmp_path, full_record(tmp_path)).read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in text
    assert re.search(r"script-src &#39;sha256-[A-Za-z0-9+/=]{44}&#39;", text)


def test_what_is_not_seen_is_spelled_out() -> None:
    assert plain("a\u202eb\u200fc\x07") == "a\\u202eb\\u200fc\\u0007"
    assert plain("ä 中 \n\t") == "ä 中 \n\t"
    assert short("one\ntwo") == "one\\ntwo"
    assert len(short("x" * 500)) == 60
    assert short("beginning" + "x" * 500 + "end.jpg").endswith("end.jpg")
    assert typeset("0.5 -> 0.4 (-0.100); mAP50-95; -3 %") == "0.5 → 0.4 (−0.100); mAP50-95; −3 %"


def test_sections_without_content_are_left_out(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path, {"rows": [vars(BASE)]}).read_text())
    assert page.headings == ["Networks"]
    assert not page.sources


def test_the_page_is_made_again_from_the_record_alone(tmp_path: Path) -> None:
    kept = matches()
    path = write_report(tmp_path, full_record(tmp_path), {"student": kept, "unknown": None})
    before = path.read_text(encoding="utf-8")
    path.unlink()
    assert made_again(tmp_path).read_text(encoding="utf-8") == before
    found = read_matches(tmp_path)
    assert list(found) == ["student"]
    assert np.array_equal(found["student"].right, kept.right)
    assert np.array_equal(found["student"].truth, kept.truth)


def _with(run: Path, **parts: Any) -> None:
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps({**record, **parts}))


@pytest.mark.parametrize(
    "parts",
    [
        {"rows": [{"nonsense": 1}]},
        {"rows": 3},
        {"pictures": [{"file": "/etc/hostname", "name": "", "size": [1, 1], "objects": [], "false": []}]},
        {"channels": "../../outside.png"},
        {"channels": "results.csv"},
        {"points": [{}]},
        {"unheard of": 1},
        {"size": [1]},
    ],
)
def test_a_damaged_record_is_told_in_a_sentence(tmp_path: Path, parts: dict[str, Any]) -> None:
    run = tmp_path / "run"
    write_report(run, full_record(run))
    (tmp_path.parent / "outside.png").write_bytes(b"\x89PNG")
    _with(run, **parts)
    with pytest.raises(UserError):
        made_again(run)


def test_files_that_are_no_record_are_told(tmp_path: Path) -> None:
    write_report(tmp_path, full_record(tmp_path))
    (tmp_path / RECORD).write_text("[1")
    with pytest.raises(UserError, match="is damaged"):
        read_record(tmp_path)
    for content in (b"", b"PK\x03\x04", b"\x80\x04K\x01."):  # the last is a pickle
        (tmp_path / MATCHES).write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            read_matches(tmp_path)
