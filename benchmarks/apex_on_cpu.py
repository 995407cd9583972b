"""NVIDIA's real Apex through our trainings, on a machine without a GPU.

    git clone https://github.com/NVIDIA/apex                     # its history has the tag 25.05, the last one with amp
    python benchmarks/apex_on_cpu.py --apex apex --out runs/apex

Apex asks for CUDA tensors by name. The copy made here asks for CPU tensors in their place, and is otherwise the tag as
it is: its patched functions, casts, loss scale, skipped steps and optimiser wrapper are the real ones, and its fp16 is
PyTorch's on the CPU. What this cannot show is what a GPU's kernels, its speed and its memory do.

For ``--amp off`` and every Apex level: `train_prune.py` with all stages in one process, then a distillation with two
batches a step, once through and once stopped in its second epoch and resumed. Printed: the last losses, mAP, loss
scale, skipped steps, and whether the resumed training ended in the same bits.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError, run_cleanly
from engine.checkpoints import read_last

TAG = "25.05"
LINE = ["--hyp", "demo", "--epochs", "2", "--sparse-epochs", "2", "--finetune-epochs", "1", "--no-compare-plain"]
GRID = ["--hyp", "demo_kd", "--epochs", "2", "--kd", "scaled,bounded", "--batch-size", "16", "--nominal-batch", "32"]
SMALL = ["--imgsz", "64", "--wandb", "off", "--threads", "1"]
STOP = 45  # in the second of two epochs of 32 steps
STOPPED = 130


def cpu_copy(clone: Path, folder: Path) -> Path:
    """Apex's package of the tag under `folder`, asking for CPU tensors; returns what belongs on the path."""
    site = folder / "site"
    if not (site / "apex").exists():
        packed = subprocess.run(["git", "-C", str(clone), "archive", TAG, "apex"], capture_output=True, check=False)
        if packed.returncode:
            raise UserError(
                f"--apex {clone}: git archive {TAG} failed: {packed.stderr.decode(errors='replace').strip()}",
                todo="git clone https://github.com/NVIDIA/apex, with its history",
            )
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(site, filter="data")
        for path in (site / "apex").rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            cpu = re.sub(r"torch\.cuda\.(\w+Tensor)", r"torch.\1", text)
            path.write_text(re.sub(r"\.is_cuda\b", ".is_cpu", cpu), encoding="utf-8")
    return site


def child(site: Path, level: str, stop: int, command: list[str]) -> int:
    """A command of ours, in this process, under the copy of Apex; interrupted in optimiser step `stop`."""
    sys.path.insert(0, str(site))
    from engine import precision  # what is patched here is only that Apex is refused on a CPU
    from thinyolo.training import DISTILL, PRUNE

    original, steps = precision.Precision.step, {"all": 0, "skipped": 0}

    def counted(self: Any, optimizer: Any) -> bool:
        steps["all"] += 1
        if steps["all"] == stop:
            raise KeyboardInterrupt
        taken = original(self, optimizer)
        steps["skipped"] += not taken
        return taken

    precision.Precision.step = counted  # type: ignore[method-assign]
    if level != "off":
        precision.Precision._choose = lambda self, mode: "apex"  # type: ignore[method-assign]
    name, *options = command
    status = {"train_prune": PRUNE, "finetune_kd": DISTILL}[name].main(options)
    print(f"steps {steps['all']}, skipped {steps['skipped']}")
    return status


def told(run_dir: Path) -> str:
    """What a training came to."""
    training = read_last(run_dir)
    assert training is not None
    row = training["progress"]["history"][-1]
    scale = training["precision"]["state"]
    shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name in ("train/total", "val/mAP50-95"))
    return f"{shown}; loss scale {scale}" if scale else shown


def same_weights(one: Path, other: Path) -> bool:
    """Whether two trainings ended in the same bits."""
    first, second = (read_last(folder) for folder in (one, other))
    assert first is not None
    assert second is not None
    return all(torch.equal(value, second["ema"][name]) for name, value in first["ema"].items())


def run(arguments: argparse.Namespace) -> None:
    """All trainings, level after level."""
    cpu_copy(arguments.apex, arguments.out)
    lines = []
    for level in arguments.levels:
        amp = ["--amp", "off"] if level == "off" else ["--amp", "auto", "--opt-level", level]
        common = [*SMALL, *amp, "--project", str(arguments.out)]

        def go(stop: int, *options: str, level: str = level) -> str:
            ours = [sys.executable, __file__, "--apex", str(arguments.apex), "--out", str(arguments.out)]
            command = [*ours, "--child", level, str(stop), *options]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            print(done.stdout, end="")
            if done.returncode != (STOPPED if stop else 0):
                raise UserError(f"{level}: {options[0]} ended with status {done.returncode}; why stands above")
            return re.findall("steps .*", done.stdout)[-1]

        steps = go(0, "train_prune", *LINE, *common, "--name", f"{level}-line")
        line = arguments.out / "train_prune" / f"{level}-line"
        for stage in ("baseline", "sparse", "student"):
            lines.append(f"{level:4} {stage:8} {told(line / stage)}")
        lines.append(f"{level:4} all      {steps}")
        networks = ["--weights", str(line / "pruned/pruned.pt"), "--t_weights", str(line / "baseline/weights/best.pt")]
        kd, done = ["finetune_kd", *GRID, *networks, *common], arguments.out / "finetune_kd"
        steps = go(0, *kd, "--name", f"{level}-kd")
        lines.append(f"{level:4} kd       {told(done / f'{level}-kd')}; {steps}")
        go(STOP, *kd, "--name", f"{level}-resumed")
        go(0, "finetune_kd", "--resume", str(done / f"{level}-resumed"))
        same = same_weights(done / f"{level}-kd", done / f"{level}-resumed")
        lines.append(f"{level:4} resumed  {'the same bits' if same else 'OTHER BITS'}")
    print("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--apex", type=Path, required=True, help="a clone of NVIDIA/apex")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--levels", nargs="+", default=["off", "O0", "O1"], help="off, or Apex's (default: off O0 O1)")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        level, stop, *command = arguments.child
        return child(cpu_copy(arguments.apex, arguments.out), level, int(stop), command)
    torch.set_num_threads(1)
    run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
