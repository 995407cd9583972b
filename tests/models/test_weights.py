import os
import struct

import numpy as np
import pytest
import torch

import models
from common.errors import UserError
from models.weights import conv_tensors, read_weights
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo


def tiny(name: str, classes: int = 3) -> models.Network:
    return models.Network(
        models.parse_cfg(
            TINY[name]
            .replace("classes=3", f"classes={classes}")
            .replace("filters=24\nsize=1", f"filters={3 * (5 + classes)}\nsize=1")
        )
    )


def saved(net: models.Network, folder) -> tuple:
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    models.save_darknet(net, cfg, weights)
    return cfg, weights


def floats(path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), "<f4", offset=20)


@pytest.mark.parametrize("name", TINY)
def test_darknet_files_give_the_same_network_back(name, tmp_path):
    net = alive(models.Network(models.parse_cfg(TINY[name])))
    net.meta["seen"] = 6_400_000_000  # more than 32 bits
    cfg, weights = saved(net, tmp_path)
    again = models.load(cfg, weights).eval()
    images = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(net(images), again(images)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * float(ours.detach().abs().max()))
    assert again.meta["seen"] == 6_400_000_000
    assert not again.load_report.missing
    assert weights.stat().st_size == models.weights_bytes(net) == round(models.megabytes(net) * 1e6)


def test_tensors_stand_in_darknets_order(tmp_path):
    text = NET + conv(2, 1) + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
    net = models.Network(models.parse_cfg(text))
    first, head = net.layers[0], net.layers[1]
    with torch.no_grad():
        for start, tensor in (
            (1, first.bn.bias),
            (3, first.bn.weight),
            (5, first.bn.running_mean),
            (7, first.bn.running_var),
            (9, first.conv.weight),
            (15, head.conv.bias),
            (39, head.conv.weight),
        ):
            tensor.copy_(torch.arange(start, start + tensor.numel()).view(tensor.shape))
    _, weights = saved(net, tmp_path)
    assert floats(weights).tolist() == list(range(1, 15 + 24 + 48))
    assert struct.unpack_from("<3iq", weights.read_bytes()) == (0, 2, 5, 0)


@pytest.mark.parametrize(
    ("header", "seen"),
    [
        (struct.pack("<3iq", 0, 2, 0, 2**40), 2**40),
        (struct.pack("<3iq", 1, 0, 0, 77), 77),
        (struct.pack("<3ii", 0, 1, 0, 77), 77),
        (struct.pack("<3ii", 1000, 0, 0, 77), 77),
    ],
)
def test_every_header_version_is_read(header, seen, tmp_path):
    net = alive(tiny("residual"))
    cfg, weights = saved(net, tmp_path)
    weights.write_bytes(header + floats(weights).tobytes())
    again = models.load(cfg, weights)
    assert again.meta["seen"] == seen
    assert models.fingerprint(again) == models.fingerprint(net)


def test_a_cut_off_backbone_fills_what_it_holds_and_lists_the_rest(tmp_path, caplog):
    net = alive(tiny("residual"))
    cfg, weights = saved(net, tmp_path)
    held = sum(
        t.numel() for number, layer in net.convolutions.items() if number < 9 for _, t in conv_tensors(number, layer)
    )
    (tmp_path / "backbone.conv.9").write_bytes(weights.read_bytes()[: 20 + 4 * held])
    again = models.load(cfg, tmp_path / "backbone.conv.9")
    assert torch.equal(again.layers[8].conv.weight, net.layers[8].conv.weight)
    assert not torch.equal(again.layers[9].conv.weight, net.layers[9].conv.weight)
    assert all(int(name.split(".")[1]) >= 9 for name in again.load_report.missing)
    every = {name for number, layer in net.convolutions.items() for name, _ in conv_tensors(number, layer)}
    assert {*again.load_report.missing, *again.load_report.loaded} == every
    assert "not in the file, left at their initial values: layers 9 to " in caplog.text


@pytest.mark.parametrize("adapt", ["by the argument", "by the cfg"])
def test_weights_of_another_class_count_fill_all_but_the_heads_and_say_so(adapt, tmp_path, caplog):
    caplog.set_level("INFO", "thinyolo")
    net = alive(tiny("residual", classes=3))
    cfg, weights = saved(net, tmp_path)
    if adapt == "by the argument":
        again = models.load(cfg, weights, classes=7)
    else:
        other = tiny("residual", classes=7)
        other_cfg = tmp_path / "other.cfg"
        other_cfg.write_text(other.cfg.text())
        again = models.load(other_cfg, weights)
    assert again.classes == 7
    heads = {f"layers.{number}.conv.{part}" for number in net.head_convolutions for part in ("weight", "bias")}
    assert set(again.load_report.unfit) == heads
    assert "3 -> 7 classes: 2 heads start anew" in caplog.text
    # Layer 21 stands behind the first head in the file: it has to be read past that head's own size.
    assert torch.equal(again.layers[21].conv.weight, net.layers[21].conv.weight)
    assert torch.equal(again.layers[18].bn.running_var, net.layers[18].bn.running_var)


def test_own_weights_of_the_adapted_network_load_whole(tmp_path):
    (tmp_path / "net.cfg").write_text(TINY["residual"])
    net = alive(models.load(tmp_path / "net.cfg", classes=7))
    _, weights = saved(net, tmp_path / "own")
    again = models.load(tmp_path / "net.cfg", weights, classes=7)
    assert not again.load_report.unfit
    assert models.fingerprint(again) == models.fingerprint(net)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda raw: raw[:-8], "only"),
        (lambda raw: raw + bytes(8), "ends after"),
        (lambda raw: raw + b"x", "whole float32 numbers"),
        (lambda raw: raw[:10], "too few for the header"),
        (lambda raw: b"names: [cat, dog, cow]\ntrain: images", "is a text"),
    ],
)
def test_a_file_of_the_wrong_length_is_refused_naming_the_layer(change, says, tmp_path):
    net = alive(tiny("csp"))
    cfg, weights = saved(net, tmp_path)
    weights.write_bytes(change(weights.read_bytes()))
    with pytest.raises(UserError, match=says) as caught:
        models.load(cfg, weights)
    assert caught.value.where == weights
    if says in ("only", "ends after"):
        assert "layer 15" in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path):
    _, weights = saved(alive(tiny("csp")), tmp_path)
    with pytest.raises(UserError, match="does not belong to"):
        models.load_darknet(tiny("residual"), weights)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_weights(tmp_path / "none.weights")


def test_shortcuts_of_several_sources_are_written_as_chains(tmp_path):
    net = alive(tiny("rare"))
    cfg, weights = saved(net, tmp_path)
    shortcuts = [section for section in models.read_cfg(cfg).layers if section.kind == "shortcut"]
    assert [len(section.inputs) for section in shortcuts] == [2, 2]
    assert [section.str("activation") for section in shortcuts] == ["linear", "leaky"]
    assert len(net.cfg.layers[3].inputs) == 3  # the network's own cfg is left alone


def test_saving_does_not_touch_the_network(tmp_path):
    net = alive(tiny("rare"))
    before, text = models.fingerprint(net), net.cfg.text()
    saved(net, tmp_path)
    assert (models.fingerprint(net), net.cfg.text()) == (before, text)


def test_values_that_are_not_finite_are_refused_by_layer_and_tensor(tmp_path):
    net = alive(models.Network(models.parse_cfg(TINY["residual"])))
    net.convolutions[1].bn.weight.data[2] = float("nan")
    models.save_darknet(net, tmp_path / "x.cfg", tmp_path / "x.weights")
    with pytest.raises(UserError, match=r"x\.weights: 1 of the 12 values of layers\.1\.bn\.weight are not finite"):
        models.load(tmp_path / "x.cfg", weights=tmp_path / "x.weights")


@pytest.mark.parametrize("size, said", [(10**11, "more than such a file can have"), (9 * 10**8, "does not belong to")])
def test_a_file_far_larger_than_the_network_is_refused_unread(size, said, tmp_path, monkeypatch):
    net = alive(models.Network(models.parse_cfg(TINY["residual"])))
    models.save_darknet(net, tmp_path / "x.cfg", tmp_path / "x.weights")
    os.truncate(tmp_path / "x.weights", size)
    monkeypatch.setattr(np, "fromfile", None)
    with pytest.raises(UserError, match=said):
        models.load(tmp_path / "x.cfg", weights=tmp_path / "x.weights")
