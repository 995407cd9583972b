"""What the commands that train do: a run's folder, its stages, and no trace of it where it is refused."""

from __future__ import annotations

from common.options import from_dict, to_dict
from data import load_spec
from engine import distributed
from engine.config import TrainConfig
from engine.rundir import no_trace_if_refused
from pipeline.ablate import ablate
from pipeline.distil_options import AblateConfig
from pipeline.finetune import finetune, train_assistants
from pipeline.finetune_report import report
from pipeline.footage import check_footage, gathered
from pipeline.prune_options import PruneConfig
from pipeline.solved import begin_solved
from pipeline.stage import check_test, start_run, with_size
from pipeline.train_prune import PruneRun


def train(config: TrainConfig) -> None:
    """Ordinary training: the baseline stage of `prune` alone."""
    config = with_size(config)
    whole = from_dict(PruneConfig, {**to_dict(config), "stages": "baseline"})
    _stages(config, whole, "train")


def prune(config: PruneConfig) -> None:
    """Baseline, sparsity training, the cut and, if wanted, the student."""
    config = with_size(config)
    _stages(config, config, "train_prune")


def _stages(asked: TrainConfig, config: PruneConfig, kind: str) -> None:
    try:
        run = start_run(asked, kind)
        with no_trace_if_refused(run, resumed=bool(config.resume)):
            PruneRun(config, run).go()
    finally:
        distributed.finish()


def distil(config: AblateConfig) -> int:
    """Fine-tune under a teacher, or compare the ways of doing so; 1 where cells of the comparison failed."""
    try:
        spec = load_spec(config.data, single_cls=config.single_cls)
        check_test(spec)
        config = with_size(config)
        run = start_run(config, "ablate" if config.ablate else "finetune_kd")
        complete = True
        with no_trace_if_refused(run, resumed=bool(config.resume)):
            if config.ablate:
                text, complete = ablate(config, run)
            else:
                check_footage(config)
                config = train_assistants(gathered(config, spec, run), run)
                begun = begin_solved(config, run)
                result = finetune(config, run, student=begun.network if begun else None)
                text = report(result, config, begun.lines if begun else ()) if distributed.is_main() else ""
        if distributed.is_main():
            print(text)
    finally:
        distributed.finish()
    return 0 if complete else 1
