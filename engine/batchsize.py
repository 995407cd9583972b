"""Pictures a step: `--nominal-batch 0` looks at the data, and `--batch-size -1` takes the largest batch that fits."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from common.log import log
from data.batch import Batch
from data.cache import free_memory
from engine.config import TrainConfig
from engine.seams import Objective
from engine.step import training_step

SHARE_OF_GPU = 0.75
# On a CPU a larger batch saves no time; memory for activations is what it costs.
CPU_CAP, CPU_SHARE = 16, 0.25
# Activations, their gradients and work space: bytes per input pixel of a YOLO, generously.
CPU_BYTES_PER_PIXEL = 2000
UNKNOWN_RAM = 4e9  # bytes, where the system does not say

USUAL_NOMINAL, STEPS_AN_EPOCH = 64, 25
LEAST_NOMINAL = 16  # where memory decides the batch


def with_nominal_batch(config: TrainConfig, pictures: int) -> TrainConfig:
    """`config` with the pictures an optimiser step that ``--nominal-batch 0`` means: a function of the data's size.

    The usual 64 where the `pictures` of the training split make 25 steps or more of it; else half, a quarter, ..., but
    no less than ``--batch-size`` (-1 counts as 16). Weights move by steps and not by pictures: in 64s, 200 pictures
    are four steps an epoch. The learning rate stays that of a step.
    """
    least = config.batch_size if config.batch_size > 0 else LEAST_NOMINAL
    nominal = USUAL_NOMINAL
    while nominal > least and pictures < STEPS_AN_EPOCH * nominal:
        nominal //= 2
    return replace(config, nominal_batch=max(nominal, least))


def say_steps(config: TrainConfig, pictures: int, steps: int) -> None:
    """What `with_nominal_batch` has chosen, and how many steps that makes; `steps` are those of an epoch."""
    log.info(
        "--nominal-batch by the data: %d of the %d training pictures a step, %d steps in all%s",
        config.nominal_batch,
        pictures,
        config.epochs * steps,
        "; a smaller --batch-size, or more --epochs, makes more" if steps < STEPS_AN_EPOCH else "",
    )


def fitting_batch(objective: Objective, config: TrainConfig, device: torch.device, beside: float = 0.0) -> int:
    """Pictures per forward pass over all processes that memory holds, at most `--nominal-batch`.

    Args:
        beside: so many pictures without labels go beside each, and are not counted.
    """
    from engine.distributed import alone, smallest, world

    height, width = (int(side * (1 + config.multi_scale)) for side in config.input_size)
    most = config.nominal_batch or USUAL_NOMINAL
    if device.type == "cuda":
        with alone():  # a rank with less free memory stops earlier than the others
            each = _probe_gpu(objective, (height, width), device, most, beside)
    else:
        free = free_memory() or UNKNOWN_RAM
        each = int(min(CPU_CAP, max(1, CPU_SHARE * free / (CPU_BYTES_PER_PIXEL * height * width * (1 + beside)))))
        log.info("--batch-size -1: %d, for %.1f GB of free RAM at %dx%d", each, free / 1e9, width, height)
    return min(smallest(each) * world(), max(most, world()))


def _probe_gpu(
    objective: Objective, size: tuple[int, int], device: torch.device, most: int, beside: float = 0.0
) -> int:
    """Double the batch until a training step would take more than its share of the GPU's memory."""
    total = torch.cuda.get_device_properties(device).total_memory
    step = objective.network.max_stride
    height, width = (max(step, side // step * step) for side in size)
    saved = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    used: dict[int, int] = {}
    batch = 1
    try:
        while batch <= most:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            more = math.ceil(batch * beside)
            images = torch.rand(batch + more, 3, height, width, device=device)
            targets = torch.tensor([[0, 0, width / 2, height / 2, width / 4, height / 4]], device=device)
            probe = Batch(images, targets, torch.arange(batch + more), unlabelled=more)
            for terms, _ in training_step(objective, [probe], 0.0):
                terms.total().backward()
            objective.zero_grad(set_to_none=True)
            used[batch] = torch.cuda.max_memory_reserved(device)
            if used[batch] * 2 > SHARE_OF_GPU * total:
                break
            batch *= 2
    except torch.cuda.OutOfMemoryError:
        objective.zero_grad(set_to_none=True)
    finally:
        objective.load_state_dict(saved)  # the probe's pictures have moved BatchNorm's statistics
        torch.cuda.empty_cache()
    fitting = [size for size, memory in used.items() if memory <= SHARE_OF_GPU * total]
    best = max(fitting, default=1)
    log.info("--batch-size -1: %d pictures take %.1f of %.1f GB", best, used.get(best, 0) / 1e9, total / 1e9)
    return best
