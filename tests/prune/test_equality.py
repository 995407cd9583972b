"""A thin network equals the fat one it claims to be, in float64, and a single shifted index is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import models
import prune
from models.cfg import parse_cfg
from prune.fold import Leftovers, leftovers
from prune.surgery import thin_network
from tests.alive import alive, noise
from tests.nets import TINY, conv, yolo
from tests.prune.reference import TOLERANCE, distance, gammas_at_zero, keep_mask, multiplied_by_zero, mutants, wither
from tests.shared import shared

# Backbones inside a [timm] section have a test of their own: test_timm.py.
CFGS = [
    path for path in sorted(Path(__file__).resolve().parents[2].glob("cfg/*.cfg")) if not path.stem.startswith("timm-")
]
SIDE = 64


def fat_network(cfg: models.Cfg, seed: int = 0) -> models.Network:
    net = alive(models.Network(cfg), (SIDE, SIDE), seed, torch.float64)
    wither(net, prune.trace(net), 0.5, seed)
    return net


def pictures(net: models.Network) -> torch.Tensor:
    return noise(net, (SIDE, SIDE), torch.Generator().manual_seed(7), batch=1)


def check_both_equalities(net: models.Network, least: float = 0.1) -> models.Network:
    """Returns the thin network without folding; `least`: share of the channels that has to go for this to mean much."""
    images, graph = pictures(net), prune.trace(net)
    plain = prune.channels(net, ratio=0.5, fold=False)
    assert plain.report.removed > least * plain.report.channels[0]
    assert distance(plain.network, multiplied_by_zero(net, plain.network), images) < TOLERANCE
    folded = prune.channels(net, ratio=0.5).network
    keep = keep_mask(graph, folded)
    assert distance(folded, gammas_at_zero(net, graph, keep), images) < TOLERANCE
    # The two references differ, so neither check passes by accident.
    assert distance(folded, plain.network, images) > 1e-4
    return plain.network


@pytest.mark.parametrize("name", TINY)
def test_thin_equals_fat_in_every_way_sections_can_be_joined(name: str) -> None:
    for seed in range(2):
        check_both_equalities(fat_network(parse_cfg(TINY[name]), seed))


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_thin_equals_fat_and_mutants_do_not_for_every_shipped_cfg(path: Path) -> None:
    net = fat_network(models.read_cfg(path))
    plain = check_both_equalities(net)
    graph, images = prune.trace(net), pictures(net)
    keep = keep_mask(graph, plain)
    everyone = list(mutants(graph, keep))
    for what, wrong in everyone[1 :: len(everyone) // 3]:
        assert distance(thin_network(net, wrong, keep), plain, images) > TOLERANCE, what


@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "yolo-fastest-1.1_body"])
def test_thin_equals_fat_for_trained_depthwise_networks(name: str) -> None:
    check_both_equalities(fat_network(models.read_cfg(shared(f"pretrained/darknet/{name}.cfg"))))


@pytest.mark.parametrize("name", TINY)
def test_a_shifted_index_is_noticed_in_every_kind_of_tensor(name: str) -> None:
    net = fat_network(parse_cfg(TINY[name]))
    graph, images = prune.trace(net), pictures(net)
    right = prune.channels(net, ratio=0.5, fold=False).network
    keep = keep_mask(graph, right)
    reference = multiplied_by_zero(net, right)
    found = 0
    for what, wrong in mutants(graph, keep):
        assert distance(thin_network(net, wrong, keep), reference, images) > TOLERANCE, what
        found += 1
    assert found >= len(graph.norms)


def test_folding_is_exact_for_1x1_readers_with_nothing_done_to_the_border() -> None:
    text = (
        "[net]\nwidth=64\nheight=64\nchannels=3\n"
        + conv(16, stride=2)
        + conv(16, 1, activation="mish")
        + conv(12, 1, activation="swish")
        + conv(24, 1, activation="linear", bn=0)
        + yolo("0,1,2")
    )
    net = fat_network(parse_cfg(text))
    graph, thin = prune.trace(net), prune.channels(net, ratio=0.5).network
    fat = gammas_at_zero(net, graph, keep_mask(graph, thin), endless=False)
    assert distance(thin, fat, pictures(net)) < TOLERANCE


def test_folding_is_exact_in_the_interior_of_padded_readers_and_only_there() -> None:
    text = (
        "[net]\nwidth=64\nheight=64\nchannels=3\n"
        + conv(16)
        + conv(16, activation="mish")
        + conv(16, activation="relu")
        + conv(24, 1, activation="linear", bn=0)
        + yolo("0,1,2")
    )
    net = fat_network(parse_cfg(text))
    graph, thin = prune.trace(net), prune.channels(net, ratio=0.5).network
    fat = gammas_at_zero(net, graph, keep_mask(graph, thin), endless=False)
    images = pictures(net)
    with torch.no_grad():
        error = (thin(images)[0] - fat(images)[0]).abs() / fat(images)[0].abs().max()
    assert error[:, :, 2:-2, 2:-2].max() < TOLERANCE
    assert error.max() > TOLERANCE


def test_without_folding_the_leftovers_are_lost() -> None:
    net = fat_network(parse_cfg(TINY["residual"]))
    graph = prune.trace(net)
    folded = prune.channels(net, ratio=0.5).network
    keep = keep_mask(graph, folded)
    fat = gammas_at_zero(net, graph, keep)
    assert distance(thin_network(net, graph, keep, Leftovers()), fat, pictures(net)) > 1e-3
    assert distance(thin_network(net, graph, keep, leftovers(net, graph, keep)), fat, pictures(net)) < TOLERANCE


def test_what_meets_a_gate_is_not_folded_and_reported() -> None:
    net = fat_network(parse_cfg(TINY["gated"]))
    report = prune.channels(net, ratio=0.5).report
    assert "layers.7.conv" in report.unfolded
    assert "not folded" in report.text()
