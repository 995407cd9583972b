"""The table, the verdict and the page: what they say is what was measured."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np

from reporting.report import Row, text_table, write_report
from reporting.verdict import verdict

BASE = Row("baseline", 1_000_000, 4.0, 2e9, 10.0, 0.90, 0.600, epochs=16)
STUDENT = Row("student", 200_000, 0.8, 5e8, 4.0, 0.89, 0.590, epochs=31)


def test_the_terminal_table_lines_up_and_marks_what_is_missing():
    table = text_table([BASE, Row("random init", 1_000_000, note="untrained")]).splitlines()
    assert len(table) == 4
    assert table[0].split() == [
        *("network", "parameters", "MB", "MACs", "(G)", "CPU", "(ms)", "epochs", "mAP50", "mAP50-95")
    ]
    assert table[2].split() == ["baseline", "1,000,000", "4.00", "2.000", "10.0", "16", "0.900", "0.600"]
    assert table[3].split() == ["random", "init", "1,000,000", "-", "-", "-", "-", "-", "-", "untrained"]
    assert table[2].index("1,000,000") == table[3].index("1,000,000")


class Page(HTMLParser):
    """Counts what matters and checks that every element is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.sources: list[str] = []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_a_full_report_is_one_page_that_holds_its_pictures(tmp_path):
    results = tmp_path / "results.csv"
    results.write_text("epoch,train/box,val/mAP50\n0,2,0.1\n1,1,0.2\n")
    summary = {
        "title": "Cells <thin>",
        "intro": "an introduction",
        "verdict": verdict(BASE, STUDENT, "test"),
        "rows": [BASE, STUDENT],
        "split": "test",
        "size": (320, 416),
        "measured_with": "CPU (ms): CPU time in PyTorch",
        "channels": [(0, 16, 8), (2, 32, 4)],
        "layers": [{"layer": 0, "before": 16, "after": 8}, {"layer": 2, "before": 32, "after": 4}],
        "gammas": [{"epoch": epoch, "quantiles": {"0.5": 0.5 / (epoch + 1)}} for epoch in range(3)],
        "results": {"baseline": results, "never ran": tmp_path / "absent.csv"},
        "reference": {"teacher/mAP50": 0.3},
        "pruning": [("cut 1 of 2", "asked: params=0.1\nchannels that stayed: 3 < 4")],
        "pictures": [("teacher and student", np.zeros((20, 30, 3), np.uint8))],
        "settings": {"baseline": {"epochs": 3, "augment": {"mosaic": 0.5}}},
        "lineage": [{"kind": "baseline", "sha256": "a1b2", "layers": {"0": {"layer": 0, "kept": [1, 2]}}}],
        "commands": ["python train_prune.py --s 0.001 && echo done"],
    }
    path = write_report(tmp_path / "run", summary)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.headings == [
        "Networks",
        "Predictions",
        "Pruning",
        "Channels",
        "Gammas",
        "Training",
        "Lineage",
        "Commands",
        "Settings",
    ]
    assert len(page.sources) == 4
    for source in page.sources:
        kind, encoded = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", source).groups()
        assert base64.b64decode(encoded)[:2] == (b"\x89P" if kind == "png" else b"\xff\xd8")
    assert "Cells &lt;thin&gt;" in text, "text is escaped"
    assert "<small>20%</small>" in text, "parameters relative to the baseline"
    assert "<small>-0.010</small>" in text, "mAP as a difference"
    assert "augment.mosaic" in text
    assert "a1b2" in text
    assert "320 x 416 pixels (H x W)" in text
    assert "<h3>cut 1 of 2</h3>" in text
    assert "channels that stayed: 3 &lt; 4" in text
    assert "CPU time in PyTorch" in text, "what the times were measured with"
    assert "of all training in this run" in text, "what the epochs are of"
    assert "http" not in text, "nothing is loaded from elsewhere"


def test_sections_without_content_are_left_out(tmp_path):
    page = Page(write_report(tmp_path, {"rows": [BASE]}).read_text())
    assert page.headings == ["Networks"]
    assert not page.sources
