"""Mixed precision, whichever way there is: NVIDIA Apex, torch.amp, or none. The trainer sees one face.

Apex is NVIDIA's, built from source; `apex.amp` was removed in 2025 and 25.05 is the last tag that has it. The name
`apex` on PyPI is an unrelated package. Both are recognised from the installed files, without importing them.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from common.cores import bf16_units
from common.errors import UserError
from common.log import log, say_once

INSTALL_APEX = (
    "build the last tag with it: git clone -b 25.05 https://github.com/NVIDIA/apex && "
    "pip install --no-build-isolation ./apex; or use --amp native"
)
# Sub-packages that NVIDIA's apex has with and without amp.
_OF_NVIDIA = ("optimizers", "normalization", "multi_tensor_apply", "contrib", "transformer")


def apex_problem() -> str:
    """Why `apex.amp` cannot be used on this machine; "" if it can."""
    try:
        spec = importlib.util.find_spec("apex")
    except (ValueError, ImportError):
        spec = None
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    if not folders:
        return "no Apex is installed"
    if not any((folder / name).exists() for folder in folders for name in _OF_NVIDIA):
        return f"the package 'apex' in {folders[0]} is an unrelated one from PyPI, not NVIDIA's (pip uninstall apex)"
    if not any((folder / "amp").exists() for folder in folders):
        return f"the Apex in {folders[0]} has no amp: NVIDIA removed it in 2025"
    try:
        amp = importlib.import_module("apex.amp")
    except Exception as error:  # a broken build fails in many ways, and all of them mean the same here
        return f"the Apex in {folders[0]} cannot be imported ({type(error).__name__}: {error})"
    return "" if hasattr(amp, "initialize") else f"the Apex in {folders[0]} has no amp.initialize"


class Precision:
    """How the forward pass is cast and the backward pass scaled.

    Order of calls: `prepare` once, before DDP wraps; per step `autocast` and `backward` for every batch, then
    `unscale`, (clip, hooks), `step`.

    Args:
        mode: "auto", "apex", "native" (torch.amp) or "off". "auto" is Apex where it is installed with amp, else
            torch.amp on a GPU; FP32 on a CPU, where "native" is bf16: faster only with units for it.
        opt_level: of Apex.
        device: where the training runs.

    Raises:
        UserError: Apex was asked for and is absent, without amp, not NVIDIA's, or there is no GPU.
    """

    def __init__(self, mode: str = "auto", opt_level: str = "O1", device: torch.device | str = "cpu"):
        self.device, self.opt_level = torch.device(device), opt_level
        self.kind = self._choose(mode)
        self.dtype: torch.dtype | None = None
        self._scaler: torch.amp.GradScaler | None = None
        self._amp: Any = importlib.import_module("apex.amp") if self.kind == "apex" else None
        if self.kind == "native":
            half = self.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
            self.dtype = torch.float16 if half else torch.bfloat16
            # bf16 has the range of FP32; only fp16 gradients underflow without a scale.
            self._scaler = torch.amp.GradScaler(self.device.type) if half else None

    def _choose(self, mode: str) -> str:
        on_gpu = self.device.type == "cuda"
        if mode == "apex":
            if problem := apex_problem():
                raise UserError(f"--amp apex: {problem}", todo=INSTALL_APEX)
            if not on_gpu:
                raise UserError(
                    f"--amp apex: Apex needs a CUDA device, and this training runs on '{self.device.type}'",
                    todo="--device 0 on a machine with an NVIDIA GPU, or --amp off",
                )
            return "apex"
        if mode == "auto":
            if not on_gpu:
                if self.device.type == "cpu" and bf16_units():
                    say_once(
                        logging.INFO, "this CPU has units for bf16: --amp native trains in about two thirds of the time"
                    )
                return "off"
            problem = apex_problem()
            if problem and "no Apex is installed" not in problem:
                log.warning("torch.amp is used instead of Apex: %s", problem)
            return "native" if problem else "apex"
        if mode == "native" and not on_gpu and not bf16_units():
            log.warning("--amp native on a CPU is bf16, and slower than FP32 on this one: it has no units for bf16")
        return mode

    def __str__(self) -> str:
        if self.kind == "apex":
            return f"Apex {self.opt_level}"
        return "FP32" if self.dtype is None else f"torch.amp {str(self.dtype).removeprefix('torch.')}"

    def prepare(self, network: nn.Module, optimizer: Optimizer) -> None:
        """Let Apex patch what it has to, in place; nothing to do otherwise.

        A teacher stays outside at every level: O0 would cast FP32 to FP32, O1 only looks at a network (it patches
        torch's functions, for the teacher as well), O2 and O3 cast weights and want an optimiser for them.
        """
        if self.kind == "apex":
            self._amp.initialize([network], optimizer, opt_level=self.opt_level, verbosity=0)
            self._suspend()

    def _suspend(self) -> None:
        """O1 patches torch's functions for the whole process: validation, averages, a cut and the next stage would
        compute in half precision as well, and what mixes FP64 and FP32 is refused. So the casts rest but for a forward
        pass."""
        if self.opt_level == "O1":
            self._resting = self._amp.disable_casts()
            self._resting.__enter__()

    @contextmanager
    def _apex_casts(self) -> Iterator[None]:
        self._resting.__exit__(None, None, None)
        try:
            yield
        finally:
            self._suspend()

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.kind == "apex" and self.opt_level == "O1":
            return self._apex_casts()
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def backward(self, loss: Tensor, optimizer: Optimizer, *, last: bool = True) -> None:
        """Accumulate the gradients of `loss`; `last` marks the step's last batch."""
        if self.kind == "apex":
            # Unscaling is an in-place pass over all gradients: it must happen once, after the last batch.
            with self._amp.scale_loss(loss, optimizer, delay_unscale=not last) as scaled:
                scaled.backward()
        elif self._scaler is not None:
            self._scaler.scale(loss).backward()
        else:
            loss.backward()

    @property
    def scales(self) -> bool:
        """Whether a step may be skipped because scaled gradients overflowed, which is no error."""
        return self._scaler is not None or (self.kind == "apex" and self.opt_level != "O0")

    def unscale(self, optimizer: Optimizer) -> None:
        """From here on gradients have their true size."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step; False if the step was skipped because a scaled gradient overflowed."""
        if self.kind == "apex":
            # After an overflow Apex swaps `optimizer.step` for one that skips, and says so only in this private mark.
            skipped = bool(getattr(getattr(optimizer, "_amp_stash", None), "already_patched", False))
            optimizer.step()
            self._suspend()  # Apex's wrapper of `step` lets the casts rest, and then wakes them
            return not skipped
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state_dict(self) -> dict[str, Any]:
        """The loss scale and its history."""
        if self.kind == "apex":
            return {"kind": "apex", "state": dict(self._amp.state_dict())}
        return {"kind": self.kind, "state": self._scaler.state_dict() if self._scaler is not None else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The counterpart of `state_dict`; a scale of another kind of precision is not taken over."""
        if state.get("kind") != self.kind:
            log.warning("the run was trained with --amp %s before, now with %s", state.get("kind"), self.kind)
        elif self.kind == "apex":
            self._amp.load_state_dict(state["state"])
        elif self._scaler is not None and state["state"]:
            self._scaler.load_state_dict(state["state"])
