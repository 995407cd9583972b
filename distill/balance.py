"""``--kd-limit`` and ``--kd-balance``: KD weights that keep each mode's gradient below, or at, a share of the detection
loss's.

A weight says how much a term's *value* counts; what moves the student is its gradient, and the two are far apart
between modes, data sets and phases of a training. A student that was cut down to nothing is far from its teacher's
boxes, and the squared distance of those then pulls up to 3.6 times as hard as all that the labels say. As in GradNorm
(Chen et al., ICML 2018) gradient norms are compared; unlike there nothing is learnt: the share is the user's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

EVERY = 100  # optimiser steps between measurements: each costs a backward pass a mode, and one for the detection loss
MEMORY = 0.7  # of the running mean of ln(scale) over measurements
LARGEST = 100.0  # a scale stays within this factor of 1: a vanishing gradient is not blown up without end
# fp16 gradients below 6e-8 are 0; the norms are of losses this much larger, and divided again.
_LIFT = 1024.0


class Balance(nn.Module):
    """A factor a mode, ``scale``, measured every `EVERY` optimiser steps.

    With g the gradient with respect to the student's trainable parameters of a mode's weighted terms at their default
    weight, and g_det that of the detection loss, scale = share |g_det| / |g|, smoothed over measurements; as a limit,
    no more than what brings a mode that pulls harder back to its share.

    Args:
        modes: their names.
        share: the wanted |g| / |g_det| of every mode.
        mean_over_ranks: so that every process of a distributed run finds the same.
        limit: `share` is the most that a mode's gradient may be at whatever weight it has.

    Attributes:
        due: whether the next batch is to be measured.
    """

    def __init__(
        self, modes: Sequence[str], share: float, mean_over_ranks: Callable[[Tensor], Tensor], limit: bool = False
    ):
        super().__init__()
        self.share, self.mean_over_ranks, self.limit = share, mean_over_ranks, limit
        self.steps = 0
        self._logs: dict[str, float] = {}
        self.modes = tuple(modes)
        self.due = False

    def begin_step(self) -> None:
        """An optimiser step begins; its first batch is to be measured where it is time."""
        self.due = self.steps % EVERY == 0
        self.steps += 1

    def scale(self, mode: str, weight: float = 1.0) -> float:
        """What the mode's weight is multiplied by, `weight` being how many times its default it is."""
        if mode not in self._logs or weight == 0:
            return 1.0
        return math.exp(min(0.0, self._logs[mode] - math.log(weight)) if self.limit else self._logs[mode])

    def measure(self, detection: Tensor, modes: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> None:
        """Update the scales; nothing is due any more in this step.

        Args:
            detection: the weighted detection loss.
            modes: name -> the sum of the mode's terms, at default weights.
            parameters: the student's, trainable.
        """
        self.due = False
        losses = {"": detection, **modes}
        norms = torch.stack([gradient_norm(loss, parameters) for loss in losses.values()])
        found = dict(zip(losses, self.mean_over_ranks(norms).tolist()))
        for mode in modes:
            if not (math.isfinite(found[mode]) and math.isfinite(found[""])) or min(found[mode], found[""]) <= 0:
                continue  # nothing to compare: a gate that is shut everywhere in this batch
            wanted = math.log(self.share * found[""] / found[mode])
            wanted = min(max(wanted, -math.log(LARGEST)), math.log(LARGEST))
            before = self._logs.get(mode, wanted)
            self._logs[mode] = MEMORY * before + (1 - MEMORY) * wanted

    # Plain numbers while it runs, so that no device has to be asked for them; tensors in a checkpoint.
    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        logs = [self._logs.get(mode, math.nan) for mode in self.modes]
        destination[f"{prefix}state"] = torch.tensor([float(self.steps), *logs], dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *_: Any) -> None:
        if (state := state_dict.get(f"{prefix}state")) is not None:
            steps, *logs = state.tolist()
            self.steps = int(steps)
            self._logs = {mode: value for mode, value in zip(self.modes, logs) if not math.isnan(value)}


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """The L2 norm of the gradient; 0 where nothing depends on the parameters."""
    if not loss.requires_grad:
        return loss.new_zeros(())
    gradients = torch.autograd.grad(loss * _LIFT, parameters, retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() / _LIFT if squares else loss.new_zeros(())
