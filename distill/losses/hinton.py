"""Softened class and objectness targets (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from common.errors import UserError
from distill.losses.cells import cell_weights, paired_heads
from models.heads import HeadReader
from models.spec import Matches, Outputs


def hinton(
    student: Outputs, teacher: Outputs, matches: Matches, *, temperature: float = 1.0, classes: str = "auto"
) -> dict[str, Tensor]:
    """How far the student's scores are from the teacher's, both softened by the temperature T.

    YOLO heads are trained with sigmoids, so every score is a distribution of its own: with z_s and z_t the logits and
    p = sigma(z_t / T), a cell pays ``T^2 * [BCE(z_s / T, p) - H(p)]``, the binary KL divergence, for its objectness and
    summed over its classes. T^2 keeps the gradient's size independent of T (2015 paper, section 2). The paper's own
    softmax form compares classes only among each other: it is blind to a shift of all logits.

    Cells count with weight 1 where an object is matched and with the teacher's certainty (its objectness) elsewhere,
    and the sums are divided by the sum of these weights: neither background, nor batch size, nor picture size changes
    the terms' size.
    The sum is that of this batch, averaged over ranks: where a step accumulates several batches, each is a mean of its
    own. That of the whole step would need the teacher's answers to pictures that are still to come.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, K)``; no gradient reaches the teacher.
        temperature: T.
        classes: "binary"; "softmax"; or "auto": softmax for heads that decode so (`HeadReader.softmax`), else binary.

    Returns:
        Scalars ``hinton_obj``, where the heads have an objectness, and ``hinton_cls``.

    Raises:
        UserError: the softmax form with a single class, where it is always 0; a temperature that is not above 0.
    """
    check_hinton(student.specs, temperature=temperature, classes=classes)
    objectness, scores, weights = [], [], []
    for spec, their_spec, ours, theirs, match in paired_heads(student, teacher, matches):
        weight = cell_weights(theirs, their_spec, match)
        divergence = softmax_divergence if _is_softmax(spec, classes) else binary_divergence
        seen, shown = spec.objectness_logits(ours), their_spec.objectness_logits(theirs)
        if seen is not None and shown is not None:
            objectness.append((weight * binary_divergence(seen, shown, temperature)).sum())
        classes_apart = divergence(spec.class_logits(ours), their_spec.class_logits(theirs), temperature)
        scores.append((weight * classes_apart).sum())
        weights.append(weight.sum())
    total = matches.normaliser(torch.stack(weights).sum())
    terms = {"hinton_obj": objectness, "hinton_cls": scores}
    return {name: torch.stack(each).sum() / total for name, each in terms.items() if each}


def check_hinton(specs: Sequence[HeadReader], *, temperature: float, classes: str) -> None:
    """Refuse options of `hinton` that make no sense for heads of these `specs`, as its Raises: says."""
    if temperature <= 0:
        raise UserError(f"the KD temperature {temperature} is not above 0", todo="--kd-temperature 1")
    if any(_is_softmax(spec, classes) and spec.classes == 1 for spec in specs):
        raise UserError("the softmax over a single class is always 1", todo="--kd-classes binary")


def _is_softmax(spec: HeadReader, classes: str) -> bool:
    return spec.softmax if classes == "auto" else classes == "softmax"


def binary_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the binary KL divergences of logits ``(..., K)``, summed over K: ``(...)``."""
    ours, theirs = student / temperature, teacher / temperature
    # BCE(z, p) = softplus(z) - p z. Written as a difference, equal logits give 0 exactly.
    divergence = functional.softplus(ours) - functional.softplus(theirs) - theirs.sigmoid() * (ours - theirs)
    return temperature**2 * divergence.sum(dim=-1)


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(teacher || student) of the softmax over logits ``(..., C)``: ``(...)``."""
    ours, theirs = (logits.div(temperature).log_softmax(dim=-1) for logits in (student, teacher))
    return temperature**2 * (theirs.exp() * (theirs - ours)).sum(dim=-1)
