"""Optimiser, learning-rate schedule and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from common.errors import UserError
from engine.config import TrainConfig
from engine.seams import Objective
from models.network import Network


def make_optimizer(objective: Objective, config: TrainConfig) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW, over all of the objective's trainable parameters.

    Gammas, betas and biases (everything with fewer than two dimensions) carry no weight decay: it would shrink gammas
    towards 0 for no reason that sparsity training has. What is trained beside the network (adapters) is in groups of
    its own, marked "beside".
    """
    trainable = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    own = {id(parameter) for parameter in objective.network.parameters()}
    if not trainable:
        raise UserError("there is nothing to train: every layer is frozen", todo="freeze fewer layers with --freeze")
    groups = [
        {
            "params": [each for each in trainable if (each.ndim > 1) is decays and (id(each) not in own) is beside],
            "weight_decay": config.weight_decay if decays else 0.0,
            "beside": beside,
        }
        for beside in (False, True)
        for decays in (True, False)
    ]
    groups = [group for group in groups if group["params"]]
    # On a CPU one kernel a tensor instead of a dozen: for a small network the optimiser is 20 times faster. On a GPU
    # torch's own choice stays: its fused SGD moves the momentum in a step that a loss scale skips.
    fused = True if all(each.device.type == "cpu" for each in trainable) else None
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr0, betas=(config.momentum, 0.999), fused=fused)
    return SGD(groups, lr=config.lr0, momentum=config.momentum, nesterov=config.momentum > 0, fused=fused)


def make_schedule(optimizer: Optimizer, config: TrainConfig, steps: int, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then a cosine from `lr0` to `lr0 * lrf` over `steps` optimiser steps.

    The learning rate is a function of the step's number alone (``step_update(step)``), so nothing has to be resumed.
    """
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps // 2)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(steps, 2),
        lr_min=config.lr0 * config.lrf,
        warmup_t=warmup,
        warmup_lr_init=config.lr0 / (warmup + 1),  # the ramp 1, 2, 3 ... in units of this: no step at rate 0
        t_in_epochs=False,
    )


def make_ema(network: Network, config: TrainConfig) -> ModelEmaV3:
    """Averaged weights. The decay rises as 1 - (1 + step)^(-2/3), so that short trainings are averaged too."""
    return _Ema(network, decay=config.ema_decay, use_warmup=True)


class _Ema(ModelEmaV3):
    """timm's, which finds its pairs of tensors once: two state dicts a step take as long as a small network's update.

    They are found at the first update, when whatever moves or converts a network's tensors has done so. Where a state
    dict holds copies, as Apex makes them under O2, there is nothing to keep.
    """

    _pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        if self._pairs is None:
            theirs, again = (list(model.state_dict().values()) for _ in range(2))
            if any(one.data_ptr() != other.data_ptr() for one, other in zip(theirs, again, strict=True)):
                super().apply_update_(model, decay)
                return
            pairs = list(zip(self.module.state_dict().values(), theirs, strict=True))
            averaged = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
            counted = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]
            self._pairs = [mean for mean, _ in averaged], [value for _, value in averaged], counted
        means, values, counted = self._pairs
        get_ema_multi_avg_fn(decay)(means, values, None)
        for mean, value in counted:
            mean.copy_(value)


def freeze(network: Network, layers: Iterable[int]) -> None:
    """Exclude these layers from training."""
    for number in layers:
        network.layers[number].requires_grad_(False)


def set_train_mode(objective: nn.Module, network: Network, frozen: Iterable[int], freeze_bn: bool) -> None:
    """Training mode, except for BatchNorms whose statistics have to stay."""
    objective.train()
    for number in frozen:
        network.layers[number].eval()
    if freeze_bn:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def clip_gradients(optimizer: Optimizer, clip: float) -> float:
    """Scale the network's gradients down to the global L2 norm `clip` where it is smaller (0: never).

    Those of adapters are clipped by themselves: they are no part of the network, and a mode with large ones would
    otherwise shorten the network's steps.

    Returns:
        The norm of all of them before; not finite where any gradient is not.
    """
    norms = []
    for beside in (False, True):
        # Under O2 and O3 Apex has put its FP32 master copies into the groups.
        parameters = [each for group in optimizer.param_groups if group["beside"] is beside for each in group["params"]]
        with_gradient = [each for each in parameters if each.grad is not None]
        norms.append(float(nn.utils.clip_grad_norm_(with_gradient, clip or float("inf"))))
    return math.hypot(*norms)
