"""Both equalities, files and mutants on random small networks: every way of joining sections, at random.

The same 500 networks each time; THINYOLO_EXAMPLES=5000 tries that many new ones, and shrinks what fails.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st
from torch.func import functional_call

import models
import prune
from models.cfg import parse_cfg
from models.kinds import KINDS
from prune.blocks import cut_blocks, find_blocks
from prune.fold import leftovers
from prune.identities import ChannelGraph, Mask
from prune.plan import STRATEGIES
from prune.select import Selector
from prune.surgery import sliced_tensors, thin_network
from tests.alive import alive, noise
from tests.prune.grammar import PIECES, SIDE, Writer, cfg_texts
from tests.prune.interpreter import expected
from tests.prune.reference import TOLERANCE, keep_mask, mutants, wither

PARTS, NETWORKS = 5, 100
MORE = int(os.environ.get("THINYOLO_EXAMPLES") or 0)
Tensors = dict[str, torch.Tensor]
Cut = tuple[Mask, models.Network]
SETTINGS = settings(
    max_examples=MORE // PARTS or NETWORKS,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate] + [Phase.shrink] * bool(MORE),
)


@st.composite
def living_networks(draw: Callable) -> models.Network:
    """A random network in float64 whose every head listens to its input."""
    cfg = parse_cfg(draw(cfg_texts()))
    weights = draw(st.integers(0, 1000))
    try:
        net = alive(models.Network(cfg), (SIDE, SIDE), weights, torch.float64)
    except AssertionError:  # hardly listens to its input
        assume(False)
    return net


def pictures(net: models.Network) -> torch.Tensor:
    return noise(net, (SIDE, SIDE), torch.Generator().manual_seed(7))


def apart(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest difference of the heads, relative to each head's max|wanted|."""
    return max(float((one - two).abs().max() / two.abs().max()) for one, two in zip(found, wanted, strict=True))


def dropped(graph: ChannelGraph, keep: Mask) -> dict[int, torch.Tensor]:
    return {int(name.split(".")[1]): torch.from_numpy(~keep[conv.makes]) for name, conv in graph.convs.items()}


def nothing_dropped(net: models.Network) -> dict[int, torch.Tensor]:
    return {number: torch.zeros(layer.out_channels, dtype=torch.bool) for number, layer in net.convolutions.items()}


def any_cut(draw: Callable, net: models.Network, graph: ChannelGraph) -> Cut:
    """A random keep-set and its folded network: of random scores, so it owes nothing to the gammas."""
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    selector = Selector(graph, {name: random.random(len(ids)) for name, ids in graph.norms.items()}, layer_keep=1)
    keep = selector.settle(selector.cut_at_ratio(draw(st.sampled_from((0.3, 0.6, 1.0))))).keep
    return keep, thin_network(net, graph, keep, leftovers(net, graph, keep))


def chosen_cut(draw: Callable, net: models.Network, graph: ChannelGraph) -> Cut:
    """The keep-set of a strategy and its folded network, through `prune.channels` itself."""
    wither(net, graph, 0.5, draw(st.integers(0, 1000)))
    result = prune.channels(
        net,
        strategy=draw(st.sampled_from(STRATEGIES)),
        ratio=draw(st.sampled_from((0.2, 0.5, 0.8))),
        round_to=draw(st.sampled_from((1, 1, 4))),
        layer_keep=draw(st.sampled_from((1, 0.3))),
    )
    report = result.report
    assert report.params[1] == models.parameters(result.network)
    assert report.removed == sum(before - after for before, after in report.layers.values())
    return keep_mask(graph, result.network), result.network


def check_files(draw: Callable, thin: models.Network) -> None:
    """The cfg's text and the `.pt`, or the `.weights`, give the same network back."""
    again = parse_cfg(thin.cfg.text())
    assert again.structure() == thin.cfg.structure()
    assert again.text() == thin.cfg.text()
    thin = thin.float()
    images = pictures(thin)
    wanted = [head.clone() for head in thin(images)]
    with tempfile.TemporaryDirectory() as folder:
        cfg, weights, pt = (Path(folder, name) for name in ("thin.cfg", "thin.weights", "thin.pt"))
        if draw(st.booleans()) or not all(section.facts.darknet for section in thin.cfg.layers):
            models.save(thin, pt)
            loaded = models.load(pt)
        else:
            models.save_darknet(thin, cfg, weights)
            loaded = models.load(cfg, weights)
    assert all(torch.equal(one, two) for one, two in zip(loaded.eval()(images), wanted, strict=True))


def check_legal(graph: ChannelGraph, keep: Mask) -> None:
    for name, conv in graph.convs.items():
        assert keep[conv.makes].any(), f"{name} is empty"
    assert keep[graph.fixed].all()
    assert np.array_equal(keep, keep[graph.root])
    for constraint in graph.constraints:
        assert len({int(keep[ids].sum()) for ids in constraint.slices}) == 1, constraint.name


def check_blocks(draw: Callable, net: models.Network) -> tuple[models.Network, int]:
    """Some removable blocks gone; the network without them is what the checks go on with, and how many went."""
    able = [block for block in find_blocks(net) if not block.obstacle]
    gone = [block for block in able if draw(st.booleans())]
    if not gone:
        return net, 0
    shorter, _ = cut_blocks(net, gone)
    wanted = expected(net, nothing_dropped(net), pictures(net), False, [block.layer for block in gone])
    assert apart(shorter(pictures(net)), wanted) < TOLERANCE
    return shorter, len(gone)


def listening(heads: list[torch.Tensor]) -> bool:
    """Do two pictures differ by more than 1 % of max|out| at every head?"""
    return all(float((head[0] - head[1]).abs().max()) > 0.01 * float(head.abs().max()) for head in heads)


def listened_to(thin: models.Network, right: Tensors, wrong: Tensors, images: torch.Tensor) -> bool:
    """Does any head move when `right` moves a little towards `wrong`?

    Not if nobody reads the channel, or only a gate that is shut or wide open. How much a whole mutation would move a
    head at that rate is asked of its largest number: summed over thousands of places, what is far below the tolerance
    at each of them looks like something. Every number moves at a rate of its own, so that no two cancel.
    """
    random, step = torch.Generator().manual_seed(1), 1e-3
    nudged = {
        name: tensor + step * (0.5 + torch.rand(tensor.shape, generator=random)) * (wrong[name] - tensor)
        for name, tensor in right.items()
        if tensor.is_floating_point()
    }
    moved = functional_call(thin, {**right, **nudged}, (images,))
    return apart(moved, functional_call(thin, right, (images,))) > step * 100 * TOLERANCE


def check_a_network(draw: Callable, seen: Counter[str]) -> None:
    net, blocks = check_blocks(draw, draw(living_networks()))
    images, graph = pictures(net), prune.trace(net)
    keep, folded = draw(st.sampled_from((any_cut, chosen_cut)))(draw, net, graph)
    check_legal(graph, keep)
    gone = dropped(graph, keep)
    # The network of the tensors that are merely sliced: the folded one's sections, so it need not be built.
    plain, wanted = sliced_tensors(net, graph, keep), expected(net, gone, images, fold=False)
    assert apart(functional_call(folded, plain, (images,)), wanted) < TOLERANCE
    constants = expected(net, gone, images, fold=True)
    assert apart(folded(images), constants) < TOLERANCE
    # A cut may shut a gate for good, and all behind it is then deaf: mutants are tried where the thin heads listen.
    tried = islice(mutants(graph, keep), draw(st.integers(0, 5)), None, 4) if listening(wanted) else ()
    for what, wrong in tried:
        mutant = sliced_tensors(net, wrong, keep)
        if apart(functional_call(folded, mutant, (images,)), wanted) > TOLERANCE:
            seen["mutants"] += 1
        else:
            assert not listened_to(folded, plain, mutant, images), what
    check_files(draw, folded)
    seen.update(networks=1, blocks=blocks, cut=not keep.all(), differ=apart(wanted, constants) > 1e-4)


@pytest.mark.parametrize("part", range(PARTS))
def test_thin_equals_fat_and_mutants_do_not_for_random_networks(part: int) -> None:
    seen: Counter[str] = Counter()

    @SETTINGS
    @given(st.data())
    @torch.no_grad()
    def check(data: st.DataObject) -> None:
        check_a_network(data.draw, seen)

    if not MORE:
        seed(part)(check)
    check()
    # The networks were worth it: most lost channels whose constants matter, and mutants of most could be told.
    assert seen["networks"] >= NETWORKS
    assert seen["cut"] > 0.7 * NETWORKS
    assert seen["differ"] > 0.5 * NETWORKS
    assert seen["mutants"] > 0.7 * NETWORKS
    assert seen["blocks"] > 0


@settings(SETTINGS, max_examples=10, derandomize=True)
@given(st.data())
def test_the_pieces_of_the_grammar_speak_of_every_kind_of_section(data: st.DataObject) -> None:
    net = Writer(data.draw)
    for piece in PIECES:
        piece(net)
    net.head()
    cfg = parse_cfg(net.text)
    assert {section.kind for section in cfg.layers} == {*KINDS} - {
        "net",
        "timm",
        "region",
        "reorg",
        "yolo" if net.free else "detect",
    }
    assert models.Network(cfg).layer_sizes((SIDE, SIDE))
