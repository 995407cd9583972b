"""Several runs on one page, by the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.bootstrap import mean_ap
from reporting.page import write_report
from reporting.record import MATCHES, RECORD
from tests.reporting.material import STUDENT, full_record, matches
from thinyolo.main import main


def run(folder: Path, right: float, **parts: Any) -> Path:
    """A run whose student finds such a share of the objects."""
    kept = matches(right=right)
    score = float(mean_ap(kept.class_ap())[0])
    record = full_record(folder)
    rows = [record["rows"][0], {**record["rows"][1], "map50_95": score, "map50": score}]
    write_report(folder, {**record, "rows": rows, **parts}, {"student": kept})  # type: ignore[typeddict-item]
    return folder


def rows(macs: float) -> list[dict[str, Any]]:
    return [vars(STUDENT) | {"name": "baseline", "macs": 2e9}, vars(STUDENT) | {"macs": macs}]


def test_runs_are_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [run(tmp_path / "first", 0.9), run(tmp_path / "worse", 0.2), run(tmp_path / "alike", 0.9)]
    assert main(["report", *map(str, folders)]) == 0
    lead, worse, alike, page = capsys.readouterr().out.strip().splitlines()
    assert lead.startswith("None of the others takes fewer multiply-adds than first (0.500 G at 96x64)")
    assert worse.startswith("worse against first: it detects worse: mAP50-95 on test ")
    assert "interval over 40 pictures" in worse
    assert alike.startswith("alike against first: no difference shown: ")
    assert Path(page) == tmp_path / "comparison.html"
    text = Path(page).read_text(encoding="utf-8")
    for said in ("first", "worse", "alike", "cut to params=0.2", "200,000", "20% of its baseline", "ONNX Runtime"):
        assert said in text
    assert "Accuracy beside latency" in text
    assert 'data-tip="worse: student: mAP50-95' in text


def test_the_cheapest_that_is_not_shown_to_be_worse_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [run(tmp_path / "first", 0.9)]
    for name, right, macs in (("cheap", 0.9, 3e8), ("cheaper", 0.2, 1e8)):
        folder = run(tmp_path / name, right)
        record = json.loads((folder / RECORD).read_text())
        record["rows"][1]["macs"] = macs
        (folder / RECORD).write_text(json.dumps(record))
        folders.append(folder)
    assert main(["report", *map(str, folders), "--html", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.startswith("cheap takes the fewest multiply-adds (0.300 G at 96x64)")
    assert (tmp_path / "page.html").exists()


def data(**split: Any) -> dict[str, Any]:
    """Of other data than `full_record`'s."""
    kept = {"count": 40, "sha256": "a", "contents": "b", "labels": "c", **split}
    names = ["cat", "dog"]
    return {"name": "x", "classes": names, "pictures": {"test": 40}, "identity": {"test": kept, "names": names}}


def read(**keys: Any) -> dict[str, Any]:
    """`full_record`'s data, read by other keys of the yaml."""
    reading = {"max_det": 100, "pixel_range": None, "kpt_shape": None, **keys}
    return {**data(), "identity": {**data()["identity"], "reading": reading}}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"data": data(count=41)}, "its test has 41 pictures, that of first 40"),
        ({"data": data(sha256="z")}, "the names of the pictures of its test are others"),
        ({"data": data(contents="z")}, "the pictures of its test are others"),
        ({"data": data(labels="z")}, "the labels of its test are others"),
        (
            {"data": {**data(), "identity": {**data()["identity"], "names": ["cat"]}}},
            "its classes are cat, those of first",
        ),
        ({"split": "val"}, "it was scored on val, first on test"),
        ({"data": read(max_det=300)}, "its data set's yaml has max_det 300, that of first 100"),
        ({"data": read(kpt_shape=[17, 3])}, "its data set's yaml has kpt_shape [17, 3], that of first not given"),
    ],
)
def test_runs_of_other_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: dict[str, Any], said: str
) -> None:
    folders = [run(tmp_path / "first", 0.9, data=read()), run(tmp_path / "other", 0.9, **parts)]
    assert main(["report", *map(str, folders)]) == 2
    error = capsys.readouterr().err
    assert "is a run of other data" in error
    assert said in error
    assert not (tmp_path / "comparison.html").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"size": [32, 48]}, "input 48x32, there 96x64."),
        ({"resize": "stretch"}, "pictures brought to it by stretch, there letterbox."),
        ({"data": read(pixel_range=[0, 4095])}, "pixel_range [0, 4095], there not given."),
        ({"data": data()}, ""),  # of an earlier version, which kept no keys
    ],
)
def test_what_runs_did_to_pictures_in_other_ways_is_said_beside_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], parts: dict[str, Any], said: str
) -> None:
    usual = {"data": read(), "resize": "letterbox"}
    folders = [run(tmp_path / "first", 0.9, **usual), run(tmp_path / "other", 0.9, **{**usual, **parts})]
    assert main(["report", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert ("The networks are not all that differs between other and first" in out) == bool(said)


def test_a_run_without_a_record_or_with_a_damaged_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [run(tmp_path / "first", 0.9), run(tmp_path / "other", 0.9)]
    words = ["report", *map(str, folders)]
    (folders[1] / MATCHES).write_bytes(b"nothing")
    assert main(words) == 2
    for content in ("{", '{"rows": 3}', '{"rows": [], "last": "x", "baseline": "y"}'):
        (folders[1] / RECORD).write_text(content)
        assert main(words) == 2
    (folders[1] / RECORD).unlink()
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_ablation_among_the_runs_is_named_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ablation = tmp_path / "ablation"
    ablation.mkdir()
    (ablation / "table.json").write_text("{}")
    assert main(["report", str(run(tmp_path / "first", 0.9)), str(ablation)]) == 2
    assert "ablation: is an ablation's folder" in capsys.readouterr().err


def test_one_run_is_rendered_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "first", 0.9)
    (folder / "report.html").write_text("old")
    assert main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert "What each of the two sees" in (folder / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(folder), "--html", "x.html"]) == 2
