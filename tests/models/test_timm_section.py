"""`[timm]`: what the section says, what it refuses, how a network with one is kept in files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from models.layers import BN_EPS, BN_MOMENTUM
from models.network import Network
from models.timm_lower import _conv_tensors
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo
from tests.opencv import assert_opencv_agrees, needs_opencv_4

ROOT = Path(__file__).resolve().parents[2]
HEAD = conv(24, 1, activation="linear", bn=0)
# The smallest of their kinds; resnet10t has a deep stem, average pools in its shortcuts.
SMALL = "mobilenetv4_conv_small_035"


def text(model: str = SMALL, features: str = "8,16", more: str = "") -> str:
    small = features.split(",")[0]
    return (
        NET
        + f"\n[timm]\nmodel={model}\nfeatures={features}\n{more}"
        + HEAD
        + yolo("3,4,5")
        + f"\n[route]\nlayers=0\nfeature={small}\n"
        + HEAD
        + yolo("0,1,2")
    )


def network(**changes: str) -> Network:
    return Network(parse_cfg(text(**changes), source="mine.cfg"))


def thin(net: Network) -> Network:
    return prune.channels(alive(net), ratio=0.4).network.eval()


def error_of(**changes: str) -> UserError:
    with pytest.raises(UserError) as caught:
        network(**changes)
    return caught.value


def outputs(net: Network, seed: int = 0) -> list[torch.Tensor]:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return net.eval()(images.to(next(net.parameters()).dtype))


def test_routes_read_the_map_of_a_stride_and_others_the_largest_one() -> None:
    net = network(features="4,8,16")
    assert [spec.stride for spec in net.specs] == [16, 4]
    assert net.strides[0] == 16
    assert net.max_stride == 16
    with torch.no_grad():
        _, found = net.forward_features(torch.rand(1, 3, 64, 96), [0, 3])
        maps = net.backbones[0](torch.rand(1, 3, 64, 96))
    assert found[0].shape == maps[-1].shape
    assert found[3].shape == maps[0].shape
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6)]
    assert [net.output_channels(0), net.output_channels(3)] == [maps[-1].shape[1], maps[0].shape[1]]
    assert net.layer_sizes((64, 96))[3] == (16, 24)


def test_costs_count_what_is_inside() -> None:
    net = network()
    assert models.parameters(net) == sum(row.parameters for row in models.layer_table(net))
    counted = 0

    def note(module: torch.nn.Conv2d, inputs: object, out: torch.Tensor) -> None:
        nonlocal counted
        counted += module.weight.numel() * out.shape[2] * out.shape[3]

    for module in net.conv_modules.values():
        module.register_forward_hook(note)
    outputs(net)
    assert models.macs(net, (64, 64)) == counted


def test_batchnorms_keep_the_eps_of_timm_and_take_our_momentum() -> None:
    norms = [module for module in network().backbones[0].modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-5}
    assert {norm.momentum for norm in norms} == {BN_MOMENTUM}


def test_maps_nobody_asks_for_are_not_computed() -> None:
    assert models.parameters(network(features="4,8")) < 0.2 * models.parameters(network(features="4,8,32"))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model": "resnet81"}, "resnet18"),
        ({"model": ""}, "has no model="),
        ({"features": "8,10"}, "stride 10"),
        ({"model": "mixer_s16_224"}, "feature"),
        ({"more": "widths=conv_stem:8/3,nowhere:4\n"}, "nowhere"),
        ({"more": "widths=conv_stem:eight\n"}, "conv_stem:eight"),
        ({"more": "widths=conv_stem:8/3\n"}, "do not fit together"),
        ({"more": "depth=4\n"}, "no such key"),
    ],
)
def test_mistakes_are_errors_at_their_line(changes: dict[str, str], word: str) -> None:
    error = str(error_of(**changes))
    assert word in error
    assert "mine.cfg:" in error


@pytest.mark.parametrize(
    ("route", "word"),
    [
        ("layers=0\nfeature=4", "not among"),
        ("layers=-1\nfeature=8", "not one"),
        ("layers=0,1\nfeature=8", "its own"),
    ],
)
def test_a_route_to_no_map_is_an_error_at_its_line(route: str, word: str) -> None:
    cfg = NET + f"\n[timm]\nmodel={SMALL}\nfeatures=8,16\n" + conv(8) + f"\n[route]\n{route}\n" + HEAD + yolo("0,1,2")
    with pytest.raises(UserError, match=word):
        Network(parse_cfg(cfg))


RELOAD = """
import sys, torch, models
for name, weights in (("thin.pt", None), ("thin.cfg", "thin.weights")):
    net = models.load(f"{sys.argv[1]}/{name}", weights and f"{sys.argv[1]}/{weights}").eval()
    images, wanted = torch.load(f"{sys.argv[1]}/out", weights_only=True)
    with torch.no_grad():
        for one, two in zip(net(images), wanted, strict=True):
            assert (one - two).abs().max() < 1e-5 * two.abs().max(), name
"""


def test_a_pruned_network_reloads_from_its_own_files_in_a_fresh_process(tmp_path: Path) -> None:
    net = thin(network(more="pretrained=1\n"))
    assert "pretrained" not in net.cfg.layers[0].options
    assert net.cfg.layers[0].options["version"] == timm.__version__
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    models.save(net, tmp_path / "thin.pt")
    models.save_darknet(net, tmp_path / "thin.cfg", tmp_path / "thin.weights")
    torch.save((images, outputs(net)), tmp_path / "out")
    content = torch.load(tmp_path / "thin.pt", weights_only=True)
    assert f"model={SMALL}" in content["cfg"]
    assert "widths=" in content["cfg"]
    assert "[timm]" not in (tmp_path / "thin.cfg").read_text()
    assert models.weights_bytes(net) == pytest.approx((tmp_path / "thin.weights").stat().st_size, rel=0.01)
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], check=True, cwd=ROOT)


def test_a_pruned_network_can_be_pruned_again_and_remembers_every_ancestor(tmp_path: Path) -> None:
    fat = alive(network())
    once = prune.channels(fat, ratio=0.3).network
    twice = prune.channels(once, ratio=0.3).network
    models.save(twice, tmp_path / "twice.pt")
    again = models.load(tmp_path / "twice.pt")
    assert models.fingerprint(again) == models.fingerprint(twice)
    assert [entry["sha256"] for entry in again.lineage] == [models.fingerprint(fat), models.fingerprint(once)]
    for key, module in again.conv_modules.items():
        layer, kept = models.kept_channels(again.lineage, models.fingerprint(fat), key)
        assert len(kept) == module.out_channels
        assert max(kept) < fat.conv_modules[layer].out_channels


def test_other_classes_keep_the_backbone(tmp_path: Path) -> None:
    net = thin(network())
    models.save(net, tmp_path / "thin.pt")
    other = models.load(tmp_path / "thin.pt", classes=7)
    state = net.state_dict()
    inside = [name for name in state if name.startswith("layers.0.")]
    assert all(torch.equal(other.state_dict()[name], state[name]) for name in inside)


def test_pretrained_weights_that_cannot_be_had_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.cfg").write_text(text(more="pretrained=missing.pth\n"))
    with pytest.raises(UserError, match=r"missing.pth: does not exist"):
        models.load(tmp_path / "net.cfg")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", _no_network)
    (tmp_path / "net.cfg").write_text(text(model="resnet18", more="pretrained=1\n"))
    with pytest.raises(UserError, match="no route to host"):
        models.load(tmp_path / "net.cfg")


class _Code:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("was run",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_in_the_place_of_pretrained_weights_is_not_run(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"conv1.weight": _Code()}}, "bad.pth", _use_new_zipfile_serialization=not legacy)
    Path("net.cfg").write_text(text(model="resnet18", more="pretrained=bad.pth\n"))
    with pytest.raises(UserError, match="nothing in it was run"):
        models.load("net.cfg")
    assert not Path("was run").exists()


def _no_network(*args: object, **more: object) -> None:
    raise OSError("no route to host")


def test_pretrained_weights_of_a_file_see_the_pictures_they_were_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model("resnet10t", pretrained=False).eval()
    with torch.no_grad():
        source.conv1[1].running_mean.normal_()
    torch.save(source.state_dict(), tmp_path / "resnet10t.pth")
    (tmp_path / "net.cfg").write_text(text(model="resnet10t", more=f"pretrained={tmp_path / 'resnet10t.pth'}\n"))
    net = models.load(tmp_path / "net.cfg").eval()
    images = torch.rand(1, 3, 64, 64)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (source.default_cfg["mean"], source.default_cfg["std"])
    )
    with torch.no_grad():
        theirs = source.conv1[:3]((images - mean) / std)
        ours = net.backbones[0].model.conv1[:3](images)
    torch.testing.assert_close(ours[:, :, 1:-1, 1:-1], theirs[:, :, 1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert (ours - theirs).abs().max() > 1e-3  # the border, where padding is no longer the mean colour


@pytest.mark.parametrize("model", [SMALL, "resnet18", "mobilenetv2_050"])
def test_darknet_sections_give_the_same_outputs(model: str) -> None:
    net = alive(network(model=model), dtype=torch.float64)
    plain = models.lowered(net)
    assert not plain.backbones
    for one, two in zip(outputs(plain), outputs(net), strict=True):
        assert (one - two).abs().max() < 1e-10 * two.abs().max()


def test_a_bias_before_batchnorm_and_another_eps_have_their_darknet_form() -> None:
    conv_, norm = torch.nn.Conv2d(3, 4, 1).double(), torch.nn.BatchNorm2d(4, eps=1e-3).double().eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.uniform_(0.5, 2)
        plain = torch.nn.Conv2d(3, 4, 1, bias=False).double(), torch.nn.BatchNorm2d(4, eps=BN_EPS).double().eval()
        for name, tensor in _conv_tensors(conv_, norm).items():
            plain[name.startswith("bn.")].state_dict()[name.split(".")[1]].copy_(tensor)
        images = torch.rand(1, 3, 5, 5).double()
        torch.testing.assert_close(plain[1](plain[0](images)), norm(conv_(images)), rtol=0, atol=1e-12)


def test_a_network_without_a_backbone_is_left_alone() -> None:
    net = Network(parse_cfg(TINY["residual"]))
    assert models.lowered(net) is net


@needs_opencv_4
@pytest.mark.parametrize("model", ["mobilenetv4_conv_small", "resnet18"])
def test_opencv_runs_pruned_backbones_alike(model: str, tmp_path: Path) -> None:
    assert_opencv_agrees(thin(network(model=model)), tmp_path)


@pytest.mark.parametrize(
    ("model", "word"),
    [
        ("mobilenetv3_small_050", "Hardswish"),
        ("densenet121", "BatchNorm"),
        ("repvgg_a0", "BatchNorm"),
    ],
)
def test_operators_without_a_darknet_word_are_named(model: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=word) as caught:
        models.save_darknet(network(model=model), tmp_path / "a.cfg", tmp_path / "a.weights")
    assert "(at " in str(caught.value)
    assert not list(tmp_path.iterdir())
