"""The pages in a real browser: headless Chromium, driven by its command line alone."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reporting.ablation import Difference, plot_differences, write_ablation
from reporting.comparison import compare_runs
from reporting.page import write_report
from tests.reporting.material import HOSTILE, full_record, matches

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTH = 1200
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here (Debian: apt install chromium)")

# What a page is asked once it is there. It is put into a copy, whose own policy lets no other script run.
PROBE = """{
const images = [...document.images], wide = document.documentElement;
const mark = document.querySelector("[data-tip]"), heading = document.querySelector("table.sortable th:nth-child(2)");
const body = heading.closest("table").tBodies[0];
const column = () => [...body.rows].map((row) => row.cells[heading.cellIndex].textContent);
const before = column();
heading.click();
const up = column();
heading.click();
mark.dispatchEvent(new MouseEvent("mouseover", {bubbles: true, clientX: 1190, clientY: 5}));
const tip = document.getElementById("tip").getBoundingClientRect();
const shots = [...document.querySelectorAll(".shot")].map((shot) => ({
  picture: shot.querySelector("img").getBoundingClientRect().right,
  frame: shot.querySelector(".frame").getBoundingClientRect().right,
  labels: [...shot.querySelectorAll("text.label")]
    .map((text) => text.getBoundingClientRect()).map((box) => [box.left, box.right]),
}));
const seen = {
  title: document.title, width: wide.scrollWidth, window: wide.clientWidth, images: images.length,
  broken: images.filter((each) => !each.naturalWidth).length, before, up, down: column(),
  tip: document.getElementById("tip").textContent, tipRight: tip.right, tipTop: tip.top, shots,
};
const answer = document.createElement("pre");
answer.id = "answer";
answer.textContent = JSON.stringify(seen);
document.body.append(answer);
}"""


def browse(*flags: str, page: Path) -> subprocess.CompletedProcess[str]:
    """Open a page in a browser of its own, which ends when it has done what `flags` say."""
    assert BROWSER
    own = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr")
    folder = page.parent / "browser"
    line = [BROWSER, *own, f"--user-data-dir={folder}", f"--window-size={WIDTH},900", *flags, page.as_uri()]
    return subprocess.run(line, capture_output=True, text=True, timeout=240, check=True)


def complaints(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page has written to the browser's console."""
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def asked(page: Path) -> dict[str, Any]:
    """The answers of `PROBE`."""
    text = page.read_text(encoding="utf-8")
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    assert count == 1
    copy = page.with_name("probed.html")
    copy.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"), encoding="utf-8")
    done = browse("--dump-dom", page=copy)
    assert complaints(done) == []
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the page did not come to its end"
    answers: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answers


@pytest.fixture(scope="module", params=["plain", "hostile"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all there is, once with names that are meant to break it."""
    run = tmp_path_factory.mktemp(request.param)
    if request.param == "plain":
        return write_report(run, full_record(run), {"student": matches()})
    return write_report(run, full_record(run, HOSTILE, "".join(HOSTILE)), {"student": matches()})


@pytest.fixture(scope="module")
def seen(page: Path) -> dict[str, Any]:
    return asked(page)


def test_a_report_works_in_a_browser(seen: dict[str, Any]) -> None:
    assert seen["title"] != "broken"
    assert seen["images"] == 3
    assert seen["broken"] == 0
    assert seen["window"] == WIDTH
    assert seen["width"] <= WIDTH, "something runs off the page"
    assert seen["tip"], "a mark answers to the mouse"
    assert seen["tipRight"] <= WIDTH
    assert seen["tipTop"] >= 0
    assert sorted(seen["up"]) == sorted(seen["before"])
    assert seen["down"] == seen["up"][::-1] or len(set(seen["up"])) < len(seen["up"])


def test_labels_lie_beside_the_picture(seen: dict[str, Any]) -> None:
    for shot in seen["shots"]:
        assert shot["labels"]
        for left, right in shot["labels"]:
            assert left > shot["picture"], "no label covers an object"
            assert right <= shot["frame"] <= WIDTH, "none is cut off"


def test_a_report_says_nothing_to_the_console_and_prints(page: Path) -> None:
    paper, screen = page.with_name("page.pdf"), page.with_name("page.png")
    assert complaints(browse(f"--print-to-pdf={paper}", page=page)) == []
    assert complaints(browse(f"--screenshot={screen}", page=page)) == []
    assert paper.read_bytes()[:5] == b"%PDF-"
    assert paper.stat().st_size > 20_000
    assert screen.read_bytes()[:4] == b"\x89PNG"


def test_the_policy_of_a_page_stops_a_script_that_is_not_its_own(page: Path) -> None:
    foreign = page.with_name("foreign.html")
    text = page.read_text(encoding="utf-8").replace("</body>", "<script>document.title = 'broken'</script></body>")
    foreign.write_text(text, encoding="utf-8")
    done = browse("--dump-dom", page=foreign)
    assert "<title>broken</title>" not in done.stdout
    assert complaints(done), "and it is said"


def test_an_ablation_works_in_a_browser(tmp_path: Path) -> None:
    rows = [Difference(name * 9, [0.01, 0.02], (0.0, 0.03), (-0.01, 0.04), True) for name in HOSTILE]
    figure = plot_differences(rows, "test", tmp_path / "ablation.png")
    tables = [
        (["mode", "mAP50-95", "difference"], [[row.name, f"0.{place}", "+0.1"] for place, row in enumerate(rows)])
    ]
    page = write_ablation(tmp_path / "page.html", "".join(HOSTILE), tables, HOSTILE, figure, {"weights": "w" * 300})
    done = browse("--dump-dom", page=page)
    assert complaints(done) == []
    sized = page.with_name("sized.html")
    probe = "document.title = `${document.documentElement.scrollWidth} ${document.images[0].naturalWidth > 0}`"
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    sized.write_text(text.replace("</body>", f"<script>{probe}</script></body>"), encoding="utf-8")
    found = re.search(r"<title>(\d+) true</title>", browse("--dump-dom", page=sized).stdout)
    assert found, "the figure is shown"
    assert int(found[1]) <= WIDTH, "nothing runs off the page"


def test_a_comparison_works_in_a_browser(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two", "<b>three" + "x" * 80)):
        write_report(tmp_path / name, full_record(tmp_path / name), {"student": matches(right=0.9 - 0.1 * number)})
    compared = tmp_path / "comparison.html"
    compare_runs([each for each in sorted(tmp_path.iterdir()) if each.is_dir()], compared)
    seen = asked(compared)
    assert seen["width"] <= WIDTH
    assert seen["tip"]
    assert complaints(browse("--dump-dom", page=compared)) == []
