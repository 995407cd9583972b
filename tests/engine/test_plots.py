"""Figures and pictures: they are written, they have the right size, and what they say can be found in them."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import pytest

from engine import lettering, plots
from engine.evaluate import Sample, score_pictures
from engine.pictures import class_colour, draw_detections, mosaic, save_picture, side_by_side
from tests.engine.test_metrics import noisy_pictures


def inked(path) -> float:
    """The share of pixels of a figure that are not white."""
    image = cv2.imread(str(path))
    assert image is not None
    return float((image < 250).any(axis=2).mean())


@pytest.mark.parametrize("classes", [1, 3, 20])
def test_an_evaluation_is_drawn_for_any_number_of_classes(tmp_path, classes):
    found, true = np.array([[5, 5, 40, 40, 0.9, 0]]), np.array([[0, 6, 6, 40, 40]])
    sample = Sample(np.full((64, 96, 3), 90, np.uint8), found, true)
    names = [f"class {number}" for number in range(classes)]
    score = score_pictures(noisy_pictures(3, classes, 8), names, samples=[sample])
    paths = plots.plot_score(score, tmp_path)
    assert {path.name for path in paths} == {"PR_curve.png", "F1_curve.png", "confusion_matrix.png", "predictions.jpg"}
    for path in paths:
        assert inked(path) > 0.02, path


def test_training_curves_share_a_panel_where_they_measure_the_same(tmp_path, monkeypatch):
    results = tmp_path / "results.csv"
    results.write_text("epoch,train/box,val/box,student/mAP50,time\n0,2.0,2.5,,1\n1,1.0,1.5,0.5,2\n")
    columns = plots.read_results(results)
    assert columns["train/box"].tolist() == [2, 1]
    assert np.isnan(columns["student/mAP50"][0])
    shapes = []
    original = plots.new_figure
    monkeypatch.setattr(plots, "new_figure", lambda *a, **k: shapes.append(a) or original(*a, **k))
    assert plots.plot_results(results, tmp_path / "results.png") is not None
    assert shapes == [(1, 2)], "two panels: box (train and val) and mAP50; time is none"
    assert inked(tmp_path / "results.png") > 0.02


def test_results_without_a_row_give_no_figure(tmp_path):
    (tmp_path / "results.csv").write_text("epoch,train/box\n")
    assert plots.plot_results(tmp_path / "results.csv", tmp_path / "results.png") is None
    assert not (tmp_path / "results.png").exists()


def test_a_quantity_of_several_trainings_is_drawn_where_it_was_measured(tmp_path, monkeypatch):
    for name, rows in {"one": "1,\n2,0.5\n3,\n4,0.7\n", "two": "1,0.2\n2,0.4\n"}.items():
        (tmp_path / f"{name}.csv").write_text("epoch,val/mAP50\n" + rows)
    lines = {}

    def kept(figure, path):
        for line in figure.axes[0].lines:
            lines[line.get_label()] = [point.tolist() for point in line.get_xydata()]
        return path

    files = {name: tmp_path / f"{name}.csv" for name in ("one", "two")}
    path = plots.plot_compared(files, "val/mAP50", tmp_path / "compared.png")
    assert inked(path) > 0.005
    monkeypatch.setattr(plots, "save_figure", kept)
    plots.plot_compared(files, "val/mAP50", path)
    assert lines == {"one: 0.700 at the end": [[2, 0.5], [4, 0.7]], "two: 0.400 at the end": [[1, 0.2], [2, 0.4]]}


def test_channels_and_gammas_are_drawn(tmp_path):
    plots.plot_channels([(number, 64, 64 - number) for number in range(70)], tmp_path / "channels.png")
    history = [{"epoch": epoch, "quantiles": {"0.1": 0.1, "0.5": 0.5, "0.9": 0.9}} for epoch in range(3)]
    assert plots.plot_gammas(history, tmp_path / "gammas.png") is not None
    assert plots.plot_gammas([], tmp_path / "none.png") is None
    assert inked(tmp_path / "channels.png") > 0.05
    assert inked(tmp_path / "gammas.png") > 0.02


def test_no_legend_lies_over_data(tmp_path, monkeypatch):
    figures = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure) or save(figure, path))
    edges = [-4.0, -2.0, 0.0]
    history = [
        {
            "epoch": epoch,
            "quantiles": {"0.1": 1.0, "0.5": 1.1, "0.9": 1.2},
            "histogram": {"log10_edges": edges, "counts": [1, 2, 3, 4]},
        }
        for epoch in range(3)
    ]
    plots.plot_gammas(history, tmp_path / "gammas.png")
    plots.plot_gammas([{key: entry[key] for key in ("epoch", "quantiles")} for entry in history], tmp_path / "g.png")
    plots.plot_channels([(number, 64, 64 - number) for number in range(70)], tmp_path / "channels.png")
    results = tmp_path / "results.csv"
    results.write_text("epoch,val/mAP50,val/gain,train/gain\n1,0.9,-1.0,-2.0\n2,0.8,-1.0,-1.0\n")
    plots.plot_compared({"a": results, "b": results}, "val/mAP50", tmp_path / "compared.png")
    plots.plot_results(results, tmp_path / "results.png")
    legends = [(axes, axes.get_legend()) for figure in figures for axes in figure.axes if axes.get_legend()]
    assert len(legends) >= 5
    for axes, legend in legends:
        box = legend.get_window_extent()
        places = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
        places += [patch.get_window_extent().get_points() for patch in axes.patches]
        assert not any(box.contains(x, y) for points in places for x, y in points), axes.get_title()
        middle = [(points[0] + points[-1]) / 2 for points in places]
        assert not any(box.contains(x, y) for x, y in middle), axes.get_title()


def test_boxes_are_drawn_where_they_are_in_their_class_colour():
    image = np.zeros((500, 600, 3), np.uint8)
    drawn = draw_detections(image, np.array([[100, 200, 300, 400, 0.9, 1], [10, 10, 50, 50, 0.1, 0]]), ["a", "b"])
    assert drawn.shape == image.shape
    assert tuple(drawn[300, 100].tolist()) == class_colour(1)
    assert tuple(drawn[400, 200].tolist()) == class_colour(1)
    assert not drawn[300, 200].any(), "inside a box the picture stays"
    assert not drawn[50, 30].any(), "too unsure to be drawn"
    assert not image.any(), "the given picture is left alone"


def test_small_pictures_are_enlarged_with_their_boxes():
    drawn = draw_detections(np.zeros((160, 160, 3), np.uint8), np.array([[0, 40, 80, 120, 120]]), ["a"])
    assert drawn.shape == (480, 480, 3)
    assert tuple(drawn[300, 360].tolist()) == class_colour(0)


def test_a_mosaic_holds_every_picture_and_its_caption(tmp_path):
    pictures = [np.full((40 + 10 * number, 60, 3), 30 + 20 * number, np.uint8) for number in range(5)]
    grid = mosaic(pictures, captions=[f"picture {number}" for number in range(5)])
    for number in range(5):
        assert ((grid == 30 + 20 * number).all(axis=2)).sum() >= (40 + 10 * number) * 60
    assert max(mosaic([np.zeros((3000, 2000, 3), np.uint8)] * 4).shape) <= 2400
    assert cv2.imread(str(save_picture(tmp_path / "grid.jpg", grid))).shape == grid.shape


def test_pictures_side_by_side_are_as_many_as_named():
    image = np.full((100, 100, 3), 128, np.uint8)
    none = np.zeros((0, 6))
    two = side_by_side(image, [("teacher", none), ("student", none)], ["a"])
    three = side_by_side(image, [("truth", np.zeros((0, 5))), ("teacher", none), ("student", none)], ["a"])
    assert two.shape[0] == three.shape[0]
    assert three.shape[1] > 1.4 * two.shape[1]


def test_histograms_over_time_are_drawn_beside_the_quantiles(tmp_path):
    edges = [round(-4 + 0.2 * step, 1) for step in range(26)]
    history = []
    for epoch in range(6):
        counts = [0] * 27
        counts[0], counts[20] = 20 * epoch, 100 - 20 * epoch
        row = {"epoch": epoch, "quantiles": {"0.1": 0.1, "0.5": 0.5, "0.9": 0.9}}
        history.append(row | {"histogram": {"log10_edges": edges, "counts": counts}})
    plots.plot_gammas([{key: row[key] for key in ("epoch", "quantiles")} for row in history], tmp_path / "alone.png")
    plots.plot_gammas(history, tmp_path / "both.png")
    alone, both = (cv2.imread(str(tmp_path / name)) for name in ("alone.png", "both.png"))
    assert both.shape[1] > 1.7 * alone.shape[1]
    blue = (both[:, both.shape[1] // 2 :].astype(int) @ [1, 0, -1]) > 60
    assert blue.mean() > 0.02, "shares are blue"


def test_labels_are_drawn_as_bars_and_maps(tmp_path):
    labels = [np.array([[0, 0.5, 0.5, 0.2, 0.1], [1, 0.1, 0.9, 0.3, 0.3]]), np.zeros((0, 5))]
    assert plots.plot_labels(labels, ["cat", "dog"], tmp_path / "labels.png") == tmp_path / "labels.png"
    assert inked(tmp_path / "labels.png") > 0.05
    assert plots.plot_labels([np.zeros((0, 5))], ["cat"], tmp_path / "none.png") is None


MATH = [
    "$5_$10",
    "$#$",
    r"$\frac{a}{$",
    "$",
    "a^_b",
    "_hidden",
    r"\$x\$",
    "100 %",
    "猫",
    "犬の家",
    "кот",
    "🙂",
    "a\udce4b",
]


def _texts(figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("installed", [True, False], ids=["fonts", "only matplotlib's"])
def test_names_are_drawn_as_they_are_written_and_without_a_warning(tmp_path, monkeypatch, caplog, installed):
    for remembered in (lettering._further, lettering._installed, lettering._letters):
        remembered.cache_clear()
    if not installed:
        own = {lettering.OWN: lettering._installed()[lettering.OWN]}
        monkeypatch.setattr(lettering, "_installed", lambda: own)
    figures, save = [], plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure) or save(figure, path))
    boxes = np.array([[number, 0.5, 0.5, 0.2, 0.2] for number in range(12)])
    for start in (0, 5):  # each of them is among the twelve once
        names = MATH[start:] + MATH[:start]
        names = names[:12]  # more are not named
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            plots.plot_score(score_pictures(noisy_pictures(3, 12, 8), names), tmp_path)
            plots.plot_labels([boxes], names, tmp_path / "labels.png")
    (tmp_path / "one.csv").write_text("epoch,val/mAP50\n1,0.2\n2,0.4\n")
    plots.plot_compared(dict.fromkeys(MATH, tmp_path / "one.csv"), "val/mAP50", tmp_path / "compared.png")
    assert not caplog.messages, "nor a word of a search for fonts"
    said = {text.strip("\u200b") for figure in figures for text in _texts(figure)}
    assert {"$5_$10", "$#$", r"$\frac{a}{$", "$", "_hidden", "кот", "a?b"} <= said
    assert "$5_$10: 0.400 at the end" in said
    shown = lettering.drawable(MATH)
    assert ("class 8" in shown) == (shown[8] != "猫")
    if not installed:
        assert shown[8:10] == ["class 8", "class 9"]
    lettering._further.cache_clear()


def test_a_font_that_has_the_letters_is_taken(monkeypatch):
    letters = {
        "DejaVu Sans": frozenset(map(ord, "ab")),
        "Han": frozenset(map(ord, "猫")),
        "All": frozenset(map(ord, "猫犬")),
    }
    monkeypatch.setattr(lettering, "_installed", lambda: ["All", "Han", "Broken"])
    monkeypatch.setattr(lettering, "_letters", lambda name: letters.get(name, frozenset()))
    lettering._further.cache_clear()
    try:
        assert lettering.fonts_for("ab") == ["DejaVu Sans"]
        assert lettering.fonts_for("a猫") == ["DejaVu Sans", "All"]
        assert lettering.drawable(["ab", "猫犬", "鳥"]) == ["ab", "猫犬", "class 2"]
    finally:
        lettering._further.cache_clear()


@pytest.mark.parametrize(
    ("name", "shown"),
    [("cat", "cat"), ("café", "cafe"), ("猫", "class 3"), ("кот", "class 3"), ("$5_$", "$5_$"), ("", "")],
)
def test_pictures_name_what_opencv_has_no_letters_for_by_number(name, shown):
    assert lettering.in_ascii(name, 3) == shown
