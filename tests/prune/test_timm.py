"""timm backbones in a cfg: thin equals fat in float64 for families that join their channels in different ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from models.cfg import parse_cfg
from prune.fold import leftovers
from prune.identities import ChannelGraph, Mask
from prune.select import Selector
from prune.surgery import thin_network
from tests.alive import alive, noise
from tests.nets import NET, conv, yolo
from tests.prune import traced
from tests.prune.reference import TOLERANCE, mutants, wither

ROOT = Path(__file__).resolve().parents[2]

# What is particular to each family.
FAMILIES = {
    "resnet18": "adds behind activations, a max-pool",
    "resnext50_32x4d": "grouped convolutions",
    "regnetx_002": "grouped convolutions, widths of their own in each stage",
    "regnety_002": "squeeze and excitation beside groups",
    "mobilenetv2_050": "inverted bottlenecks, depthwise",
    "mobilenetv3_small_050": "hard-swish, hard-sigmoid gates",
    "mobilenetv4_conv_small": "universal inverted bottlenecks: depthwise before and after",
    "efficientnet_b0": "squeeze and excitation by convolutions, SiLU",
    "efficientnet_lite0": "ReLU6",
    "ghostnet_050": "concat of a layer and cheap depthwise copies, sliced",
    "densenet121": "BatchNorm before the convolution, on concats of everything before",
    "dla46_c": "trees of adds and concats",
    "mnasnet_small": "searched inverted bottlenecks",
    "cspdarknet53": "channel split by a size written in the forward",
    "repvgg_a0": "parallel branches and a bare BatchNorm",
    "res2net50_26w_4s": "a split into scales, joined one by one",
    "hrnet_w18_small": "parallel resolutions with up- and down-sampling adds",
    "tinynet_e": "EfficientNet shrunk",
    "fbnetc_100": "searched blocks",
}


def around(name: str, features: str = "8,16", more: str = "") -> str:
    """A cfg of the backbone with a head on two of its maps."""
    small = features.split(",")[0]
    return (
        NET
        + f"\n[timm]\nmodel={name}\nfeatures={features}\n{more}"  # 0
        + conv(16, 1)
        + conv(24, 1, activation="linear", bn=0)
        + yolo("3,4,5")  # 1-3, the map of largest stride
        + f"\n[route]\nlayers=0\nfeature={small}\n"
        + conv(12)  # 4, 5
        + "\n[upsample]\nstride=2\n"
        + conv(24, 1, activation="linear", bn=0)
        + yolo("0,1,2")
    )  # 6-8


def fat_network(name: str, seed: int = 0) -> models.Network:
    return alive(models.Network(parse_cfg(around(name))), (64, 64), seed, torch.float64)


def keep_mask(graph: ChannelGraph, ratio: float = 0.5, seed: int = 0) -> Mask:
    """What a cut at `ratio` by random scores keeps, ties and equal slices heeded."""
    random = np.random.default_rng(seed)
    group = random.random(len(graph.root))
    scores = {name: group[graph.root[ids]] for name, ids in graph.norms.items()}
    selector = Selector(graph, scores)
    return selector.settle(selector.cut_at_ratio(ratio)).keep


def reaching_the_heads(graph: ChannelGraph) -> set[str]:
    """The modules inside the backbone that the heads depend on."""
    open_ = [number for number, step in enumerate(graph.steps) if step.op == "opaque"]
    seen: set[int] = set()
    while open_:
        number = open_.pop()
        if number not in seen:
            seen.add(number)
            open_ += graph.steps[number].reads
    return {name for number in seen if (name := graph.steps[number].module or "").startswith("layers.0.")}


@pytest.mark.parametrize("name", FAMILIES)
def test_thin_equals_fat_and_mutants_do_not(name: str) -> None:
    net = fat_network(name)
    images = noise(net, (64, 64), torch.Generator().manual_seed(7), batch=1)
    graph = prune.trace(net)
    keep = keep_mask(graph)
    inside = [conv_ for key, conv_ in graph.convs.items() if key.startswith("layers.0.")]
    dropped = sum(int((~keep[conv_.makes]).sum()) for conv_ in inside)
    assert dropped > 0.1 * sum(len(conv_.makes) for conv_ in inside)
    traced.statistics_of_the_thin(net, graph, keep, noise(net, (64, 64), torch.Generator().manual_seed(8), batch=4))
    assert traced.distance(traced.Imposed(net), net, images) < 1e-12
    plain = thin_network(net, graph, keep)
    assert traced.distance(plain, traced.dropped_at_zero(net, graph, keep), images) < TOLERANCE
    folded = thin_network(net, graph, keep, leftovers(net, graph, keep))
    assert traced.distance(folded, traced.gammas_at_zero(net, graph, keep), images) < TOLERANCE
    assert traced.distance(folded, plain, images) > 1e-4
    used = reaching_the_heads(graph)
    everyone = [(what, wrong) for what, wrong in mutants(graph, keep) if what.split()[-1] in used]
    for what, wrong in everyone[1 :: max(1, len(everyone) // 2)][:2]:
        assert traced.distance(thin_network(net, wrong, keep), plain, images) > TOLERANCE, what


def test_what_a_forward_splits_by_a_number_is_held_and_the_rest_can_go() -> None:
    graph = prune.trace(models.Network(parse_cfg(around("cspdarknet53"))))
    held = {name for name, conv_ in graph.convs.items() if graph.fixed[conv_.makes].any()}
    assert {name for name in graph.convs if name.endswith("conv_exp.conv")} < held
    able = {name for name in graph.convs if name.endswith((".conv1.conv", "conv_down.conv", "conv_transition.conv"))}
    assert len(able) > 10
    assert not able & held


@pytest.mark.parametrize("name", ["cspdarknet53", "res2net50_26w_4s"])
def test_the_report_names_a_split_by_a_number(name: str) -> None:
    report = prune.channels(models.Network(parse_cfg(around(name))), ratio=0.3).report
    assert report.fixed_by.keys() == {"split by a number written in the code", "head outputs"}
    assert f"fixed: {report.fixed - 48} split by a number written in the code, 48 head outputs\n" in report.text()


def test_all_of_a_slice_that_takes_everything_can_go() -> None:
    graph = prune.trace(models.Network(parse_cfg(around("ghostnet_050"))))
    assert not any(
        graph.fixed[conv_.makes].any()
        for name, conv_ in graph.convs.items()
        if name.startswith("layers.0.") and "ghost" in name
    )


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("tf_efficientnet_lite0", "conv_stem"),  # pads by the size of its input
        ("convnext_atto", "stem_1"),  # LayerNorm over channels
    ],
)
def test_what_cannot_be_followed_is_an_error_that_names_it(name: str, part: str) -> None:
    net = models.Network(parse_cfg(around(name)))
    with pytest.raises(UserError, match=f"layers.0.model.*{part}"):
        prune.trace(net)


def test_channels_of_a_backbone_are_pruned_to_a_budget_and_reported() -> None:
    net = alive(models.Network(parse_cfg(around("mobilenetv4_conv_small"))))
    wither(net, prune.trace(net), 0.6)
    result = prune.channels(net, budget="flops=0.5", round_to=4, exclude=["layers.0.model.blocks.1"])
    assert models.macs(result.network) == result.report.macs[1] <= 0.5 * models.macs(net)
    assert models.parameters(result.network) == result.report.params[1]
    for key, module in result.network.conv_modules.items():
        fat = net.conv_modules[key]
        assert module.out_channels % 4 == 0 or module.out_channels == fat.out_channels
        if str(key).startswith("0.model.blocks.1."):
            assert module.out_channels == fat.out_channels
    assert any(name.startswith("layers.0.model.") for name in result.report.held)


def test_sparsity_acts_on_the_gammas_of_a_backbone() -> None:
    net = models.Network(parse_cfg(around("resnet18")))
    sparsity = prune.Sparsity(net, s=1.0, form="proximal")
    before = sparsity.values(net).clone()
    sparsity.after_step(net, 0.25, 0.0)
    assert any(name.startswith("layers.0.model.layer1") for name in sparsity.masks)
    torch.testing.assert_close(sparsity.values(net), (before - 0.25).clamp(min=0))
