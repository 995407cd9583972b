"""Which INT8 candidate is taken, by the mAP each reached; the quantiser itself is tested by the command's tests."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from common.errors import UserError
from export import quantise as module
from export.onnx_graph import model_of, packed_stem
from export.quantise import CANDIDATES, SLOW, Quantiser, excluded, quantise
from export.to_onnx import INPUT, onnx_model, session
from tests import nets
from tests.export.test_export import tiny


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Candidates cost nothing; their "model" is their name."""
    names: list[str] = []

    class Quick:
        def __init__(self, *_):
            pass

        def __call__(self, candidate):
            names.append(candidate.name)
            return candidate.name

    monkeypatch.setattr(module, "Quantiser", Quick)
    return names


def choose(scores: list[float], max_drop: float | None = None):
    by_name = dict(zip([each.name for each in (*CANDIDATES, *SLOW)], scores))
    return quantise(b"", [], by_name.__getitem__, before=0.6, max_drop=max_drop)


def test_without_a_bound_the_best_is_taken_and_more_int8_where_it_hardly_matters(tried):
    assert choose([0.5, 0.5, 0.57, 0.58, 0.59, 0.55]).candidate == CANDIDATES[4]
    assert choose([0.5, 0.5895, 0.59, 0.5, 0.5, 0.5]).candidate == CANDIDATES[1]
    assert tried == 2 * [each.name for each in CANDIDATES]


def test_with_a_bound_the_first_within_it_is_taken_and_no_other_is_tried(tried):
    found = choose([0.55, 0.585, 0.6, 0.6, 0.6, 0.6], max_drop=0.02)
    assert found.candidate == CANDIDATES[1]
    assert found.scores[found.candidate.name] == 0.585
    assert len(tried) == 2
    assert choose([*6 * [0.5], 0.595], max_drop=0.01).candidate == SLOW[0]


def test_a_bound_nobody_keeps_is_an_error_that_names_the_best(tried):
    with pytest.raises(UserError, match=r"0\.6000 to 0\.5800 \(0\.0200\)(.|\n)*--max-drop 0\.0"):
        choose([*4 * [0.5], 0.57, 0.58, 0.56], max_drop=0.01)


def test_ranges_are_measured_once_and_excluded_convolutions_stay():
    net = tiny(nets.RESIDUAL)
    trunk = onnx_model(net, (64, 64))
    quantiser = Quantiser(trunk, [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(2)])
    all_in, fewer = quantiser(CANDIDATES[0]), quantiser(CANDIDATES[-1])
    left = excluded(model_of(trunk), CANDIDATES[-1])
    assert len(left) == len(net.specs) + 1

    def plain(model) -> int:
        made = {output: node.op_type for node in model.graph.node for output in node.output}
        weights = [made.get(node.input[1]) for node in model.graph.node if node.op_type == "Conv"]
        return sum(source != "DequantizeLinear" for source in weights)

    assert plain(all_in) == 0
    assert plain(fewer) == len(left)


def test_attention_depthwise_convolutions_and_towers_go_into_int8():
    """Nothing is excluded by what it is: of heads without anchors the convolutions of both towers are the heads'."""
    conv = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=1\nactivation={}\n"
    text = nets.detect()
    between = conv.format("linear") + "[route]\nlayers=0\n" + conv.format("linear")  # 1-3: queries, keys
    between += "[route]\nlayers=0\n" + conv.format("linear")  # 4, 5: values
    between += "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\ngroups=8\nactivation=linear\n"  # 6
    between += "[attention]\nlayers=1,3,5\nheads=2\nscale=0.5\n[shortcut]\nfrom=-2\nactivation=linear\n"  # 7, 8
    stem, rest = text.split("[route]\nlayers=0\n", 1)
    rest = ("[route]\nlayers=0\n" + rest).replace("layers=0\n", "layers=8\n").replace("layers=9\n", "layers=17\n")
    net = tiny(stem + between + rest)
    trunk = onnx_model(net, (64, 64))
    pictures = [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(4)]
    left = excluded(model_of(trunk), CANDIDATES[-1])
    assert len(left) == 2 * len(net.specs) + 1
    model = Quantiser(trunk, pictures)(next(each for each in CANDIDATES if each.ranges == "widest" and not each.heads))
    made = {output: node.op_type for node in model.graph.node for output in node.output}
    for kind in ("Conv", "MatMul"):
        nodes = [node for node in model.graph.node if node.op_type == kind]
        assert len(nodes) == {"Conv": len(net.convolutions), "MatMul": 2}[kind]
        assert {made.get(source) for node in nodes for source in node.input[:2]} == {"DequantizeLinear"}
    wants, haves = (session(each, 1).run(None, {INPUT: pictures[0]}) for each in (trunk, model.SerializeToString()))
    for want, have in zip(wants, haves, strict=True):
        assert 0 < np.abs(want - have).mean() < 0.1 * np.abs(want).max()


def test_histograms_are_made_picture_by_picture(monkeypatch):
    """All at once, every activation of every picture would be in memory."""
    from onnxruntime.quantization.calibrate import HistogramCalibrater

    taken = []
    original = HistogramCalibrater.collect_data

    def counted(self, reader):
        before = len(list(copy.copy(reader.left)))
        original(self, reader)
        taken.append(before)

    monkeypatch.setattr(HistogramCalibrater, "collect_data", counted)
    pictures = [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) * (n + 1) for n in range(3)]
    slow = next(each for each in SLOW if each.ranges == "percentile")
    Quantiser(onnx_model(tiny(nets.RESIDUAL), (64, 64)), pictures)(slow)
    assert taken == [1, 1, 1]


@pytest.mark.parametrize("free", [False, True])
def test_a_stem_of_pairs_of_pixels_says_what_the_stem_says(free):
    trunk = onnx_model(tiny(nets.YOLOV5), (64, 96), any_size=free)
    packed = packed_stem(model_of(trunk))
    stem = next(node for node in packed.graph.node if node.op_type == "Conv")
    assert {tuple(each.ints) for each in stem.attribute if each.name == "kernel_shape"} == {(3, 3)}
    for size in [(64, 96), (96, 32)] if free else [(64, 96)]:
        images = np.random.default_rng(0).random((1, 3, *size), np.float32)
        wants, haves = (session(model, 1).run(None, {INPUT: images}) for model in (trunk, packed.SerializeToString()))
        for want, have in zip(wants, haves, strict=True):
            assert np.abs(want).max() > 0.1
            np.testing.assert_allclose(have, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_other_stems_stay():
    model = model_of(onnx_model(tiny(nets.RESIDUAL), (64, 64)))
    assert packed_stem(model) is model


def test_the_stem_is_packed_where_it_is_in_int8_and_only_there():
    trunk = onnx_model(tiny(nets.YOLOV5), (64, 64))
    quantiser = Quantiser(trunk, [np.random.default_rng(n).random((1, 3, 64, 64), np.float32) for n in range(2)])
    packed = ["SpaceToDepth" in {node.op_type for node in quantiser(each).graph.node} for each in CANDIDATES]
    assert packed == [not candidate.first for candidate in CANDIDATES]
