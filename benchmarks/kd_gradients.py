"""How hard does each KD mode pull? Gradient norms over the first steps of a fine-tune (docs/results.md).

    python benchmarks/kd_gradients.py --weights thin.pt --t_weights fat.pt --data mine.yaml --imgsz 256

A weight says how much a term's value counts; what moves the student is its gradient. Printed are, every eighth step,
the norm of the detection loss's gradient and each mode's as a share of it, at default weights and without a limit.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn

import models
from common.errors import UserError, run_cleanly
from data import Dataset, load_spec, make_loader
from distill import KDConfig, KDObjective, Teacher
from distill.balance import gradient_norm
from engine.config import TrainConfig, parse_size
from engine.step import training_step


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="the student, a .pt")
    parser.add_argument("--t_weights", required=True, help="the teacher")
    parser.add_argument("--data", required=True, help="the data set's yaml, or shapes")
    parser.add_argument("--imgsz", default="224", help="224, or WIDTHxHEIGHT (default: 224)")
    parser.add_argument("--kd", default="scaled,bounded", help="modes (default: scaled,bounded)")
    parser.add_argument("--batch-size", type=int, default=8, help="pictures a step (default: 8)")
    parser.add_argument("--lr0", type=float, default=0.001, help="of AdamW (default: 0.001)")
    parser.add_argument("--steps", type=int, default=25, help="optimiser steps (default: 25)")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    spec, kd = load_spec(arguments.data), KDConfig(kd=arguments.kd, kd_limit=0)
    if not kd.modes():
        raise UserError("--kd none has no gradients", todo="--kd scaled,bounded")
    student = models.load(arguments.weights, names=spec.names)
    objective = KDObjective(student, Teacher.load("", arguments.t_weights, student), kd=kd).train()
    dataset = Dataset(spec, "train", parse_size(arguments.imgsz), TrainConfig().augment)
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(objective.parameters(), lr=arguments.lr0)
    print(f"{'step':>5} {'detection':>10} " + " ".join(f"{mode:>10}" for mode in kd.modes()))
    for number, batch in enumerate(make_loader(dataset, arguments.batch_size)):
        if number == arguments.steps:
            break
        pictures = batch.prepared(torch.device("cpu"))
        for terms, _ in training_step(objective, [pictures], 0.5):
            if number % 8 == 0:
                own = [tuple(objective.detection.weights)]
                own += [
                    tuple(name for name in terms.values if name == mode or name.startswith(f"{mode}_"))
                    for mode in kd.modes()
                ]
                detection, *pulls = (float(gradient_norm(terms.total(names), parameters)) for names in own)
                print(f"{number:>5} {detection:>10.2f} " + " ".join(f"{pull / detection:>10.2f}" for pull in pulls))
            terms.total().backward()
        nn.utils.clip_grad_norm_(parameters, TrainConfig().clip)
        optimizer.step()
        optimizer.zero_grad()
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
