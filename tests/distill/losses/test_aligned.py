"""Distillation along the lineage: the numbers of the definition, and who may teach whom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import models
import prune
from common.errors import UserError
from distill import FeaturePair, KDConfig, aligned
from distill.pairs import pairs_on_lineage
from models.lineage import descend, identity_step
from models.network import Network
from models.spec import Outputs
from tests.distill.material import PAIRS, matched, random_maps, specs_of, tiny_network, values

SPECS = specs_of()
NONE = matched(SPECS, torch.zeros(0, 6))
KEPT = ((4, 0, 3), None)
LINKED = tuple(FeaturePair(p.student_layer, p.teacher_layer, 3, 5, p.stride, kept=k) for p, k in zip(PAIRS, KEPT))


@pytest.mark.parametrize("distance", ["pearson", "l2"])
def test_term_compares_channel_with_kept_channel(distance: str) -> None:
    student, teacher = random_maps(SPECS, False), random_maps(SPECS, True, seed=1)
    expected = []
    for pair in LINKED:
        ours = student.features[pair.student_layer].numpy()
        theirs = teacher.features[pair.teacher_layer].numpy()
        theirs = theirs if pair.kept is None else np.stack([theirs[:, k] for k in pair.kept], axis=1)
        channels = range(ours.shape[1])
        if distance == "pearson":
            r = [np.corrcoef(ours[:, c].ravel(), theirs[:, c].ravel())[0, 1] for c in channels]
            expected.append(1 - np.mean(r))
        else:
            expected.append(((ours - theirs) ** 2).mean() / np.mean([theirs[:, c].var() for c in channels]))
    found = values(aligned(student, teacher, NONE, pairs=LINKED, distance=distance))
    assert found == pytest.approx({"aligned": np.mean(expected)}, abs=1e-5)


def cut(fat: Network, keep: int = 8) -> tuple[Network, dict[int, list[int]]]:
    """A network of `keep` channels per layer that says it was cut from `fat`, and the channels it kept."""
    student = tiny_network(keep)
    generator = np.random.default_rng(0)
    step, kept = {}, {}
    for number, conv in student.convolutions.items():
        old = fat.convolutions[number].out_channels
        same = old == conv.out_channels
        kept[number] = list(range(old)) if same else sorted(generator.permutation(old)[:keep].tolist())
        step[number] = (number, kept[number])
    student.lineage = descend(fat, "baseline", step)
    return student, kept


def test_pairs_follow_the_lineage() -> None:
    fat = tiny_network(16, seed=1)
    student, kept = cut(fat)
    # Layer 0 is finer than the finest head; 2 and 6 are the heads' own convolutions.
    pairs = pairs_on_lineage(student, fat)
    assert [(p.student_layer, p.teacher_layer, p.stride, p.kept) for p in pairs] == [
        (1, 1, 8.0, tuple(kept[1])),
        (5, 5, 16.0, tuple(kept[5])),
    ]
    every = pairs_on_lineage(student, fat, layers="all")
    assert [p.student_layer for p in every] == [0, 1, 5]
    assert [(p.student_channels, p.teacher_channels) for p in every] == [(8, 16)] * 3


def test_a_network_that_was_only_trained_on_has_all_channels() -> None:
    fat = tiny_network(8, seed=1)
    student = tiny_network(8)
    student.lineage = descend(fat, "baseline", identity_step(fat))
    assert [pair.kept for pair in pairs_on_lineage(student, fat)] == [None, None]


def test_every_ancestor_may_teach_and_others_are_refused_by_name(tmp_path: Path) -> None:
    oldest, sparse = tiny_network(16, seed=1), tiny_network(16, seed=2)
    sparse.lineage = descend(oldest, "baseline", identity_step(oldest))
    student, kept = cut(sparse)
    student.lineage[-1]["kind"] = "sparse"
    config = KDConfig(kd="aligned")
    for ancestor in (oldest, sparse):
        assert config.pairs("aligned", student, ancestor, (0, 1))[0].kept == tuple(kept[1])
    stranger = tiny_network(16, seed=3)
    with pytest.raises(UserError, match=r"no ancestor.*baseline \([0-9a-f]{12}\), sparse \([0-9a-f]{12}\)"):
        config.pairs("aligned", student, stranger, (0, 1))
    models.save_darknet(student, tmp_path / "s.cfg", tmp_path / "s.weights")
    forgetful = models.load(tmp_path / "s.cfg", weights=tmp_path / "s.weights")
    with pytest.raises(UserError, match=r"(?s)ancestors: none.*\.weights files carry no lineage, the \.pt does"):
        config.pairs("aligned", forgetful, oldest, (0, 1))
    models.save(student, tmp_path / "s.pt")
    assert config.pairs("aligned", models.load(tmp_path / "s.pt"), oldest, (0, 1))


def test_a_student_without_common_layers_is_refused() -> None:
    fat = tiny_network(16, seed=1)
    student, _ = cut(fat)
    for number in (0, 1, 5):
        del student.lineage[-1]["layers"][str(number)]
    with pytest.raises(UserError, match="no convolution of the student comes from"):
        pairs_on_lineage(student, fat)


def dead_channels(net: Network, layers: tuple[int, ...], every: int) -> None:
    """BatchNorms from noise; of the given layers, every n-th channel is silent."""
    generator = torch.Generator().manual_seed(0)
    net.train()
    with torch.no_grad():
        for number in layers:
            norm = net.convolutions[number].bn
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(generator=generator)
            norm.weight[::every] = norm.bias[::every] = 0
        for _ in range(20):
            net(torch.rand(4, 3, 64, 64, generator=generator))
    net.eval()


@pytest.mark.parametrize("distance", ["pearson", "l2"])
def test_where_only_silent_channels_were_cut_every_channel_still_says_the_same(distance: str) -> None:
    fat = tiny_network(16, seed=1)
    dead_channels(fat, (0, 1, 5), every=3)
    thin = prune.channels(fat, threshold=0.1, kind="baseline").network
    assert thin.convolutions[0].out_channels == 10
    pairs = pairs_on_lineage(thin, fat, layers="all")
    assert len(pairs) == 3
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    maps = []
    for net, layers in ((thin, [p.student_layer for p in pairs]), (fat, [p.teacher_layer for p in pairs])):
        with torch.no_grad():
            heads, features = net.eval().forward_features(images, layers)
        maps.append(Outputs(heads, net.specs, features))
    assert aligned(*maps, NONE, pairs=pairs, distance=distance)["aligned"].item() < 1e-4
    shifted = [replace(pair, kept=tuple(k - 1 for k in pair.kept or ())) for pair in pairs]
    assert aligned(*maps, NONE, pairs=shifted, distance=distance)["aligned"].item() > 0.3
