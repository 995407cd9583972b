"""BatchNorm statistics measured anew: after a cut, activations are no longer what the running statistics remember.

No weight changes and no gradient flows, so a few hundred pictures are enough; the accuracy that a cut takes by shifted
statistics comes back before any fine-tuning. Source: "precise BatchNorm" of Wu & Johnson, *Rethinking "Batch" in
BatchNorm* (arXiv:2105.07576); as a step of pruning: Li et al., *EagleEye* (ECCV 2020).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from data.batch import Batch


@torch.no_grad()
def reestimate(net: nn.Module, batches: Iterable[Tensor | Batch]) -> int:
    """Set every BatchNorm's running mean and variance to the plain average over `batches`, in place.

    Weights, gammas, betas and every module's train or eval mode are afterwards as before; layers other than BatchNorm
    (dropout) run in eval mode. The pictures should be training pictures without augmentation, and no batch much
    smaller than the others: each counts the same. 16 batches of 16 are plenty.

    Args:
        net: any network; it stays where it is.
        batches: ``(B, C, H, W)`` pictures in 0..1, or `data.Batch`es as a loader gives them.

    Returns:
        The number of pictures used.

    Raises:
        UserError: no batch, a picture that makes a statistic infinite or undefined, or a batch with a single value per
            channel. The statistics are then as before.
    """
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    modes = [(module, module.training) for module in net.modules()]
    momenta = [norm.momentum for norm in norms]
    before = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    done = False
    try:
        net.eval()
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the cumulative average
        pictures = _run(net, batches)
        _check(net, norms)
        done = True
    finally:
        for norm, momentum, old in zip(norms, momenta, before):
            norm.momentum = momentum
            for name, buffer in norm.named_buffers():
                if not done or name == "num_batches_tracked":
                    buffer.copy_(old[name])
        for module, mode in modes:
            module.training = mode
    return pictures


@torch.no_grad()
def restate(net: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set BatchNorms' statistics to those of the pictures, and gammas and betas so that outputs stay, in place.

    A fine-tune, in which the statistics are each batch's own, then starts from the same network.

    Args:
        net: in eval mode.
        batches: ``(B, C, H, W)``, on the network's device and in its number format.
    """
    sums: dict[_BatchNorm, list[Tensor]] = {}

    def note(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        count = inputs[0].numel() / len(mean)
        mean, square = mean.double() * count, (var.double() + mean.double().square()) * count
        known = sums.setdefault(norm, [torch.zeros_like(mean), torch.zeros_like(mean), torch.zeros(())])
        sums[norm] = [one + two for one, two in zip(known, (mean, square, torch.tensor(count)))]

    norms = [
        norm for norm in net.modules() if isinstance(norm, _BatchNorm) and norm.affine and norm.track_running_stats
    ]
    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        for images in batches:
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    for norm, (total, squares, count) in sums.items():
        mean = total / count
        var = (squares / count - mean.square()).clamp(min=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        norm.weight.copy_(scale * (var + norm.eps).sqrt())
        norm.bias.copy_(norm.bias.double() + scale * (mean - norm.running_mean.double()))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)


def _run(net: nn.Module, batches: Iterable[Tensor | Batch]) -> int:
    first = next(net.parameters())
    pictures = 0
    for batch in batches:
        images = batch.prepared(first.device).images if isinstance(batch, Batch) else batch
        try:
            net(images.to(first.device, first.dtype))
        except ValueError as error:
            raise UserError(
                f"BatchNorm statistics cannot be taken from a batch of {len(images)}: {error}",
                todo="give batches of at least 2 pictures",
            ) from error
        pictures += len(images)
    if not pictures:
        raise UserError("there is not one picture to take BatchNorm statistics from", todo="give at least one batch")
    return pictures


def _check(net: nn.Module, norms: list[_BatchNorm]) -> None:
    names = {module: name for name, module in net.named_modules()}
    for norm in norms:
        for part in (norm.running_mean, norm.running_var):
            if part is not None and not bool(torch.isfinite(part).all()):
                raise UserError(
                    f"the statistics of '{names[norm]}' are not finite on these pictures",
                    todo="check the pictures, and that the network's outputs are finite",
                )
