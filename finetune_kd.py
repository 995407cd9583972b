"""Fine-tune a thin student under a fat teacher, or compare the ways of doing so.

The student learns from the labels as always; the teacher's terms (--kd) are added to the detection loss. The teacher's
mAP is measured and printed before the first step, the student's beside it after every epoch. With --ablate, modes are
trained with equal budgets and several seeds each, and compared in one table.
"""

from __future__ import annotations

import sys

from common.errors import run_cleanly
from common.log import show_log
from data import load_spec
from distill.modes import describe_modes
from engine import distributed
from engine.config import parse_config
from engine.rundir import no_trace_if_refused
from pipeline.ablate import AblateConfig, ablate
from pipeline.finetune import finetune, report, train_assistants
from pipeline.stage import check_test, start_run

EPILOG = """examples:
  python finetune_kd.py --cfg thin.cfg --weights thin.weights --t_cfg fat.cfg --t_weights fat.weights --data hand.yaml
  python finetune_kd.py --weights pruned.pt --t_weights baseline.pt --data hand.yaml --kd hinton:1,bounded:0.5
  python finetune_kd.py --weights pruned.pt --data hand.yaml --kd none       plain fine-tuning, to compare with
  python finetune_kd.py --weights pruned.pt --t_weights a.pt+b.pt ...        two teachers, averaged
  python finetune_kd.py --weights pruned.pt --t_weights fat.pt,middle.pt ... middle.pt learns from fat.pt, then teaches
  python finetune_kd.py --weights pruned.pt --t_weights baseline.pt --data hand.yaml --ablate "none; hinton; bounded"
                                                                             compare modes, 5 seeds each
  python finetune_kd.py --resume runs/finetune_kd/exp                        go on where it was stopped
"""


def main() -> int:
    show_log()
    config = parse_config(AblateConfig, prog="finetune_kd.py", description=__doc__ or "", epilog=EPILOG)
    if config.list_modes:
        print(describe_modes())
        return 0
    try:
        check_test(load_spec(config.data, single_cls=config.single_cls))
        run = start_run(config, "ablate" if config.ablate else "finetune_kd")
        complete = True
        with no_trace_if_refused(run, resumed=bool(config.resume)):
            if config.ablate:
                text, complete = ablate(config, run)
            else:
                config = train_assistants(config, run)
                result = finetune(config, run)
                text = report(result, config) if distributed.is_main() else ""
        if distributed.is_main():
            print(text)
    finally:
        distributed.finish()
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(run_cleanly(main, after_stop="Go on later with --resume and the run's folder."))
