"""How long it takes to score a network, beside another checkout of this repository: CPU time, and whether mAP is equal.

    git worktree add ../before v1
    python benchmarks/evaluation.py --against ../before
    python benchmarks/evaluation.py --against ../before --data coco128/data.yaml --network yolov5n.pt:320

Each checkout scores in a process of its own, one thread, and they take turns. What is timed is `engine.evaluate` as
training calls it after an epoch: pictures in RAM, everything else included, from network and data set to the score.
Without --network three shipped networks are scored with random weights, their heads shifted until 2000 boxes a picture
are as sure as they have to be, as trained networks' are; nearly all of them are wrong. Shown are medians over rounds,
and the ratio in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, run_cleanly
from export.machine import processor
from reporting.tables import table

ROOT = Path(__file__).resolve().parents[1]
USUAL = ("yolov5n:320", "yolov3-tiny:224", "yolov8n:160")
LARGEST_DIFFERENCE = 1e-6

# It runs in either checkout, which may be an old one: asks for nothing that is new.
CHILD = """\
import json, sys, time
answer, sys.stdout = sys.stdout, sys.stderr
import cv2, torch
import data, engine, models
given, pictures, split, most, classes = sys.argv[1:]
torch.set_num_threads(1), cv2.setNumThreads(0), torch.manual_seed(0)
spec = data.load_spec(pictures)
names = list(spec.names) + [f"none {number}" for number in range(len(spec.names), int(classes))]
from dataclasses import replace
spec = replace(spec, names=tuple(names) if isinstance(spec.names, tuple) else names)
source, _, side = given.rpartition(":")
size = (int(side), int(side))
if source.endswith(".pt"):
    net = models.load(source)
else:
    net = models.load(source, classes=len(names))
    with torch.no_grad():
        for layer in net.convolutions.values():
            if layer.bn is not None:
                layer.bn.momentum = None
                layer.bn.reset_running_stats()
        net.train()
        for _ in range(2):
            net(torch.rand(4, 3, *size))
        for number in net.head_convolutions:
            conv = net.convolutions[number].conv
            conv.weight.normal_(std=3 / conv.in_channels ** 0.5)
            conv.bias.normal_()
        net.eval()
        spec_read, noise = models.heads.spec_read(net.specs), torch.rand(4, 3, *size)
        def boxes():
            rows = net.decode(net(noise)).flatten(0, 1)
            return int((spec_read.candidates(rows, 0.001)[1] > 0.001).sum()) / len(noise)
        while boxes() > 2000:
            for head, numbers in zip(net.specs, net.convolutions_by_head):
                bias = net.convolutions[numbers[-1]].conv.bias
                (bias.view(head.places, -1)[:, 4:] if head.has_objectness else bias).sub_(0.25)
net.eval()
dataset = data.Dataset(spec, split, size, cache="ram", resize=net.resize)
if int(most):
    for name in ("pictures", "shapes", "labels"):
        setattr(dataset, name, getattr(dataset, name)[: int(most)])
print(json.dumps([models.__file__, len(dataset), len(names)]), file=answer, flush=True)
while sys.stdin.readline():
    began = time.process_time()
    score = engine.evaluate(net, spec, split, dataset=dataset)
    spent = time.process_time() - began
    print(json.dumps([spent, score.map50_95, score.map50]), file=answer, flush=True)
"""


class Child:
    """One checkout, which scores one network whenever it is asked."""

    def __init__(self, folder: Path, given: str, arguments: argparse.Namespace):
        if not (folder / "engine").is_dir():
            raise UserError(f"--against {folder} is no checkout of ThinYOLO: it has no folder engine")
        source, _, side = given.rpartition(":")
        words = [f"{_absolute(source)}:{side}", _absolute(arguments.data)]
        words += [arguments.split, str(arguments.pictures), str(arguments.classes)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,  # the first place where a program given by -c looks for modules
            env={**os.environ, "PYTHONPATH": str(folder.resolve()), "OMP_NUM_THREADS": "1"},
        )

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise UserError("the process that scores ended", todo="what it said stands above")
        return json.loads(line)

    def score(self) -> list[float]:
        """CPU seconds, mAP50-95 and mAP50."""
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        found: list[float] = self.answer()
        return found

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


def _absolute(given: str) -> str:
    """A file that is there by its whole path; the name of something built in stays."""
    return str(Path(given).resolve()) if Path(given).is_file() else given


def measure(given: str, arguments: argparse.Namespace) -> list[str]:
    """A row of the table."""
    folders = [Path(arguments.against), ROOT] if arguments.against else [ROOT]
    children = [Child(folder, given, arguments) for folder in folders]
    try:
        for child, folder in zip(children, folders, strict=True):
            where, pictures, classes = child.answer()
            assert Path(where).is_relative_to(folder.resolve()), f"{where} is not of {folder}"
        rounds = []
        for number in range(arguments.rounds + 1):  # the first does not count
            order = children if number % 2 else children[::-1]
            found = {child: child.score() for child in order}
            rounds.append([found[child] for child in children])
    finally:
        for child in children:
            child.close()
    values = np.array(rounds[1:])  # (rounds, checkouts, 3)
    seconds = np.median(values[:, :, 0], 0)
    row = [given, str(pictures), str(classes), *(f"{each:.3f}" for each in seconds)]
    if arguments.against:
        ratio = values[:, 0, 0] / values[:, 1, 0]
        difference = float(np.abs(values[:, 0, 1:] - values[:, 1, 1:]).max())
        verdict = "equal" if difference <= LARGEST_DIFFERENCE else f"differ by {difference:.1e}"
        row += [f"{np.median(ratio):.3f}", f"{ratio.min():.3f} to {ratio.max():.3f}", verdict]
    return [*row, f"{values[0, -1, 1]:.6f}"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", default="", help="the folder of another checkout, whose time is divided by ours")
    parser.add_argument("--network", nargs="+", default=list(USUAL), help="a .pt or the name of a cfg, then :side")
    parser.add_argument("--data", default="shapes", help="a data set's yaml (default: %(default)s)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--pictures", type=int, default=128, help="at most so many; 0: all (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=80, help="at least so many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    rows = []
    for given in arguments.network:
        if not given.rpartition(":")[2].isdigit() or not given.rpartition(":")[0]:
            raise UserError(f"--network {given} names no size", todo=f"--network {given}:320")
        rows.append(measure(given, arguments))
    heading = ["network", "pictures", "classes", *(["seconds before"] if arguments.against else []), "seconds"]
    heading += ["ratio", "least and most", "mAP"] if arguments.against else []
    print(table([*heading, "mAP50-95"], rows))
    print(f"CPU time, one thread, {arguments.rounds} rounds in turns; {processor()}")
    different = any("differ" in each for row in rows for each in row)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
