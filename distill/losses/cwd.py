"""Channel-wise distillation (Shu, Liu, Gao, Yan, Shen: Channel-wise Knowledge Distillation for Dense Prediction,
ICCV 2021: "channel-wise distillation")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.errors import UserError
from distill.losses.maps import paired
from distill.pairs import FeaturePair
from models.spec import Matches, Outputs


def cwd(
    student: Outputs,
    teacher: Outputs,
    matches: Matches,
    *,
    pairs: Sequence[FeaturePair],
    adapter: nn.Module,
    temperature: float = 4.0,
) -> dict[str, Tensor]:
    """Whether each channel is active at the places where the teacher's is.

    A channel c is read as a distribution over the cells i: ``p_c,i = softmax_i(F_c,i / T)``. A picture pays
    ``T^2 / C * sum_c KL(p_c of the teacher || p_c of the student)``; the mean is over pictures and pairs.

    Args:
        student, teacher: with the ``(B, C, H, W)`` features of `pairs`; no gradient reaches the teacher.
        adapter: `adapters.projections_where_needed`.
        temperature: T; higher looks at all cells, lower at the most active ones.

    Returns:
        Scalar ``cwd``, in nats times T^2.
    """
    if temperature <= 0:
        raise UserError(f"the temperature {temperature} of cwd is not above 0", todo="--kd-cwd-temperature 4")
    terms = []
    for (ours, theirs), project in zip(paired(student, teacher, pairs), adapter.children()):
        log_s, log_t = (_log_places(maps, temperature) for maps in (project(ours), theirs))
        divergence = (log_t.exp() * (log_t - log_s)).sum(dim=2)  # (B, C)
        terms.append(temperature**2 * divergence.mean())
    return {"cwd": torch.stack(terms).mean()}


def _log_places(features: Tensor, temperature: float) -> Tensor:
    """``(B, C, H, W)`` to logarithms of distributions over the cells, ``(B, C, H * W)``."""
    return features.flatten(2).div(temperature).log_softmax(dim=2)
