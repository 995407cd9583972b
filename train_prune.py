"""Train a detector, pull its idle channels to zero, and cut it thin.

Three stages in one resumable run: *baseline* (ordinary training), *sparse* (training with a pull on every prunable
BatchNorm gamma) and *prune* (channels and shortcut blocks removed). With --then-kd a fourth, *student*, fine-tunes the
thin network with the baseline as its teacher and ends with a verdict.
"""

from __future__ import annotations

import sys

from common.errors import run_cleanly
from common.log import show_log
from distill.modes import describe_modes
from engine import distributed
from engine.config import parse_config
from engine.rundir import no_trace_if_refused
from pipeline.prune_options import PruneConfig
from pipeline.stage import start_run
from pipeline.train_prune import PruneRun

EPILOG = """examples:
  python train_prune.py --cfg yolov5n --weights yolov5n.pt --data bccd.yaml --imgsz 320 --prune params=0.25 --then-kd
  python train_prune.py --weights mine.pt --data mine.yaml --shortcuts 8    start from your own trained network
  python train_prune.py --weights sparse.pt --data mine.yaml --stages prune --max-drop 0.01     as deep as mAP allows
  python train_prune.py --weights mine.pt --data mine.yaml --prune latency=0.5 --shortcuts auto --then-kd
  python train_prune.py --resume runs/train_prune/exp                        go on in whichever stage it stopped
"""


def main() -> int:
    show_log()
    config = parse_config(PruneConfig, prog="train_prune.py", description=__doc__ or "", epilog=EPILOG)
    if config.list_modes:
        print(describe_modes())
        return 0
    try:
        run = start_run(config, "train_prune")
        with no_trace_if_refused(run, resumed=bool(config.resume)):
            PruneRun(config, run).go()
    finally:
        distributed.finish()
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="Go on later with --resume and the run's folder."))
