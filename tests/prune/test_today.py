"""Cuts of YOLOv8, 11 and 26 as they are read from checkpoints: gammas, budgets, blocks, attention, own files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import models
import prune
from models.layers import Attention
from prune.blocks import find_blocks
from prune.plan import CutPlan
from tests.alive import alive
from tests.models import ultralytics_program as program
from tests.prune.interpreter import expected
from tests.prune.reference import TOLERANCE, distance, gammas_at_zero, keep_mask, wither
from tests.prune.test_auto import STEPS, train
from tests.prune.test_random_networks import nothing_dropped
from tests.prune.test_search import Clock
from tests.shared import shared

FAMILIES = [8, 11, 26]
ROOT = Path(__file__).resolve().parents[2]


def read(family: int, folder: Path) -> models.Network:
    """A checkpoint of the family, small, as a network in float64 in which some gammas are small."""
    torch.manual_seed(family)
    net = models.load(program.checkpoint(program.DetectionModel(family, width=32), folder / f"{family}.pt"))
    net = alive(net, (64, 64), family, torch.float64)
    wither(net, prune.trace(net), 0.5, family)
    return net


def pictures(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)).to(dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_gamma_takes_part_and_only_the_last_convolution_of_a_tower_is_fixed(family: int, tmp_path: Path) -> None:
    net = read(family, tmp_path)
    graph = prune.trace(net)
    masks = graph.participating()
    assert set(masks) == {name for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert all(mask.all() for mask in masks.values())
    fixed = {name for name, conv in graph.convs.items() if graph.fixed[conv.makes].any()}
    assert fixed == {f"layers.{number}.conv" for number in net.head_convolutions}


@pytest.mark.parametrize("budget", ["params=0.5", "flops=0.5", "channels=0.5", "latency=0.8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_budget_is_met_and_the_thin_network_is_the_fat_one(family: int, budget: str, tmp_path: Path) -> None:
    net, clock = read(family, tmp_path), Clock()
    result = prune.prune(net, budget=budget, cost=clock, layer_keep=0.1)
    what, share = budget.split("=")
    counts = {"params": "params", "flops": "macs", "channels": "channels", "latency": "latency"}
    before, after = getattr(result.report, counts[what])
    assert float(share) - 0.1 < after / before <= float(share)
    graph = prune.trace(net)
    fat = gammas_at_zero(net, graph, keep_mask(graph, result.network))
    assert distance(result.network, fat, pictures()) < TOLERANCE
    again = tmp_path / "thin.pt"
    models.save(result.network.float(), again)
    thin = models.load(again).eval()
    for one, two in zip(thin(pictures(torch.float32)), result.network.eval()(pictures(torch.float32)), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("family, count", [(8, 1), (11, 5), (26, 9)])
def test_blocks_inside_the_others_go_by_number_or_by_budget(family: int, count: int, tmp_path: Path) -> None:
    """Bottlenecks inside C2f, C3k and C3k2, both halves of an attention block, the pools of YOLO26."""
    net = read(family, tmp_path)
    able = [block for block in find_blocks(net) if not block.obstacle]
    assert len(able) == count
    result = prune.prune(net, shortcuts=count, budget="params=0.5")
    assert sorted(result.report.removed_blocks) == [block.layer for block in able]
    assert not any(section.kind == "attention" for section in result.network.cfg.layers)
    assert result.report.params[1] <= 0.5 * result.report.params[0]
    both = prune.prune(net, shortcuts="auto", budget="params=0.3")
    assert both.report.params[1] <= 0.3 * both.report.params[0]
    shorter = prune.shortcuts(net, count).network
    wanted = expected(net, nothing_dropped(net), pictures(), False, [block.layer for block in able])
    for one, two in zip(shorter(pictures()), wanted, strict=True):
        assert (one - two).abs().max() < TOLERANCE * two.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_max_drop_finds_a_cut_within_the_drop(family: int, tmp_path: Path) -> None:
    net = read(family, tmp_path)
    parameters = models.parameters(net)
    result = prune.max_drop(net, lambda thin: 0.5 * models.parameters(thin) / parameters, max_drop=0.1)
    kept = result.result.report.params[1] / parameters
    assert 0.8 <= kept < 0.95


@pytest.mark.parametrize("family", [11, 26])
def test_the_heads_of_an_attention_keep_equally_many_and_the_report_says_what_that_held(
    family: int, tmp_path: Path
) -> None:
    net = read(family, tmp_path)
    result = prune.prune(net, budget="params=0.4", layer_keep=0.1)
    graph = prune.trace(net)
    keep = keep_mask(graph, result.network)
    slices = [each for each in graph.constraints if each.by == "by the heads of an attention"]
    assert len(slices) == 2 * sum(isinstance(layer, Attention) for layer in net.layers)
    for each in slices:
        counts = {int(keep[ids].sum()) for ids in each.slices}
        assert len(counts) == 1
        assert 0 < counts.pop() < len(each.slices[0])
    held = result.report.equalised_by["by the heads of an attention"]
    assert 0 < held <= result.report.equalised
    assert f"held by equal slices: {held} by the heads of an attention" in result.report.text()


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_sparsity_silences_what_the_budget_takes_and_the_cut_takes_just_that(family: int, tmp_path: Path) -> None:
    """On a loss that is not theirs; what of it is theirs is tied groups, equal slices and prices."""
    net = read(family, tmp_path).float().train()
    plan = CutPlan(budget="flops=0.5")
    hook = prune.AutoSparsity(net, plan=plan)
    rows = train(net, hook, range(STEPS))
    assert rows[-1]["sparsity/at_zero"] == hook.share >= 0.5 - 0.02
    result = prune.prune(net.eval(), plan)
    assert result.report.macs[1] <= 0.5 * result.report.macs[0]
    assert result.report.alive < 0.05


RELOAD = """
import sys, torch, models
for path in sys.argv[1:]:
    images, wanted = torch.load(path + ".out", weights_only=True)
    net = models.load(path).eval()
    with torch.no_grad():
        assert torch.equal(net.decode(net(images)), wanted), path
"""


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_a_cut_checkpoint_reloads_from_its_own_file_alone_and_predicts_the_same(name: str, tmp_path: Path) -> None:
    net = models.load(shared(f"pretrained/ultralytics/{name}_alive.pt"))
    thin = prune.prune(net, budget="flops=0.6", shortcuts=1).network.eval()
    models.save(thin, tmp_path / "thin.pt")
    with torch.no_grad():
        images = pictures(torch.float32)
        torch.save((images, thin.decode(thin(images))), tmp_path / "thin.pt.out")
    subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path / "thin.pt")], check=True, cwd=ROOT)
