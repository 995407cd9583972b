"""Comparing KD modes: a grid of modes and seeds with equal budgets, a run a cell, and one table at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
from common.errors import UserError, first_line
from common.files import read_json, write_json
from common.log import log
from common.options import options, to_dict
from common.rundir import ARGS, is_checkpoint
from data import DataSpec, load_spec
from distill import KDConfig, KDObjective, Teacher
from engine import checkpoints, distributed
from models.network import Network
from pipeline.ablate_cell import CELL, Cell, attempt_cell, finished
from pipeline.ablate_grid import ALL, NONE, Variant, entries, parse_seeds, parse_variants
from pipeline.ablate_table import Table, publish
from pipeline.distil_options import AblateConfig, DistilConfig
from pipeline.executor import run_all
from pipeline.finetune import train_assistants
from pipeline.footage import check_footage, gathered
from pipeline.solved import SolvedStart, ancestor_of, solve_start
from pipeline.stage import check_options, check_space, load_network
from pipeline.step_cost import PLAIN, first_batch, measure_steps
from pipeline.teaching import announce_teacher, make_teacher, teacher_scores
from reporting.results import Scores, scores, shown_split

REFERENCE, COST = "reference.json", "step_cost.json"
TEACHER, START = "teacher", "not fine-tuned"
OBJECTS, PICTURES = "objects", "pictures"
COLUMNS = {name: each for name, each in options(AblateConfig).items() if each.metadata["column"]}
"""Options beside those of KD that may differ between rows."""
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


def ablate(config: AblateConfig, run: Path) -> tuple[str, bool]:
    """Run whatever the grid in the folder `run` still lacks, then write its table, figure and page.

    Returns:
        The table and how to read it, for the terminal; and whether no cell failed.
    """
    _check_equal(config)
    variants, seeds = parse_variants(config.ablate, config.distil, COLUMNS), parse_seeds(config.seeds)
    if config.executor == "ray" and distributed.world() > 1:
        raise UserError("--executor ray under torchrun", todo="use one of the two: Ray starts its own processes")
    if distributed.is_main():
        replace(config, resume="").save(run / ARGS)  # a resumed grid may have grown
    spec = load_spec(config.data, single_cls=config.single_cls)
    if config.resume:  # with others every cell would count as one of other settings, and be trained anew
        checkpoints.check_pictures(read_json(run / REFERENCE).get(PICTURES), spec, run / REFERENCE)
    config = train_assistants(gathered(config, spec, run), run)
    variants = [_with_footage(config, run, spec, variant) for variant in variants]
    student = load_network(config, spec.names)
    teacher = make_teacher(config, student, spec)
    if teacher is None:
        raise UserError(
            "--ablate compares ways of learning from a teacher, and there is none", todo="add --t_weights FAT.pt"
        )
    variants = _possible(variants, student, teacher, asked_for_all=ALL in entries(config.ablate))
    key = _key(config, student, teacher, spec)
    starts = _starts(config, run, spec, student, teacher, variants, key)
    cells = _once_each([_cell(config, run, variant, seed, key, starts) for variant in variants for seed in seeds])
    reference, known = _references(config, run, spec, student, teacher, key, starts)
    todo = list({cell.folder: cell for cell in reversed(cells) if finished(cell) is None}.values())[::-1]
    check_options(student, config)
    check_space(student, config, run, len(todo))
    log.info(
        "%s: %d rows x %d seeds; %d of %d cells are to be trained",
        run,
        len(variants),
        len(seeds),
        len(todo),
        len({cell.folder for cell in cells}),
    )
    todo = [replace(cell, known=known(starts.get(cell.config.reconstruct))) for cell in todo]
    lost = _train(todo, config)
    failed = {(cell.variant, cell.seed): lost[cell.folder] for cell in cells if cell.folder in lost}
    done = {(cell.variant, cell.seed): found for cell in cells if (found := finished(cell)) is not None}
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


def _with_footage(config: AblateConfig, run: Path, spec: DataSpec, variant: Variant) -> Variant:
    """The row with its own footage, if it names some, gathered for all its cells.

    Raises:
        UserError: the row would learn nothing from it.
    """
    if not variant.options.keys() & {"unlabelled", "unlabelled_as"}:
        return variant
    own = replace(config, distil=variant.kd, **variant.options)
    check_footage(own)
    return replace(variant, options={**variant.options, "unlabelled": gathered(own, spec, run).unlabelled})


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
        and name not in COLUMNS
    }
    pictures = {split: str(spec.splits.get(split)) for split in ("train", "val", "test")}
    # Weights that no file fills follow from the cell's own seed.
    start = models.full_digest(student) if _has_weights(config) else student.cfg.structure()
    # What is at its default is not in the key: cells stay valid that were made before it counted.
    usual = checkpoints.reading_of(DataSpec((), {}, spec.source))
    reading = {key: value for key, value in checkpoints.reading_of(spec).items() if value != usual[key]}
    content = [settings, start, teacher.full_digest, list(spec.names), pictures]
    return _digest([*content, reading] if reading else content)


def _has_weights(config: DistilConfig) -> bool:
    return bool(config.weights) or is_checkpoint(config.cfg)


def _digest(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:16]


def _cell(
    config: AblateConfig, run: Path, variant: Variant, seed: int, key: str, starts: Mapping[str, SolvedStart]
) -> Cell:
    folder = run / variant.folder / f"seed{seed}"
    own = replace(config, distil=variant.kd, seed=seed, ablate="", resume="", **variant.options)
    start = starts.get(own.reconstruct)
    if start and not start.changed:
        own, start = replace(own, reconstruct=""), None
    # What is at its default is not in the key: cells stay valid where there were fewer options.
    told = {name: getattr(own, name) for name, each in COLUMNS.items() if getattr(own, name) != each.default}
    if own.unlabelled:
        told["unlabelled"] = [Path(each).name for each in own.unlabelled]  # named after what is in it
    if start:
        own = replace(own, cfg="", weights=str(start.path))
        told["reconstruct"] = start.path.name
    key += _digest([to_dict(variant.kd), seed, *([told] if told else [])])
    return Cell(variant.text, seed, own, folder, run.name, {}, key)


def _once_each(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, of which those that are one training share the folder of the first."""
    folders: dict[str, Path] = {}
    return [replace(cell, folder=folders.setdefault(cell.key, cell.folder)) for cell in cells]


def _starts(
    config: AblateConfig,
    run: Path,
    spec: DataSpec,
    student: Network,
    teacher: Teacher,
    variants: Sequence[Variant],
    key: str,
) -> dict[str, SolvedStart]:
    """What rows say of ``--reconstruct`` -> the student solved for it, once for all cells and kept in the run."""
    found: dict[str, SolvedStart] = {}
    made: dict[Path, SolvedStart] = {}  # one network may have two names
    for said in dict.fromkeys(replace(config, **variant.options).reconstruct for variant in variants):
        if said:
            ancestor = ancestor_of(said, student, teacher)
            path = run / f"solved-{_digest([key, models.full_digest(ancestor), config.seed])}.pt"
            if path not in made:
                start = solve_start(config, spec, student, ancestor, said, path, keep=bool(config.resume))
                changed = models.full_digest(start.network) != models.full_digest(student)
                made[path] = replace(start, changed=changed)
            if not made[path].changed:
                log.info("--reconstruct %s changes nothing in this student: its rows are those without it", said)
            found[said] = made[path]
    return found


def _warn_of_others(run: Path, cells: Sequence[Cell]) -> None:
    """Say which trainings in the folder are not in the table: its correction for several modes knows of rows only."""
    own = {cell.folder for cell in cells}
    others = [path.parent for path in sorted(run.glob(f"*/seed*/{CELL}")) if path.parent not in own]
    finished = [folder for folder in others if read_json(folder / CELL).get("scores")]
    if finished:
        named = sorted({str(read_json(folder / CELL).get("modes")) for folder in finished})
        log.warning(
            "%d finished trainings in %s are of rows or seeds that were not asked for now, so they are not in "
            "the table: %s. Name all rows and seeds that were looked at: p is corrected for those only",
            len(finished),
            run,
            "; ".join(named),
        )


def _references(
    config: AblateConfig,
    run: Path,
    spec: DataSpec,
    student: Network,
    teacher: Teacher,
    key: str,
    starts: Mapping[str, SolvedStart],
) -> Any:
    """The first rows and the objects of each class, kept in the run; and a function from the start of a cell (None: the
    student as it is) to the full scores, which only cells to be trained need."""
    full: dict[str, Scores] = {}

    def known(start: SolvedStart | None = None) -> dict[str, Scores]:
        name = start.path.name if start else START
        if TEACHER not in full:
            full[TEACHER] = teacher_scores(teacher, spec, config)
        if name not in full:
            full[name] = scores(start.network if start else student, spec, config)
        return {"teacher": full[TEACHER], "start": full[name]}

    kept = read_json(run / REFERENCE)
    if kept.get("key") != key or OBJECTS not in kept:
        kept = {"key": key, TEACHER: _as_dicts(known()["teacher"]), START: _as_dicts(known()["start"])}
        kept[PICTURES] = checkpoints.pictures_of(spec)
        kept[OBJECTS] = {
            split: {name: row["boxes"] for name, row in score.per_class.items()}
            for split, score in full[TEACHER].items()
        }
        before = full[START]["val"].map50_95
        log.info("student on val, before the first step: mAP50-95 %.4f", before)
        announce_teacher(full[TEACHER], before)
    kept |= {
        start.path.name: _as_dicts(known(start)["start"]) for start in starts.values() if start.path.name not in kept
    }
    if distributed.is_main():
        write_json(run / REFERENCE, kept)
    rows = {name: kept[name] for name in (TEACHER, START, OBJECTS)}
    return rows | {f"{START}, reconstruct={said}": kept[start.path.name] for said, start in starts.items()}, known


def _as_dicts(found: Scores) -> dict[str, Any]:
    return {split: score.as_dict(classes=True) for split, score in found.items()}


def _train(cells: Sequence[Cell], config: AblateConfig) -> dict[Path, str]:
    """Train the cells; the folders of those that failed, with what was wrong."""
    failed: dict[Path, str] = {}
    results: Iterable[tuple[Cell, dict[str, Any] | UserError]]
    if config.executor == "ray" and config.device != "cpu":  # a worker sees only the GPU that Ray gave it, as number 0
        cells = [replace(cell, config=replace(cell.config, device="")) for cell in cells]
    if distributed.world() > 1:  # what stops one process has to stop all: the others would wait for it
        results = ((cell, attempt_cell(cell)) for cell in cells)
    else:
        results = run_all(attempt_cell, cells, config.executor, threads=config.threads, device=config.device)
    for number, (cell, result) in enumerate(results, start=1):
        if isinstance(result, UserError):
            failed[cell.folder] = str(result)
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
    measured = {wanted[variant.text]: variant for variant in reversed(variants)}  # those of one KD config once
    kept = read_json(run / COST)
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
                {variant.text: variant.kd for variant in measured.values() if variant.kd.modes()},
                first_batch(spec, config.input_size, batch, student.resize),
                config=config,
                device=device,
            )
    except Exception as error:
        log.warning("the costs of a step are missing in the table: %s: %s", type(error).__name__, first_line(error))
        return {}
    costs = {
        NONE if name == PLAIN else name: {"milliseconds": cost.milliseconds, "ratio": cost.to_plain, "batch": batch}
        for name, cost in found.items()
    }
    twins = {each.text: measured[wanted[each.text]].text if each.kd.modes() else NONE for each in variants}
    costs |= {name: costs[twin] for name, twin in twins.items() if twin in costs}
    write_json(run / COST, {"keys": wanted, "steps": costs})
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
