"""The copy that only detects says what the network says; rows that are decoded late are those decoded early."""

from __future__ import annotations

import pytest
import torch

import engine
import models
from models.heads import decode_heads, decode_heads_above
from models.inference import for_inference
from tests.alive import alive
from tests.nets import TINY, detect, dual

TEXTS = {**TINY, "free": detect(), "distances": detect(bins=1), "dual": dual()}


def living(name: str, dtype: torch.dtype = torch.float32) -> models.Network:
    return alive(models.Network(models.parse_cfg(TEXTS[name])), dtype=dtype)


@pytest.mark.parametrize("name", TEXTS)
def test_the_copy_computes_the_same_function_and_the_network_is_not_touched(name):
    net = living(name, torch.float64)
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    images = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    fast = for_inference(net.train())
    assert net.training
    assert not fast.training
    assert not any(layer.bn for layer in fast.convolutions.values())
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())
    with torch.no_grad():
        for mine, wanted in zip(fast(images), net.eval()(images), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-9)
            again = fast(images)
        assert all(torch.equal(one, two) for one, two in zip(fast(images), again)), "what works in place leaves nothing"


@pytest.mark.parametrize("least", [0.0, 0.001, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("name", TEXTS)
def test_rows_that_may_be_above_a_confidence_are_all_those_that_are_and_hold_the_same(name, least):
    net = living(name)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        heads = [head * 3 for head in net(images)]
        heads[0][1, 0, 0, 0] = torch.nan
        whole, few = net.decode(heads), net.decode_above(heads, least)
    spec = models.heads.spec_read(net.specs)
    assert len(few) == len(whole) == 3
    for rows, mine in zip(whole, few, strict=True):
        surely = spec.best_confidence(mine) > least * 1.001
        torch.testing.assert_close(mine[surely], rows[spec.best_confidence(rows) > least * 1.001], rtol=1e-5, atol=1e-4)
        assert len(mine) <= len(rows)
    for mine, wanted in zip(engine.postprocess(few, spec, least), engine.postprocess(whole, spec, least), strict=True):
        assert len(mine) == len(wanted)
        torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-3)


def test_without_a_confidence_to_reach_every_row_is_there_in_the_same_order():
    net = living("yolov5")
    with torch.no_grad():
        heads = net(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(torch.stack(decode_heads_above(heads, net.specs, 0.0)), decode_heads(heads, net.specs))


def test_most_places_of_a_quiet_head_are_not_decoded():
    net = living("free")
    with torch.no_grad():
        heads = [head - 8 for head in net(torch.rand(1, 3, 64, 64))]
        assert sum(map(len, net.decode_above(heads, 0.3))) < 0.3 * net.decode(heads).shape[1]
