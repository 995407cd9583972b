"""The loss of heads without anchors against Python numbers, its gradients, and how a batch may be split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import models
from common.errors import UserError
from models.heads import AnchoredSpec, FreeSpec
from models.loss.criterion import criterion
from models.loss.free import FreeLoss
from models.options import LossConfig
from models.spec import Matches
from tests import nets
from tests.models.free_material import (
    Box,
    bce,
    corners,
    decoded,
    distances,
    random_heads,
    random_targets,
    softmax,
    specs_with,
)

BINS = pytest.mark.parametrize("bins", [1, 6])
DUAL = (*specs_with(6), *specs_with(6, one_to_one=True))


def ciou(p: Box, q: Box) -> float:
    """Zheng et al., equation 10."""
    size = [(b[2] - b[0], b[3] - b[1]) for b in (p, q)]
    common = max(min(p[2], q[2]) - max(p[0], q[0]), 0) * max(min(p[3], q[3]) - max(p[1], q[1]), 0)
    overlap = common / (sum(w * h for w, h in size) - common)
    diagonal = (max(p[2], q[2]) - min(p[0], q[0])) ** 2 + (max(p[3], q[3]) - min(p[1], q[1])) ** 2
    apart = sum(((p[k] + p[k + 2]) / 2 - (q[k] + q[k + 2]) / 2) ** 2 for k in (0, 1))
    v = 4 / math.pi**2 * (math.atan(size[1][0] / size[1][1]) - math.atan(size[0][0] / size[0][1])) ** 2
    return overlap - apart / diagonal - v * v / (1 - overlap + v)


def distance_loss(logits: list[float], spec: FreeSpec, truth: Box, row: int, col: int) -> float:
    """Generalized Focal Loss, equation 6, mean over the sides; of plain distances the mean absolute error."""
    x, y = col + 0.5, row + 0.5
    wanted = [x - truth[0] / spec.stride, y - truth[1] / spec.stride, truth[2] / spec.stride - x]
    wanted.append(truth[3] / spec.stride - y)
    if spec.bins == 1:
        return sum(abs(d - t) for d, t in zip(distances(logits, 1), wanted)) / 4
    total = 0.0
    for side, t in enumerate(wanted):
        t = min(max(t, 0.0), spec.bins - 1.01)
        share, left = softmax(logits[side * spec.bins : (side + 1) * spec.bins]), int(t)
        total -= (left + 1 - t) * math.log(share[left]) + (t - left) * math.log(share[left + 1])
    return total / 4


def reference(specs: Sequence[FreeSpec], heads: Sequence[Tensor], matches: Matches) -> dict[str, float]:
    """The three terms of one group of heads by loops over Python numbers."""
    box = cls = dfl = total = 0.0
    for spec, head, match in zip(specs, heads, matches.heads):
        assert match.weight is not None
        taught = {}
        columns = (match.image, match.row, match.col, match.label, match.box, match.weight)
        for i, r, c, label, truth, weight in zip(*(each.tolist() for each in columns)):
            logits, wanted = head[i, 0, r, c].tolist(), corners(*truth)
            left, top, right, low = decoded(logits, spec, r, c)
            cx, cy, w, h = (left + right) / 2, (top + low) / 2, max(right - left, 0.01), max(low - top, 0.01)
            box += weight * (1 - ciou(corners(cx, cy, w, h), wanted))
            dfl += weight * distance_loss(logits, spec, wanted, r, c)
            taught[i, r, c, label] = weight
            total += weight
        for i in range(head.shape[0]):
            for r in range(head.shape[2]):
                for c in range(head.shape[3]):
                    for k, logit in enumerate(head[i, 0, r, c, 4 * spec.bins :].tolist()):
                        cls += bce(logit, taught.get((i, r, c, k), 0.0))
    return {"box": box / total, "cls": cls / total, "dfl": dfl / total}


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


@BINS
def test_terms_equal_the_reference(bins: int) -> None:
    specs = specs_with(bins)
    heads, loss = random_heads(specs, 2), FreeLoss(specs)
    matches = loss.assign(heads, random_targets(2))
    assert all(len(match) > 2 for match in matches.heads)
    assert values(loss(heads, matches)) == pytest.approx(reference(specs, heads, matches), rel=1e-6)


def test_heads_of_one_place_an_object_have_an_assignment_and_a_divisor_of_their_own() -> None:
    heads, targets, loss = random_heads(DUAL, 2), random_targets(2), FreeLoss(DUAL)
    matches = loss.assign(heads, targets)
    one = torch.cat([match.target for match in matches.heads[2:]])
    assert len(one) == len(one.unique()), "an object has one place at most"
    assert len(one) > 5
    assert sum(map(len, matches.heads[:2])) > 3 * len(one)
    groups = [FreeLoss(specs) for specs in (DUAL[:2], DUAL[2:])]
    apart = [values(each(part, each.assign(part, targets))) for each, part in zip(groups, (heads[:2], heads[2:]))]
    assert values(loss(heads, matches)) == pytest.approx({name: apart[0][name] + apart[1][name] for name in apart[0]})


@BINS
@pytest.mark.parametrize("box_loss", ["ciou", "giou"])
def test_gradients_are_those_of_finite_differences(bins: int, box_loss: str) -> None:
    specs = specs_with(bins)
    loss, targets = FreeLoss(specs, LossConfig(box_loss=box_loss)), random_targets(1)
    heads = [head.requires_grad_() for head in random_heads(specs, 1)]
    matches = loss.assign(heads, targets)
    # CIoU's trade-off factor is a constant to autograd by definition, but not to finite differences.
    names = ("cls", "dfl") if box_loss == "ciou" else ("box", "cls", "dfl")
    assert torch.autograd.gradcheck(lambda *h: [loss(h, matches)[name] for name in names], heads, fast_mode=True)


@BINS
def test_steps_along_the_gradient_find_the_objects(bins: int) -> None:
    specs = specs_with(bins)
    targets = torch.tensor(
        [[0, 1, 20.0, 18.0, 22.0, 20.0], [0, 2, 48.0, 30.0, 18.0, 26.0], [1, 0, 30.0, 20.0, 40.0, 30.0]]
    )
    heads = [head.requires_grad_() for head in random_heads(specs, 2, dtype=torch.float32)]
    loss = FreeLoss(specs)
    optimiser = torch.optim.Adam(heads, lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        terms = loss(heads, loss.assign(heads, targets))
        torch.stack([loss.weights[name] * term for name, term in terms.items()]).sum().backward()
        optimiser.step()
    with torch.no_grad():
        assert float(terms["box"]) < 0.05
        rows = torch.cat([spec.decode(head).flatten(1, 3) for spec, head in zip(specs, heads)], 1)
        for picture, label, *box in targets.tolist():
            best = rows[int(picture), :, 4 + int(label)].argmax()
            assert rows[int(picture), best, :4].tolist() == pytest.approx(box, abs=1.0)
            assert rows[int(picture), best, 4 + int(label)] > 0.8


@BINS
def test_no_objects_give_zeros_that_still_reach_the_heads_and_the_background_its_sum(bins: int) -> None:
    specs = specs_with(bins)
    heads = [head.requires_grad_() for head in random_heads(specs, 2)]
    loss = FreeLoss(specs)
    matches = loss.assign(heads, torch.zeros(0, 6))
    terms = loss(heads, matches)
    assert terms["box"].item() == terms["dfl"].item() == 0
    background = sum(bce(z, 0) for head in heads for z in head[..., 4 * bins :].flatten().tolist())
    assert terms["cls"].item() == pytest.approx(background)
    (terms["box"] + terms["dfl"]).backward(retain_graph=True)
    assert all(head.grad is not None and not head.grad.any() for head in heads)
    terms["cls"].backward()
    assert all(head.grad[..., 4 * bins :].all() for head in heads)


def test_objects_that_no_box_overlaps_do_not_blow_the_background_up() -> None:
    """Two objects far from every box: S is 0, and the divisor .05 an object."""
    spec = FreeSpec(8, 1, bins=1)
    head, loss = torch.full((1, 1, 6, 8, 5), -1.0), FreeLoss([spec])
    targets = torch.tensor([[0, 0, 28.0, 20.0, 16.0, 16.0], [0, 0, 40.0, 20.0, 16.0, 16.0]])
    terms = loss([head], loss.assign([head], targets))
    assert float(terms["cls"]) == pytest.approx(48 * bce(-1.0, 0) / 0.1, rel=1e-5)


def split_terms(parts: Sequence[tuple[list[Tensor], Tensor]], pictures: int) -> dict[str, float]:
    """The step's loss where it accumulates batches of (heads, targets), as `DetectionObjective` has it."""
    loss = FreeLoss(specs_with(6))
    objects, total = sum(len(targets) for _, targets in parts), dict.fromkeys(("box", "cls", "dfl"), 0.0)
    for heads, targets in parts:
        here = len(heads[0])
        expected = torch.tensor(objects / pictures * here)
        matches = replace(loss.assign(heads, targets), expected=expected)
        for name, value in values(loss(heads, matches)).items():
            total[name] += value * here / pictures
    return total


def test_accumulated_batches_are_one_large_batch_up_to_the_mean_weight_of_an_object() -> None:
    specs, pictures = specs_with(6), 4
    heads, targets = random_heads(specs, pictures), random_targets(pictures)
    targets = targets[(targets[:, 0] != 1) | (targets[:, 3] > 20)]
    loss = FreeLoss(specs)
    whole = loss.assign(heads, targets)
    parts, means = [], []
    for begin, end in ((0, 1), (1, 2), (2, 4)):
        rows = targets[(targets[:, 0] >= begin) & (targets[:, 0] < end)] - torch.tensor([begin, 0, 0, 0, 0, 0])
        own = [head[begin:end] for head in heads]
        parts.append((own, rows))
        means.append(float(loss.assign(own, rows).count) / len(rows))
    bounds = [float(whole.count) / len(targets) / mean for mean in means]
    assert min(bounds) < 0.99
    assert max(bounds) > 1.01
    terms = values(loss(heads, whole))
    for name, value in split_terms(parts, pictures).items():
        assert min(bounds) < value / terms[name] < max(bounds)
    # Twice the same pictures have equal means: then they agree.
    twice = split_terms([(heads, targets), (heads, targets)], 2 * pictures)
    assert twice == pytest.approx(terms, rel=1e-6)


def test_batch_without_objects_in_an_accumulating_step_weighs_its_background_like_the_others() -> None:
    heads, targets = random_heads(specs_with(6), 2), random_targets(1)
    empty = torch.zeros(0, 6)
    found = split_terms([([head[:1] for head in heads], targets), ([head[1:] for head in heads], empty)], 2)
    loss = FreeLoss(specs_with(6))
    first = [head[:1] for head in heads]
    mean = float(loss.assign(first, targets).count) / len(targets)
    background = sum(bce(z, 0) for head in heads for z in head[1:, ..., 24:].flatten().tolist())
    own = float(loss(first, loss.assign(first, targets))["cls"])
    assert found["cls"] == pytest.approx(own + background / len(targets), rel=1e-6), f"an object weighs 1, not {mean}"


@BINS
def test_mean_of_the_ranks_losses_and_gradients_is_that_of_the_global_batch(bins: int) -> None:
    """Two ranks of unlike object counts, whether a step has one batch or is told what it accumulates."""
    specs = specs_with(bins)
    heads, targets = random_heads(specs, 4), random_targets(4)
    targets = targets[(targets[:, 0] < 2) | (targets[:, 3] > 25)]
    loss = FreeLoss(specs)
    halves = [(slice(0, 2), targets[targets[:, 0] < 2])]
    halves.append((slice(2, 4), targets[targets[:, 0] >= 2] - torch.tensor([2, 0, 0, 0, 0, 0])))
    totals = [float(loss.assign([head[part] for head in heads], rows).count) for part, rows in halves]
    amounts = [float(len(rows)) for _, rows in halves]
    assert totals[0] / amounts[0] != pytest.approx(totals[1] / amounts[1])
    told = {round(each, 4): torch.tensor(both).mean() for both in (totals, amounts) for each in both}

    def mean_over_ranks(value: Tensor) -> Tensor:
        return told[round(float(value), 4)]

    whole_heads = [head.clone().requires_grad_() for head in heads]
    whole = loss(whole_heads, loss.assign(whole_heads, targets))
    sum(loss.weights[name] * term for name, term in whole.items()).backward()
    for expected in (None, torch.tensor(amounts).mean()):
        leaves = [head.clone().requires_grad_() for head in heads]
        total = dict.fromkeys(whole, 0.0)
        for part, rows in halves:
            own = [leaf[part] for leaf in leaves]
            matches = replace(loss.assign(own, rows, mean_over_ranks), expected=expected)
            terms = loss(own, matches)
            (sum(loss.weights[name] * term for name, term in terms.items()) / 2).backward()
            total = {name: total[name] + term.item() / 2 for name, term in terms.items()}
        assert total == pytest.approx(values(whole), rel=1e-6)
        for leaf, other in zip(leaves, whole_heads):
            torch.testing.assert_close(leaf.grad, other.grad, rtol=1e-5, atol=1e-8)


@BINS
@pytest.mark.parametrize("box_loss", ["ciou", "giou"])
def test_extreme_logits_keep_loss_and_gradient_finite(bins: int, box_loss: str) -> None:
    specs = specs_with(bins)
    loss = FreeLoss(specs, LossConfig(box_loss=box_loss))
    usual = loss.assign(random_heads(specs, 1), random_targets(1))
    for value in (-1e4, -60.0, 60.0, 1e4):
        heads = [torch.full_like(head, value).float().requires_grad_() for head in random_heads(specs, 1)]
        for matches in (usual, loss.assign(heads, random_targets(1))):
            terms = loss(heads, matches)
            torch.stack(list(terms.values())).sum().backward()
            assert all(torch.isfinite(term) for term in terms.values())
            assert all(torch.isfinite(head.grad).all() for head in heads if head.grad is not None)


def test_half_precision_is_computed_in_fp32() -> None:
    specs, targets = specs_with(6), random_targets(2).float()
    loss, half = FreeLoss(specs), [head.bfloat16() for head in random_heads(specs_with(6), 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(half, loss.assign(half, targets))
    full = [head.float() for head in half]
    expected = loss(full, loss.assign(full, targets))
    assert all(term.dtype == torch.float32 and torch.equal(term, expected[name]) for name, term in terms.items())


def test_each_family_has_its_own_gains_and_those_asked_for_go_before() -> None:
    free, anchored = specs_with(6), [AnchoredSpec(((8.0, 8.0),), 8, 3)]
    assert criterion(free).weights == {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    assert criterion(anchored).weights == {"box": 10.0, "obj": 100.0, "cls": 1.0}
    asked = LossConfig(box=2.0, dfl=0.0)
    assert criterion(free, asked).weights == {"box": 2.0, "cls": 0.5, "dfl": 0.0}
    assert criterion(anchored, asked).weights == {"box": 2.0, "obj": 100.0, "cls": 1.0}
    with pytest.raises(UserError, match=r"the dfl gain -1\.0 is negative"):
        LossConfig(dfl=-1.0)


def trained_by(net: models.Network, head: int) -> set[int]:
    """The numbers of the convolutions that a head's answers give a gradient."""
    net.zero_grad()
    net(torch.rand(2, 3, 64, 64))[head].square().sum().backward()
    return {number for number, layer in net.convolutions.items() if layer.conv.weight.grad is not None}


def test_what_comes_before_the_towers_of_one_place_an_object_is_trained_by_the_other_heads_alone() -> None:
    net = models.init_weights(models.Network(models.parse_cfg(nets.dual()))).train()
    assert [spec.one_to_one for spec in net.specs] == [False, False, True, True]
    assert trained_by(net, 1) == {0, 9, 11, 12, 14, 15}, "the necks 0 and 9 and a head's towers"
    assert trained_by(net, 3) == {25, 26, 28, 29}, "the towers alone"
    alone = nets.detect().replace("bins=4\n", "bins=4\none_to_one=1\n")
    net = models.init_weights(models.Network(models.parse_cfg(alone))).train()
    assert trained_by(net, 1) == {0, 9, 11, 12, 14, 15}, "where all heads are of that kind, nothing is cut off"
