"""Pictures a CPU second of training: our trainer's step, what its network alone takes, and another program's step.

    python benchmarks/throughput.py --cfg yolov5n --imgsz 320 --data shapes
    pip install --no-deps --target rival ultralytics==8.4.190 ultralytics-thop polars polars-runtime-32 psutil
    python benchmarks/throughput.py --cfg yolov8n --imgsz 160 --data hand_gesture/data.yaml --rival rival

Measured are

- *step*: `Trainer._step`, all that is done with a batch: pictures to floats, loss, gradient, its checks and its norm,
  optimiser, averaged weights, what is logged;
- *step and pictures*: the same, and reading, augmenting and collating the batch in the same process (`--cache ram`);
- *network alone*: forward, backward from a mean of the heads' outputs, optimiser: no loss, no clipping, no average;
- with ``--native``: the first two under `--amp native`, which is bf16 on a CPU;
- with ``--rival FOLDER``, a folder with ultralytics and what it needs beside our environment: the first two of its own
  trainer, between its own callbacks, in a process of its own, on the same network (its ``CFG.yaml``) and a copy of the
  same data set (it writes files beside the labels). SGD, FP32, an optimiser step on every batch in both; otherwise each
  with its defaults, which make its pictures otherwise (mosaics in both).

All take turns, in an order that rotates; the table shows medians over rounds. CPU time counts all threads of the
process, and is what other programs on the machine stretch less.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import torch

import data
import engine
import models
from common.errors import UserError, run_cleanly
from data.batch import Batch
from engine.config import TrainConfig, parse_size
from reporting.tables import table

STEP, FED, ALONE = "step", "step and pictures", "network alone"
NATIVE = {STEP: "step, bf16", FED: "step and pictures, bf16"}
RIVAL, RIVAL_FED = "the rival's step", "the rival's step and pictures"
Seconds = dict[str, float]  # what -> CPU seconds of one round

# It runs in the process of the other program: waits for a line, lets so many batches pass, and says what they took.
CHILD = """\
import sys, time
answer, sys.stdout = sys.stdout, sys.stderr
import torch, cv2
from ultralytics import YOLO, __version__
cfg, pictures, size, batch, steps, project = sys.argv[1:]
steps, seen, began, spent, entered = int(steps), 0, 0.0, 0.0, 0.0
def starts(trainer):
    torch.set_num_threads(1), cv2.setNumThreads(0)
    print(__version__, file=answer, flush=True)
def batch_starts(trainer):
    global entered, seen
    entered = time.process_time()
def batch_ends(trainer):
    global seen, began, spent
    spent += time.process_time() - entered
    seen += 1
    if seen % steps == 0:
        print(spent, time.process_time() - began, file=answer, flush=True)
        wait()
def wait():
    global began, spent
    if not sys.stdin.readline():
        raise SystemExit
    began, spent = time.process_time(), 0.0
def epoch_starts(trainer):
    if not seen:
        wait()
model = YOLO(cfg, task="detect")
for event, call in (("on_train_start", starts), ("on_train_epoch_start", epoch_starts),
                    ("on_train_batch_start", batch_starts), ("on_train_batch_end", batch_ends)):
    model.add_callback(event, call)
model.train(data=pictures, imgsz=int(size), batch=int(batch), nbs=int(batch), epochs=1000, device="cpu", workers=0,
            optimizer="SGD", lr0=1e-4, amp=False, cache="ram", val=False, save=False, plots=False, warmup_epochs=0,
            close_mosaic=0, pretrained=False, verbose=False, project=project)
"""


class Ours:
    """Our trainer on the data set, and its network alone on pictures it was fed."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, amp: str = "off"):
        spec = data.load_spec(arguments.data)
        net = models.load(arguments.cfg, classes=len(spec.names))
        config = TrainConfig(
            imgsz=arguments.imgsz,
            batch_size=arguments.batch,
            nominal_batch=arguments.batch,
            epochs=1000,
            optimizer="sgd",
            lr0=1e-4,
            amp=amp,
            cache="ram",
            workers=0,
            threads=1,
            device="cpu",
        )
        self.trainer = engine.Trainer(engine.DetectionObjective(net), spec, config, folder)
        self.pictures, self.steps = self._pictures(), arguments.steps
        self.last = next(self.pictures)
        parameters = list(self.trainer.network.parameters())
        self.optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, nesterov=True, fused=True)

    def _pictures(self) -> Iterator[Batch]:
        """Whole batches, epoch after epoch."""
        for epoch in range(self.trainer.config.epochs):
            self.trainer.network.train()
            for batch in self.trainer.feed.batches(epoch, 0):
                if batch.labelled == self.trainer.batch:
                    yield batch

    def train(self) -> Seconds:
        stepping, began = 0.0, time.process_time()
        for _ in range(self.steps):
            self.last = next(self.pictures)
            entered = time.process_time()
            self.trainer._step([self.last])
            stepping += time.process_time() - entered
        return {STEP: stepping, FED: time.process_time() - began}

    def train_native(self) -> Seconds:
        return {NATIVE[name]: seconds for name, seconds in self.train().items()}

    def alone(self) -> Seconds:
        images = self.last.prepared(self.trainer.device).images
        began = time.process_time()
        for _ in range(self.steps):
            outputs = self.trainer.network(images)
            torch.stack([each.mean() for each in outputs]).sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {ALONE: time.process_time() - began}


class Rival:
    """The other program's trainer in its process."""

    def __init__(self, arguments: argparse.Namespace, folder: Path):
        given = Path(arguments.data)
        copied = folder / "pictures" / given.name
        shutil.copytree(given.parent, copied.parent, copy_function=shutil.copyfile)
        surroundings = {
            **os.environ,
            "PYTHONPATH": str(Path(arguments.rival).resolve()),
            "YOLO_CONFIG_DIR": str(folder),
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "OMP_NUM_THREADS": "1",
        }
        said = [arguments.cfg + ".yaml", copied, arguments.imgsz, arguments.batch, arguments.steps, folder / "runs"]
        self.log = folder / "rival.log"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, *map(str, said)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env=surroundings,
            )
        self.version = self._answer()

    def _answer(self) -> str:
        line = _pipe(self.process.stdout).readline()
        if not line:
            told = self.log.read_text(encoding="utf-8").strip().splitlines()[-5:]
            raise UserError("\n".join(["the other program ended:", *told]), todo="see --help for what it needs")
        return line.strip()

    def train(self) -> Seconds:
        print("go", file=_pipe(self.process.stdin), flush=True)
        stepping, whole = map(float, self._answer().split())
        return {RIVAL: stepping, RIVAL_FED: whole}

    def close(self) -> None:
        """It ends where nothing more is asked of it."""
        self.process.terminate()
        self.process.wait()


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def measure(jobs: list[Callable[[], Seconds]], rounds: int) -> dict[str, np.ndarray]:
    """What -> CPU seconds of each round, after one that does not count."""
    for job in jobs:
        job()
    found: dict[str, list[float]] = {}
    for number in range(rounds):
        turn = number % len(jobs)
        for job in jobs[turn:] + jobs[:turn]:
            for name, seconds in job().items():
                found.setdefault(name, []).append(seconds)
    return {name: np.array(seconds) for name, seconds in found.items()}


def text(found: dict[str, np.ndarray], pictures: int) -> str:
    """Medians over rounds: pictures a CPU second, and times as shares of those of our own step in the same round."""
    lines = []
    for name in (name for name in (STEP, FED, ALONE, *NATIVE.values(), RIVAL, RIVAL_FED) if name in found):
        ratio = found[name] / found[STEP]
        low, middle, high = np.percentile(ratio, (0, 50, 100))
        rate = pictures / np.median(found[name])
        lines.append([name, f"{rate:.1f}", f"{middle:.3f}", f"{low:.3f} to {high:.3f}"])
    return table(["", "pictures a CPU second", "time by step's", "least and most"], lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="yolov8n", help="the name of a shipped network (default: %(default)s)")
    parser.add_argument("--imgsz", default="320", help="side of the pictures (default: %(default)s)")
    parser.add_argument("--data", default="shapes", help="a data set's yaml; for --rival in a folder with its pictures")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="in a round (default: %(default)s)")
    parser.add_argument("--native", action="store_true", help="and our step under --amp native")
    parser.add_argument("--rival", default="", help="the folder that ultralytics was installed into")
    arguments = parser.parse_args(argv)
    if arguments.rival and not Path(arguments.data).is_file():
        raise UserError(f"--data {arguments.data} with --rival: it needs files", todo="give a data set's yaml")
    height, width = parse_size(arguments.imgsz)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as name:
        ours = Ours(arguments, Path(name) / "ours")
        jobs = [ours.train, ours.alone]
        if arguments.native:
            jobs.append(Ours(arguments, Path(name) / "native", "native").train_native)
        rival = Rival(arguments, Path(name)) if arguments.rival else None
        try:
            found = measure([*jobs, *([rival.train] if rival else [])], arguments.rounds)
        finally:
            if rival:
                rival.close()
    beside = f"; the rival is ultralytics {rival.version}" if rival else ""
    print(
        f"{arguments.cfg}, batches of {arguments.batch} at {width}x{height}, one thread, {arguments.rounds} rounds of "
        f"{arguments.steps} steps, torch {torch.__version__}{beside}"
    )
    print(text(found, arguments.batch * arguments.steps))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
