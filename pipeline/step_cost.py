"""What a distillation step costs, measured so that the modes can be compared: interleaved rounds, medians.

Every round times one step of each mode, one plain step and one forward pass of the teacher, all on the same pictures,
so a machine that slows down for a while slows all of them.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from data import Dataset, DataSpec
from data.batch import Batch
from data.loader import collate
from distill import KDConfig, KDObjective, Teacher
from engine.config import TrainConfig
from engine.optim import freeze, set_train_mode
from engine.precision import Precision
from engine.progress import memory_used
from engine.step import training_step
from models.network import Network
from models.resize import LETTERBOX

PLAIN, TEACHER = "plain step", "teacher forward"
OBJECTS = 4  # a picture


@dataclass(frozen=True)
class StepCost:
    """One mode's step.

    Attributes:
        milliseconds: the median step: forward, backward and optimiser, on the whole batch.
        to_plain: the median over rounds of its time by the plain step's in the same round.
        to_parts: the same by teacher forward + plain step: 1 is a KD term that costs nothing itself.
        peak_gb: most memory held so far when the mode had its first step (GPU memory on a GPU, else of the process).
    """

    milliseconds: float
    to_plain: float
    to_parts: float
    peak_gb: float


def measure_steps(
    student: Network,
    teacher: Teacher,
    variants: Mapping[str, KDConfig],
    batch: Batch,
    *,
    rounds: int = 9,
    config: TrainConfig | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, StepCost]:
    """The cost of a step of every variant, and of `PLAIN` and `TEACHER` in the same rounds.

    Args:
        student: is copied.
        teacher: made for `student`.
        variants: name -> what the student takes from the teacher; measured where its terms are on (`kd_off` aside).
        batch: the pictures of a step. What some modes cost depends on how many objects the teacher sees.
        rounds: measured after one that is not.
        config: of the training: its loss, mixed precision and frozen layers; without, plain FP32 steps.
        device: where both networks are to run.
    """
    device, config = torch.device(device), config or TrainConfig(amp="off")
    network = copy.deepcopy(student).to(device).to(memory_format=torch.channels_last)
    freeze(network, config.frozen_layers(len(network.layers)))
    step = functools.partial(_stepper, config=config, precision=Precision(config.amp, config.opt_level, device))
    teacher.network.to(device)
    pictures = batch.prepared(device)
    jobs: dict[str, Callable[[], object]] = {
        PLAIN: step(KDObjective(network, None, config.loss), pictures),
        TEACHER: lambda: _ask(teacher, pictures),
    }
    for name, kd in variants.items():
        objective = KDObjective(network, teacher, config.loss, replace(kd, kd_off=0.0)).to(device)
        jobs[name] = step(objective, pictures)
    peaks, times = {}, {name: np.zeros(rounds) for name in jobs}
    for name, job in jobs.items():  # the first call of each allocates and chooses kernels
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        job()
        peaks[name] = memory_used(device)
    names = list(jobs)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name][number] = _milliseconds(jobs[name], device)
    parts = times[PLAIN] + times[TEACHER]
    return {
        name: StepCost(
            float(np.median(taken)),
            float(np.median(taken / times[PLAIN])),
            float(np.median(taken / parts)),
            peaks[name],
        )
        for name, taken in times.items()
    }


def first_batch(spec: DataSpec, size: tuple[int, int], count: int, resize: str = LETTERBOX) -> Batch:
    """The first `count` pictures of the val split at `size` (H, W), or all if there are fewer."""
    dataset = Dataset(spec, "val", size, resize=resize)
    return collate([dataset[number] for number in range(min(count, len(dataset)))])


def random_batch(network: Network, size: tuple[int, int], batch: int) -> Batch:
    """`batch` noisy pictures of `size` (H, W) with `OBJECTS` objects each; the same every time."""
    height, width = size
    rng = np.random.default_rng(0)
    count = batch * OBJECTS
    image = np.repeat(np.arange(batch), OBJECTS)
    label = rng.integers(0, network.classes, count)
    centre, share = rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))
    boxes = np.concatenate([centre, share], axis=1) * [width, height, width, height]
    targets = torch.tensor(np.column_stack([image, label, boxes]), dtype=torch.float32)
    images = torch.from_numpy(rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8))
    return Batch(images, targets, torch.arange(batch))


@torch.no_grad()
def _ask(teacher: Teacher, batch: Batch) -> object:
    """The teacher's own forward pass, as an evaluation would run it; what a step runs is faster where that can be."""
    return teacher.network(batch.images)


def _stepper(objective: KDObjective, batch: Batch, config: TrainConfig, precision: Precision) -> Callable[[], object]:
    """A training step as the trainer takes it, at learning rate 0: the weights stay, the time is the same.

    Gradients are not scaled, as fp16's are: two passes over them, in every mode alike.
    """
    frozen = config.frozen_layers(len(objective.network.layers))
    parameters = [each for each in objective.parameters() if each.requires_grad]
    fused = True if parameters[0].device.type == "cpu" else None
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True, fused=fused)

    def step() -> None:
        set_train_mode(objective, objective.network, frozen, config.freeze_bn)
        for terms, _ in training_step(objective, [batch], 0.5, autocast=precision.autocast):
            terms.total().backward()
        nn.utils.clip_grad_norm_([each for each in parameters if each.grad is not None], 10.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _milliseconds(job: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3
