"""What a step costs under every KD mode, against its parts: the teacher's forward pass and a plain step.

    python benchmarks/kd_cost.py --teacher yolov3-tiny --params 0.1 --imgsz 256 --batch 8
    python benchmarks/kd_cost.py --teacher runs/train_prune/demo/baseline/weights/best.pt \\
        --student runs/train_prune/demo/pruned/pruned.pt --data shapes --imgsz 128 --batch 16

Without --student it is cut from the teacher, so that `aligned` has its lineage. Random weights take as long as trained
ones but in the modes that look only where the teacher is sure (scaled, gap): an untrained teacher is a little sure of
everything, which is their worst case. Every round times all modes, one after the other, and the medians of the rounds'
ratios are shown.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

import models
import prune
from common.errors import UserError, run_cleanly
from common.log import show_log
from data import load_spec
from distill import MODES, KDConfig, KDObjective, Teacher
from engine.config import parse_size
from pipeline.step_cost import PLAIN, TEACHER, first_batch, measure_steps, random_batch


def main() -> int:
    show_log()
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    spec = load_spec(arguments.data) if arguments.data else None
    fat = models.load(arguments.teacher, classes=len(spec.names) if spec is not None else 3)
    if arguments.student:
        thin = models.load(arguments.student)
    else:
        thin = prune.channels(fat, criterion="random", budget=f"params={arguments.params}", round_to=4).network
    teacher, variants = Teacher(fat, thin), {}
    for text in arguments.modes.split(";") if arguments.modes else MODES:
        try:
            KDObjective(thin, teacher, kd=KDConfig(kd=text.strip()))
        except UserError as error:
            print(f"{text.strip()} is left out: {error}")
        else:
            variants[text.strip()] = KDConfig(kd=text.strip())
    size = parse_size(arguments.imgsz)
    began = time.monotonic()
    count = arguments.batch
    batch = first_batch(spec, size, count) if spec is not None else random_batch(thin, size, count)
    found = measure_steps(thin, teacher, variants, batch, rounds=arguments.rounds, device=arguments.device)
    print(
        f"teacher {arguments.teacher}: {models.parameters(fat):,} parameters, student: {models.parameters(thin):,}; "
        f"{arguments.batch} pictures of {size[1]}x{size[0]}; {arguments.device}, {torch.get_num_threads()} threads; "
        f"{arguments.rounds} rounds in {time.monotonic() - began:.0f} s"
    )
    print(f"{'':<24} {'ms':>9} {'by plain':>9} {'by teacher + plain':>19} {'peak GB':>8}")
    for name in (PLAIN, TEACHER, *variants):
        cost = found[name]
        parts = "" if name in (PLAIN, TEACHER) else f"{cost.to_parts:.3f}"
        print(f"{name:<24} {cost.milliseconds:>9.1f} {cost.to_plain:>9.3f} {parts:>19} {cost.peak_gb:>8.2f}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="yolov3-tiny", help="a cfg or .pt")
    parser.add_argument("--params", type=float, default=0.1, help="the student's share of its parameters")
    parser.add_argument("--student", default="", help="a .pt; without: cut from the teacher")
    parser.add_argument("--data", default="", help="take the pictures from this data set's val; without: noise")
    parser.add_argument("--imgsz", default="256")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--modes", default="", help="as for --kd, separated by ';'; without: every mode alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
