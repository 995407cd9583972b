"""The options of `thinyolo latency`; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import UserError
from common.options import option
from export.formats import RUNTIMES
from export.options import FILES

WHAT, HOW = "what is measured", "how"


@dataclass
class LatencyOptions:
    """Which networks are timed, and how."""

    models: tuple[str, ...] = option(
        (),
        f"{FILES}; the others are compared with the first",
        group=WHAT,
        metavar="MODEL",
        positional=True,
        required=True,
    )
    cfg: str = option("", "the cfg of a .weights file, or its name", group=WHAT, metavar="FILE")
    runtime: str = option(
        "auto",
        f"who runs them, several for a row each: {', '.join(RUNTIMES)}. A .pt is exported in memory for a runtime "
        "other than torch. auto: torch for .pt, onnxruntime for .onnx, openvino for .xml",
        group=WHAT,
        metavar="R,...",
    )
    imgsz: str = option("", "416, or WIDTHxHEIGHT; without: each network's own", group=WHAT, metavar="SIZE")
    threads: int = option(0, "CPU threads; 0: one a core", group=HOW, low=0, high=1024)
    rounds: int = option(50, "runs of each network: more narrow the median", group=HOW, low=1, high=100_000)
    warm_up: int = option(5, "runs before them, not counted", group=HOW, low=0, high=100_000)
    device: str = option("cpu", "of PyTorch: cpu or cuda", group=HOW, metavar="D")
    memory: bool = option(True, "do not measure memory, which starts a process each", group=HOW)
    json: str = option("", "also write the numbers here", group=HOW, metavar="FILE")

    def __post_init__(self) -> None:
        for runtime in self.runtimes:
            if runtime not in ("auto", *RUNTIMES):
                problem = f"--runtime {runtime} is none of auto, {', '.join(RUNTIMES)}"
                raise UserError(problem, todo="--runtime onnxruntime")

    @property
    def runtimes(self) -> list[str]:
        """Those that ``--runtime`` names."""
        return [part.strip() for part in self.runtime.split(",") if part.strip()] or ["auto"]
