"""Several processes, one training: `torchrun --nproc_per_node=N train_prune.py ...`.

Everything here is the identity in a single process. NCCL on GPUs, gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import UserError
from common.log import log

# Rank 0 validates while the others wait at the next collective; that may take longer than torch's 10 minutes.
PATIENCE = timedelta(hours=3)


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files, logs and validates."""
    return rank() == 0


def start(device: str = "") -> torch.device:
    """Join the processes torchrun started, if it did, and pick this process's device.

    Args:
        device: "", "cpu", "cuda", "cuda:1" or "1". Under torchrun each local process gets the GPU of its number.

    Raises:
        UserError: there is no such device, or several were named for one process.
    """
    chosen = _pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # NCCL and Apex put what they need on the current device
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
        if not is_main():
            log.setLevel("ERROR")
    return chosen


def finish() -> None:
    """Leave the process group; torchrun complains otherwise."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _pick_device(device: str) -> torch.device:
    name = device.strip().lower()
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (not name and not gpus):
        return torch.device("cpu")
    if name == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    number = name.removeprefix("cuda").removeprefix(":")
    if "," in number:
        raise UserError(
            f"--device {device} names several GPUs for one process",
            todo=f"CUDA_VISIBLE_DEVICES={number} torchrun --nproc_per_node={number.count(',') + 1} SCRIPT ...",
        )
    if number and not number.isdigit():
        raise UserError(f"--device {device!r} is no device", todo="cpu, cuda, or the number of a GPU")
    if not gpus:
        raise UserError(
            f"--device {device}: this torch sees no GPU", todo="--device cpu, or install a torch built for CUDA"
        )
    index = int(os.environ.get("LOCAL_RANK", "0")) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else int(number or 0)
    if index >= gpus:
        raise UserError(f"GPU {index} was asked for, there are {gpus}", todo="a smaller number, or fewer processes")
    return torch.device("cuda", index)


_alone = False


@contextmanager
def alone() -> Iterator[None]:
    """What runs inside averages over nobody: for a rank that tries something the others may not get to."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of a tensor over the processes; no gradient flows through it."""
    if world() == 1 or _alone:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()


def smallest(number: int) -> int:
    """The smallest of the processes' numbers, in every process."""
    if world() == 1:
        return number
    every = [number] * world()
    dist.all_gather_object(every, number)
    return min(every)


def broadcast(value: Any) -> Any:
    """Rank 0's picklable `value`, in every process."""
    if world() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def wrap(objective: nn.Module, device: torch.device) -> nn.Module:
    """The objective as DDP sees it: parameters start equal, gradients are averaged in `backward`; one process needs
    none."""
    if world() == 1:
        return objective
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(objective, device_ids=ids)


def sync_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with SyncBatchNorm where there are several GPUs; before the optimiser is made.

    It has no CPU form: there every rank normalises with its own share of the batch, and rank 0's running statistics
    count.
    """
    if world() > 1 and device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


@contextmanager
def gradients_stay_local(wrapped: nn.Module, local: bool) -> Iterator[None]:
    """While `local`, DDP does not average: only the last batch of an accumulated step pays for communication."""
    if local and isinstance(wrapped, DistributedDataParallel):
        with wrapped.no_sync():
            yield
    else:
        yield
