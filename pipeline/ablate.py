"""Comparing KD modes: a grid of modes and seeds with equal budgets, a run a cell, and one table at the end."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import models
from common.errors import UserError
from common.files import whole_file
from common.log import log
from common.options import options, to_dict
from common.rundir import ARGS
from data import DataSpec, load_spec
from distill import KDConfig, KDObjective, Teacher
from engine import checkpoints, distributed
from engine.tracking import ID_FILE
from models.network import Network
from pipeline.ablate_grid import ALL, NONE, Variant, entries, parse_seeds, parse_variants
from pipeline.ablate_table import Table, publish
from pipeline.distil_options import AblateConfig, DistilConfig
from pipeline.executor import run_all
from pipeline.finetune import announce_teacher, finetune, make_teacher, teacher_scores, train_assistants
from pipeline.footage import gathered
from pipeline.stage import load_network
from pipeline.step_cost import PLAIN, first_batch, measure_steps
from reporting.results import Scores, scores, shown_split

CELL, REFERENCE, COST, ERROR = "cell.json", "reference.json", "step_cost.json", "error.txt"
TEACHER, START = "teacher", "not fine-tuned"
OBJECTS = "objects"
# Options of a cell on which its numbers do not depend, beside those that may be changed when a run is resumed; and the
# networks' files, whose contents count instead.
_NOT_NUMBERS = (
    "resume",
    "name",
    "project",
    "exist_ok",
    "list_modes",
    "hyp",
    "ablate",
    "seeds",
    "executor",
    "cfg",
    "weights",
    "t_cfg",
    "t_weights",
)


@dataclass(frozen=True)
class Cell:
    """One training of the grid; picklable, so that it can be sent to a worker.

    Attributes:
        variant, seed: its place in the grid.
        config: its options.
        folder: its run folder.
        group: W&B's group, the name of the ablation's run.
        known: scores of the teacher and of the student before its first step, which all cells share.
        key: of everything its numbers depend on; a finished cell counts only under the same key.
    """

    variant: str
    seed: int
    config: DistilConfig
    folder: Path
    group: str
    known: dict[str, Scores]
    key: str


def ablate(config: AblateConfig, run: Path) -> tuple[str, bool]:
    """Run whatever the grid in the folder `run` still lacks, then write its table, figure and page.

    Returns:
        The table and how to read it, for the terminal; and whether no cell failed.
    """
    _check_equal(config)
    variants, seeds = parse_variants(config.ablate, config.distil), parse_seeds(config.seeds)
    if config.executor == "ray" and distributed.world() > 1:
        raise UserError("--executor ray under torchrun", todo="use one of the two: Ray starts its own processes")
    if distributed.is_main():
        replace(config, resume="").save(run / ARGS)  # a resumed grid may have grown
    spec = load_spec(config.data, single_cls=config.single_cls)
    config = train_assistants(gathered(config, spec, run), run)
    student = load_network(config, spec.names)
    teacher = make_teacher(config, student, spec)
    if teacher is None:
        raise UserError(
            "--ablate compares ways of learning from a teacher, and there is none", todo="add --t_weights FAT.pt"
        )
    variants = _possible(variants, student, teacher, asked_for_all=ALL in entries(config.ablate))
    key = _key(config, student, teacher, spec)
    cells = [_cell(config, run, variant, seed, key) for variant in variants for seed in seeds]
    reference, known = _references(config, run, spec, student, teacher, key)
    todo = [cell for cell in cells if _finished(cell) is None]
    log.info(
        "%s: %d modes x %d seeds; %d of %d cells are to be trained",
        run,
        len(variants),
        len(seeds),
        len(todo),
        len(cells),
    )
    todo = [replace(cell, known=known()) for cell in todo]
    failed = _train(todo, config)
    done = {(cell.variant, cell.seed): found for cell in cells if (found := _finished(cell)) is not None}
    _warn_of_others(run, cells)
    alive = {name for name, _ in done}
    costs = _step_costs(config, run, spec, [each for each in variants if each.text in alive], student, teacher, key)
    if not distributed.is_main():
        return "", not failed
    names = [variant.text for variant in variants]
    split = shown_split(spec)
    objects = reference.pop(OBJECTS)[split]
    table = Table(names, seeds, done, failed, reference, costs, split, _what_varies(config, student), objects)
    return publish(table, config, run), not failed


def _check_equal(config: AblateConfig) -> None:
    """Refuse what every cell would find for itself, and so differently.

    Raises:
        UserError: ``--batch-size -1``, ``--anchors fit`` or ``--patience``.
    """
    if config.batch_size < 1:
        raise UserError(
            f"--batch-size {config.batch_size} with --ablate: modes that need more memory would train on smaller "
            "batches, and not be comparable",
            todo="give a number that fits with every mode",
        )
    if config.anchors == "fit":
        raise UserError(
            "--anchors fit with --ablate: every seed would fit its own, and not be comparable",
            todo="--anchors keep, with a student whose baseline was trained with fitted ones",
        )
    if config.patience:
        raise UserError(
            f"--patience {config.patience} with --ablate: cells would be trained for unequally long, and not be "
            "comparable",
            todo="--patience 0; best.pt is the best epoch either way",
        )


def _possible(variants: Sequence[Variant], student: Network, teacher: Teacher, asked_for_all: bool) -> list[Variant]:
    """Try every row on the pair of networks before anything is trained; "all" leaves out what cannot work."""
    possible = []
    for variant in variants:
        try:
            KDObjective(student, teacher, kd=variant.kd)
        except UserError as error:
            if not asked_for_all:
                raise
            log.warning("%s is left out: %s", variant.text, error)
        else:
            possible.append(variant)
    return possible


def _key(config: DistilConfig, student: Network, teacher: Teacher, spec: DataSpec) -> str:
    """Of everything that all cells share and their numbers depend on."""
    known = options(type(config))
    settings = {
        name: value
        for name, value in to_dict(config).items()
        if name not in _NOT_NUMBERS
        and name != "seed"
        and not known[name].metadata.get("resumable")
        and name not in options(KDConfig)
    }
    pictures = {split: str(spec.splits.get(split)) for split in ("train", "val", "test")}
    # Weights that no file fills follow from the cell's own seed.
    start = models.fingerprint(student) if _has_weights(config) else student.cfg.structure()
    return _digest([settings, start, teacher.fingerprint, list(spec.names), pictures])


def _has_weights(config: DistilConfig) -> bool:
    return bool(config.weights) or Path(config.cfg).suffix in (".pt", ".pth")


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def _cell(config: AblateConfig, run: Path, variant: Variant, seed: int, key: str) -> Cell:
    folder = run / variant.folder / f"seed{seed}"
    own = replace(config, distil=variant.kd, seed=seed, ablate="", resume="")
    key += _digest([to_dict(variant.kd), seed])
    return Cell(variant.text, seed, own, folder, run.name, {}, key)


def _warn_of_others(run: Path, cells: Sequence[Cell]) -> None:
    """Say which trainings in the folder are not in the table: its correction for several modes knows of rows only."""
    own = {cell.folder for cell in cells}
    others = [path.parent for path in sorted(run.glob(f"*/seed*/{CELL}")) if path.parent not in own]
    finished = [folder for folder in others if _read(folder / CELL).get("scores")]
    if finished:
        named = sorted({str(_read(folder / CELL).get("modes")) for folder in finished})
        log.warning(
            "%d finished trainings in %s are of rows or seeds that were not asked for now, so they are not in "
            "the table: %s. Name all rows and seeds that were looked at: p is corrected for those only",
            len(finished),
            run,
            "; ".join(named),
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}


def _write(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _finished(cell: Cell) -> dict[str, Any] | None:
    """What the cell has left, if it is done and was made with the same settings."""
    content = _read(cell.folder / CELL)
    return content if content.get("key") == cell.key and content.get("scores") else None


def _references(config: DistilConfig, run: Path, spec: DataSpec, student: Network, teacher: Teacher, key: str) -> Any:
    """The first two rows and the objects of each class, kept in the run; and a function to the full scores, which only
    cells to be trained need."""
    full: dict[str, Scores] = {}

    def known() -> dict[str, Scores]:
        if not full:
            full["teacher"] = teacher_scores(teacher, spec, config)
            full["start"] = scores(student, spec, config)
        return full

    kept = _read(run / REFERENCE)
    if kept.get("key") != key or OBJECTS not in kept:
        rows = {TEACHER: known()["teacher"], START: known()["start"]}
        kept = {
            "key": key,
            **{
                name: {split: score.as_dict(classes=True) for split, score in row.items()} for name, row in rows.items()
            },
            OBJECTS: {
                split: {name: row["boxes"] for name, row in score.per_class.items()}
                for split, score in rows[TEACHER].items()
            },
        }
        if distributed.is_main():
            _write(run / REFERENCE, kept)
        start = rows[START]["val"].map50_95
        log.info("student on val, before the first step: mAP50-95 %.4f", start)
        announce_teacher(rows[TEACHER], start)
    return {name: kept[name] for name in (TEACHER, START, OBJECTS)}, known


def _train(cells: Sequence[Cell], config: AblateConfig) -> dict[tuple[str, int], str]:
    """Train the cells; those that failed, with what was wrong."""
    failed: dict[tuple[str, int], str] = {}
    results: Iterable[tuple[Cell, dict[str, Any] | UserError]]
    if config.executor == "ray" and config.device != "cpu":  # a worker sees only the GPU that Ray gave it, as number 0
        cells = [replace(cell, config=replace(cell.config, device="")) for cell in cells]
    if distributed.world() > 1:  # what stops one process has to stop all: the others would wait for it
        results = ((cell, attempt_cell(cell)) for cell in cells)
    else:
        results = run_all(attempt_cell, cells, config.executor, threads=config.threads, device=config.device)
    for number, (cell, result) in enumerate(results, start=1):
        if isinstance(result, UserError):
            failed[cell.variant, cell.seed] = str(result)
            log.warning("%d/%d %s, seed %d failed: %s", number, len(cells), cell.variant, cell.seed, result)
        else:
            split = list(result["scores"])[-1]
            log.info(
                "%d/%d %s, seed %d: mAP50-95 %.4f on %s",
                number,
                len(cells),
                cell.variant,
                cell.seed,
                result["scores"][split]["mAP50-95"],
                split,
            )
    return failed


def attempt_cell(cell: Cell) -> dict[str, Any]:
    """`run_cell`, where a bug costs the others nothing: the cell counts as failed, its traceback is in `error.txt`.

    Not so under torchrun: the other processes would wait for one that gave up, so all of them end (see `_train` for
    what is no bug).
    """
    (cell.folder / ERROR).unlink(missing_ok=True)
    try:
        return run_cell(cell)
    except UserError:
        raise
    except Exception as error:
        if distributed.world() > 1:
            raise
        cell.folder.mkdir(parents=True, exist_ok=True)
        (cell.folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        what = f"{type(error).__name__}: {_first_line(error)}"
    # Outside of the handler: inside, this error would keep the other's frames, and all memory they hold, alive.
    raise UserError(what, where=cell.folder / ERROR, todo="when the cause is gone, go on with --resume")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train one cell, or go on with it at its last checkpoint; leaves `cell.json`.

    Returns:
        Its content: key, modes, seed, scores (split -> name -> value), gate rate, seconds, steps, best epoch, memory,
        and what was wrong with KD terms.
    """
    if (found := _finished(cell)) is not None:
        return found
    begun = _read(cell.folder / CELL).get("key") == cell.key
    identity = {"key": cell.key, "modes": cell.variant, "seed": cell.seed}
    if distributed.is_main() and not begun:
        cell.config.save(cell.folder / ARGS)
        for other in (checkpoints.LAST, ID_FILE):  # of other settings: neither their weights nor their W&B run
            (cell.folder / other).unlink(missing_ok=True)
        _write(cell.folder / CELL, identity)
    distributed.barrier()
    config = replace(cell.config, resume=str(cell.folder))
    name = f"{cell.group}-{cell.folder.parent.name}-{cell.folder.name}"
    result = finetune(
        config, cell.folder, kind="ablation", group=cell.group, name=name, known=cell.known, figures=False
    )
    training = checkpoints.finished(cell.folder)
    assert training is not None
    last = training.history[-1]
    content = {
        **identity,
        "scores": {split: score.as_dict(classes=True) for split, score in result.scores["student"].items()},
        "gate_rate": _mean(
            [
                row["train/gate_rate"]
                for row in training.history
                if "train/gate_rate" in row and row["step"] <= (1 - config.distil.kd_off) * last["step"]
            ]
        ),
        "seconds": last["seconds"],
        "steps": last["step"],
        "best_epoch": max(training.history, key=lambda row: row.get("val/mAP50-95", -1.0))["epoch"],
        "memory_gb": last["memory_gb"],
        "reported": result.reported,
    }
    if distributed.is_main():
        _write(cell.folder / CELL, content)
    return content


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _step_costs(
    config: AblateConfig,
    run: Path,
    spec: DataSpec,
    variants: Sequence[Variant],
    student: Network,
    teacher: Teacher,
    key: str,
) -> dict[str, dict[str, float]]:
    """Row -> milliseconds of a step and its ratio to that of `none`, measured once in interleaved rounds.

    Trainings that are done are not to be lost over it: what goes wrong is said, and there are no costs.
    """
    # A table never mixes rounds: whatever is new, or was measured on other networks or options, measures all anew.
    wanted = {variant.text: _digest([key, to_dict(variant.kd)]) for variant in variants}
    kept = _read(run / COST)
    if wanted and all(kept.get("keys", {}).get(name) == own for name, own in wanted.items()):
        return kept["steps"]
    if not distributed.is_main() or not variants:
        return {}
    batch = min(config.batch_size, 16)
    device = distributed.start(config.device)
    try:
        with distributed.alone():  # the other processes of torchrun take no part
            found = measure_steps(
                student,
                teacher,
                {variant.text: variant.kd for variant in variants if variant.text != NONE},
                first_batch(spec, config.input_size, batch),
                config=config,
                device=device,
            )
    except Exception as error:
        log.warning("the costs of a step are missing in the table: %s: %s", type(error).__name__, _first_line(error))
        return {}
    costs = {
        NONE if name == PLAIN else name: {"milliseconds": cost.milliseconds, "ratio": cost.to_plain, "batch": batch}
        for name, cost in found.items()
    }
    _write(run / COST, {"keys": wanted, "steps": costs})
    return costs


def _what_varies(config: DistilConfig, student: Network) -> str:
    report = student.load_report
    drawn = not _has_weights(config) or (report is not None and bool(report.missing or report.unfit))
    first = "the student's random first weights, " if drawn else ""
    same = "the cfg" if drawn else "the first weights"
    return (
        f"The seeds vary {first}the order of the pictures, their augmentation and the adapters' first weights; {same}, "
        "the teacher, the split of the data and the budget are the same in every run."
    )
