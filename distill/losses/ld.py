"""Localisation distillation (Zheng, Ye, Wang, Ren, Zuo, Hou, Cheng: Localization Distillation for Dense Object
Detection, CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from distill.losses.cells import FAINT, cell_weights, cells_of, paired_heads
from distill.losses.hinton import softmax_divergence
from models.spec import Matches, Outputs


def ld(student: Outputs, teacher: Outputs, matches: Matches, *, temperature: float = 10.0) -> dict[str, Tensor]:
    """How far the student's distributions of the four sides are from the teacher's, both softened by T.

    A box's side is a distribution over distances; its shape says how sure the teacher is and what else it may be, which
    the box alone does not. A place pays ``T^2 KL(teacher || student)``, mean over its four sides. The mean is weighted
    by the teacher's certainty of an object, with 1 where an object is matched and 0 below 0.001: the paper's main and
    valuable regions in one.

    Args:
        student, teacher: raw heads, each ``(B, A, H, W, K)``, whose sides are distributions over the same distances; no
            gradient reaches the teacher.
        temperature: T.

    Returns:
        Scalar ``ld`` in nats.

    Raises:
        UserError: the temperature is not above 0.
    """
    check_temperature(temperature)
    losses, weights = [], []
    for spec, their_spec, ours, theirs, match in paired_heads(student, teacher, matches):
        weight = cell_weights(theirs, their_spec, match)
        places = cells_of(weight >= FAINT)
        mine, taught = spec.sides(places.pick(ours)), their_spec.sides(places.pick(theirs))
        assert mine is not None
        assert taught is not None
        divergence = softmax_divergence(mine, taught, temperature).mean(dim=-1)
        losses.append((places.pick(weight) * divergence).sum())
        weights.append(weight.sum())
    return {"ld": torch.stack(losses).sum() / matches.normaliser(torch.stack(weights).sum())}


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not above 0 (UserError)."""
    if temperature <= 0:
        raise UserError(f"the temperature {temperature} of ld is not above 0", todo="--kd-ld-temperature 10")
