"""The detection loss against float64 NumPy, its gradients, and its independence of how a batch is split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import UserError
from models.assign.by_shape import assign
from models.heads import AnchoredSpec
from models.loss.anchored import DetectionLoss
from models.options import LossConfig
from models.spec import Matches

FINE = ((8.0, 10.0), (16.0, 12.0))
COARSE = ((40.0, 30.0), (60.0, 90.0))
EXP = (AnchoredSpec(FINE, 8, 3), AnchoredSpec(COARSE, 16, 3))
SQUARE = (AnchoredSpec(FINE, 8, 3, 2.0, True), AnchoredSpec(COARSE, 16, 3, 2.0, True))
SHAPES = [(6, 8), (3, 4)]


def random_heads(
    specs: Sequence[AnchoredSpec], pictures: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(pictures, len(spec.anchors), *shape, 5 + spec.classes, generator=generator, dtype=dtype)
        for spec, shape in zip(specs, SHAPES)
    ]


def random_targets(pictures: int, each: int = 6, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    count = pictures * each
    image = np.repeat(np.arange(pictures), each)[:, None]
    centre = generator.uniform(0, 1, (count, 2)) * (64, 48)
    size = np.exp(generator.uniform(np.log(4), np.log(90), (count, 2)))
    return torch.tensor(np.concatenate([image, generator.integers(0, 3, (count, 1)), centre, size], axis=1))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def bce(logit: float, target: float) -> float:
    return -target * math.log(sigmoid(logit)) - (1 - target) * math.log(sigmoid(-logit))


def ciou(p: Sequence[float], q: Sequence[float]) -> float:
    """Complete IoU of two cx, cy, w, h boxes (Zheng et al., equation 10)."""
    left, right = max(p[0] - p[2] / 2, q[0] - q[2] / 2), min(p[0] + p[2] / 2, q[0] + q[2] / 2)
    top, bottom = max(p[1] - p[3] / 2, q[1] - q[3] / 2), min(p[1] + p[3] / 2, q[1] + q[3] / 2)
    common = max(right - left, 0) * max(bottom - top, 0)
    iou = common / (p[2] * p[3] + q[2] * q[3] - common)
    across = max(p[0] + p[2] / 2, q[0] + q[2] / 2) - min(p[0] - p[2] / 2, q[0] - q[2] / 2)
    down = max(p[1] + p[3] / 2, q[1] + q[3] / 2) - min(p[1] - p[3] / 2, q[1] - q[3] / 2)
    distance = ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / (across**2 + down**2)
    v = 4 / math.pi**2 * (math.atan(q[2] / q[3]) - math.atan(p[2] / p[3])) ** 2
    return iou - distance - v * v / (1 - iou + v)


def reference(specs: Sequence[AnchoredSpec], heads: list[Tensor], matches: Matches) -> dict[str, float]:
    """Box (CIoU), objectness and class terms by loops over Python numbers, boxes decoded in pixels."""
    box, cls, count, obj = 0.0, 0.0, 0, 0.0
    scale = [spec.stride**-1.5 for spec in specs]
    for spec, head, match, weight in zip(specs, heads, matches.heads, scale):
        target = np.zeros(head.shape[:4])
        for i, a, r, c, truth, label in zip(
            *(getattr(match, k).tolist() for k in ("image", "anchor", "row", "col", "box", "label"))
        ):
            x, y, w, h, _, *scores = head[i, a, r, c].tolist()
            s, (aw, ah) = spec.scale_x_y, spec.anchors[a]
            cx = (sigmoid(x) * s - (s - 1) / 2 + c) * spec.stride
            cy = (sigmoid(y) * s - (s - 1) / 2 + r) * spec.stride
            fw, fh = [(2 * sigmoid(t)) ** 2 if spec.new_coords else math.exp(t) for t in (w, h)]
            overlap = ciou((cx, cy, fw * aw, fh * ah), truth)
            box += 1 - overlap
            target[i, a, r, c] = max(overlap, 0)
            cls += sum(bce(score, float(k == label)) for k, score in enumerate(scores))
            count += 1
        cells = [bce(z, t) for z, t in zip(head[..., 4].flatten().tolist(), target.flatten())]
        obj += weight / sum(scale) * sum(cells) / len(cells)
    return {"box": box / count, "obj": obj, "cls": cls / count}


@pytest.mark.parametrize("specs", [EXP, SQUARE], ids=["exp", "new_coords"])
def test_terms_equal_the_reference(specs: tuple[AnchoredSpec, ...]) -> None:
    heads = random_heads(specs, 2)
    matches = assign(specs, SHAPES, random_targets(2))
    terms = DetectionLoss(specs)(heads, matches)
    for name, value in reference(specs, heads, matches).items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("specs", [EXP, SQUARE], ids=["exp", "new_coords"])
def test_perfect_boxes_give_no_box_loss_and_full_objectness_target(specs: tuple[AnchoredSpec, ...]) -> None:
    # Half a cell right and down of its corner, exactly as large as its anchor: logits 0 in both decodes.
    heads = [torch.zeros_like(head) for head in random_heads(specs, 1)]
    targets = torch.tensor([[0, 1, 20.0, 12.0, 8.0, 10.0]], dtype=torch.float64)
    matches = assign(specs, SHAPES, targets, ratio_threshold=1.1)
    assert [len(head) for head in matches.heads] == [1, 0]
    heads[0][0, 0, 1, 2, 4] = 40.0  # sure of the one object
    for head in heads:
        head[..., 4][head[..., 4] == 0] = -40.0  # and of the background
    terms = DetectionLoss(specs)(heads, matches)
    assert float(terms["box"]) < 1e-6
    assert float(terms["obj"]) < 1e-6
    assert float(terms["cls"]) == pytest.approx(3 * math.log(2))


@pytest.mark.parametrize("box_loss", ["ciou", "giou"])
@pytest.mark.parametrize("specs", [EXP, SQUARE], ids=["exp", "new_coords"])
def test_gradients_are_those_of_finite_differences(specs: tuple[AnchoredSpec, ...], box_loss: str) -> None:
    matches = assign(specs, SHAPES, random_targets(1))
    heads = [head.requires_grad_() for head in random_heads(specs, 1)]
    # obj_target 0: the detached overlap is a constant to autograd, but not to finite differences.
    # So is CIoU's trade-off factor, by definition; its descent is tested below.
    loss = DetectionLoss(specs, LossConfig(box_loss=box_loss, obj_target=0))
    names = ("obj", "cls") if box_loss == "ciou" else ("box", "obj", "cls")
    assert torch.autograd.gradcheck(lambda *h: [loss(h, matches)[name] for name in names], heads, fast_mode=True)


@pytest.mark.parametrize("specs", [EXP, SQUARE], ids=["exp", "new_coords"])
def test_steps_along_the_gradient_find_the_objects(specs: tuple[AnchoredSpec, ...]) -> None:
    matches = assign(specs, SHAPES, random_targets(2, each=3))
    heads = [head.requires_grad_() for head in random_heads(specs, 2, dtype=torch.float32)]
    loss = DetectionLoss(specs)
    optimiser = torch.optim.Adam(heads, lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        terms = loss(heads, matches)
        torch.stack([loss.weights[name] * term for name, term in terms.items()]).sum().backward()
        optimiser.step()
    with torch.no_grad():
        terms = loss(heads, matches)
        for head, match in zip(heads, matches.heads):
            assert (match.pick(head)[:, 5:].argmax(dim=1) == match.label).all()
            assert match.pick(head)[:, 4].sigmoid().min() > 0.5
            assert (head[..., 4] > 0).sum() == len(match)  # and nothing on the background
    assert float(terms["box"]) < 0.1


def test_no_objects_give_exact_zeros_that_still_reach_the_heads() -> None:
    heads = [head.requires_grad_() for head in random_heads(EXP, 2)]
    terms = DetectionLoss(EXP)(heads, assign(EXP, SHAPES, torch.zeros(0, 6)))
    assert terms["box"].item() == terms["cls"].item() == 0
    (terms["box"] + terms["cls"]).backward(retain_graph=True)
    assert all(head.grad is not None and not head.grad.any() for head in heads)
    terms["obj"].backward()
    assert all(head.grad[..., 4].all() for head in heads)


def test_mean_of_the_ranks_losses_and_gradients_is_that_of_the_global_batch() -> None:
    """Two ranks of unlike object counts, one of them with none at all on its second picture."""
    heads, targets = random_heads(SQUARE, 4), random_targets(4)
    targets = targets[(targets[:, 0] < 2) | ((targets[:, 0] == 2) & (targets[:, 3] > 20))]
    loss = DetectionLoss(SQUARE)

    def terms_and_gradient(parts: list[tuple[slice, Tensor]]) -> tuple[dict[str, float], list[Tensor]]:
        leaves = [head.clone().requires_grad_() for head in heads]
        counts = [sum(len(h) for h in assign(SQUARE, SHAPES, rows).heads) for _, rows in parts]
        mean = torch.tensor(counts).float().mean()
        total: dict[str, float] = {}
        for pictures, rows in parts:
            matches = assign(SQUARE, SHAPES, rows, mean_over_ranks=lambda _: mean)
            terms = loss([leaf[pictures] for leaf in leaves], matches)
            (sum(loss.weights[name] * term for name, term in terms.items()) / len(parts)).backward()
            total = {name: total.get(name, 0.0) + term.item() / len(parts) for name, term in terms.items()}
        return total, [leaf.grad for leaf in leaves if leaf.grad is not None]

    late = targets[targets[:, 0] >= 2] - torch.tensor([2, 0, 0, 0, 0, 0])
    whole, whole_gradient = terms_and_gradient([(slice(0, 4), targets)])
    split, split_gradient = terms_and_gradient([(slice(0, 2), targets[targets[:, 0] < 2]), (slice(2, 4), late)])
    assert split == pytest.approx(whole)
    assert all(torch.allclose(one, other) for one, other in zip(whole_gradient, split_gradient))


def test_batch_duplicated_keeps_every_term() -> None:
    heads, targets = random_heads(EXP, 2), random_targets(2)
    twice = torch.cat([targets, targets + torch.tensor([2, 0, 0, 0, 0, 0])])
    loss = DetectionLoss(EXP)
    once = loss(heads, assign(EXP, SHAPES, targets))
    double = loss([torch.cat([head, head]) for head in heads], assign(EXP, SHAPES, twice))
    assert {k: float(v) for k, v in double.items()} == pytest.approx({k: float(v) for k, v in once.items()})


@pytest.mark.parametrize("box_loss", ["ciou", "giou"])
def test_extreme_logits_keep_loss_and_gradient_finite(box_loss: str) -> None:
    for value in (-1e4, -60.0, 60.0, 1e4):
        for specs in (EXP, SQUARE):
            heads = [torch.full_like(head, value).float().requires_grad_() for head in random_heads(specs, 1)]
            terms = DetectionLoss(specs, LossConfig(box_loss=box_loss))(heads, assign(specs, SHAPES, random_targets(1)))
            torch.stack(list(terms.values())).sum().backward()
            assert all(torch.isfinite(term) for term in terms.values())
            assert all(torch.isfinite(head.grad).all() for head in heads if head.grad is not None)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_heads_under_autocast_give_the_fp32_loss_of_the_same_numbers(dtype: torch.dtype) -> None:
    half = [head.to(dtype) for head in random_heads(EXP, 2)]
    matches = assign(EXP, SHAPES, random_targets(2).float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = DetectionLoss(EXP)(half, matches)
    full = DetectionLoss(EXP)([head.float() for head in half], matches)
    assert all(term.dtype == torch.float32 and torch.equal(term, full[name]) for name, term in terms.items())


def test_objectness_target_blends_overlap_and_one() -> None:
    heads, matches = random_heads(EXP, 1), assign(EXP, SHAPES, random_targets(1))
    obj = [float(DetectionLoss(EXP, LossConfig(obj_target=r))(heads, matches)["obj"]) for r in (0.0, 0.5, 1.0)]
    assert obj[0] != pytest.approx(obj[2])
    assert obj[1] == pytest.approx((obj[0] + obj[2]) / 2)  # BCE is linear in its target


def test_label_smoothing_moves_the_best_class_logit_to_a_finite_place() -> None:
    matches = assign(EXP, SHAPES, random_targets(1))
    sure = [torch.zeros_like(head) for head in random_heads(EXP, 1)]
    for head, match in zip(sure, matches.heads):
        head[..., 5:] = -math.log(19)  # 5 %
        head[match.image, match.anchor, match.row, match.col, 5 + match.label] = math.log(19)
        head.requires_grad_()
    DetectionLoss(EXP, LossConfig(label_smoothing=0.1))(sure, matches)["cls"].backward()
    assert all(head.grad is not None and head.grad.abs().max() < 1e-9 for head in sure)


def test_softmax_head_learns_classes_by_cross_entropy() -> None:
    spec = AnchoredSpec(FINE, 8, 3, softmax=True)
    head = random_heads([spec], 1)[0]
    matches = assign([spec], SHAPES[:1], torch.tensor([[0, 1, 20.0, 12.0, 8.0, 10.0]]), ratio_threshold=1.1)
    scores = head[0, 0, 1, 2, 5:].tolist()
    expected = math.log(sum(math.exp(z) for z in scores)) - scores[1]
    assert float(DetectionLoss([spec])([head], matches)["cls"]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "named"), [({"box_loss": "iou"}, "'iou'"), ({"cls": -1.0}, "-1.0"), ({"label_smoothing": 2.0}, "2.0")]
)
def test_options_out_of_range_are_named(options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        LossConfig(**options)
