"""Footage of a run: gathered once into its folder, looked at by the teacher once, and told of before the training."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from common.errors import UserError
from common.files import read_json, whole_file, write_json
from common.log import log
from common.reading import read_bytes
from data import Dataset, DataSpec, make_loader
from data.batch import Batch
from data.footage import UNLABELLED, Footage, find_footage, scan_footage, without_copies
from data.labels import Scan
from data.options import BATCH
from data.remembered import stamps_of
from data.spec import pictures_at
from distill import Teacher
from distill.modes import MODES
from engine import distributed
from engine.evaluate import KEPT, NMS_IOU
from engine.postprocess import postprocess, to_original
from engine.seams import Hooks
from models.heads import spec_read
from models.resize import LETTERBOX
from pipeline.distil_options import LABELS, DistilConfig

RECORD = "asked-{}.json"
"""What was asked for, and the list it became; several may share a folder."""
LOOKED_AT = 512
"""So many pictures tell how sure the teacher is of the footage; they are evenly spaced over it."""
SURE = 0.25
"""A confidence below this counts as nothing seen."""
MOSTLY = 0.5

Distil = TypeVar("Distil", bound=DistilConfig)


def check_footage(config: DistilConfig) -> None:
    """Refuse footage from which nothing would be learnt.

    Raises:
        UserError: no part of the chosen modes can do without labels.
    """
    if config.unlabelled and not uses_footage(config):
        able = ",".join(name for name, mode in MODES.items() if not mode.needs_truth)
        raise UserError(
            f"--unlabelled with --kd {config.distil.kd}: nothing would be learnt from pictures without labels",
            todo=f"choose a mode that does without labels ({able}), or --unlabelled-as labels",
        )


def uses_footage(config: DistilConfig) -> bool:
    """Whether there is footage, and anything would be learnt from it."""
    able = any(weight > 0 and not MODES[name].needs_truth for name, weight in config.distil.modes().items())
    return bool(config.unlabelled) and (able or config.unlabelled_as == LABELS)


def gathered(config: Distil, spec: DataSpec, run: Path) -> Distil:
    """`config` with a list file in the folder `run` in the place of all that ``--unlabelled`` names.

    Videos are decoded on the way, pictures of the training split left out. A resumed run finds its list, whatever has
    become of the folders since; a list that was gathered before, by the run a stage belongs to, stays.

    Raises:
        UserError: see `find_footage` and `without_copies`; or no picture can be read.
    """
    if not config.unlabelled or _is_gathered(config.unlabelled, run):
        return config
    listing = distributed.broadcast(_gather(config, spec, run / UNLABELLED) if distributed.is_main() else None)
    return replace(config, unlabelled=(str(listing),))


def _is_gathered(entries: Sequence[str], run: Path) -> bool:
    """Whether this is the list of `run`, or of the run it is a stage of: another run's may hold what is val here."""
    if len(entries) != 1 or not Path(entries[0]).is_file():
        return False
    folder = Path(entries[0]).resolve().parent
    return run.resolve().is_relative_to(folder.parent) and any(folder.glob(RECORD.format("*")))


def _gather(config: DistilConfig, spec: DataSpec, folder: Path) -> Path:
    asked = {"unlabelled": list(config.unlabelled), "every": config.unlabelled_every}
    record = folder / RECORD.format(_digest(json.dumps(asked)))
    if config.resume and record.is_file():
        return folder / read_json(record)["list"]
    pictures = find_footage(config.unlabelled, folder, config.unlabelled_every)
    pictures, known = without_copies(scan_footage(pictures, spec.pixel_range).pictures, spec)
    if known:
        log.info("--unlabelled: %d pictures are left out: they are in the training split, with labels", known)
    here = folder.absolute()
    lines = [f"./{path.relative_to(here).as_posix()}" if path.is_relative_to(here) else str(path) for path in pictures]
    text = "".join(f"{line}\n" for line in lines)
    # Named after what is in it, so that whatever is told apart by its options is told apart by its pictures.
    listing = folder / f"pictures-{_digest(text)}.txt"
    with whole_file(listing) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_json(record, {**asked, "list": listing.name})
    return listing


@dataclass(frozen=True)
class FootageFacts:
    """What is to be known of the footage of a fine-tune.

    Attributes:
        pictures: how many.
        labelled: how many pictures with labels they go beside.
        looked_at: on how many of them the teacher was asked beforehand.
        confidence: the mean over those of the teacher's best confidence.
        empty: the share of those on which the teacher sees nothing above `SURE`.
        threshold, boxes: where its detections stand for labels: those above which confidence, and how many.
    """

    pictures: int
    labelled: int
    looked_at: int
    confidence: float
    empty: float
    threshold: float | None = None
    boxes: int | None = None

    def __str__(self) -> str:
        part = "" if self.looked_at == self.pictures else f" ({self.looked_at} of them were looked at)"
        text = (
            f"{self.pictures} pictures without labels beside {self.labelled} with labels. On those without, the "
            f"teacher's best confidence is {self.confidence:.2f} on average, and on {self.empty:.0%} it sees nothing "
            f"above {SURE:g}{part}"
        )
        if self.threshold is None:
            return text
        return f"{text}; its {self.boxes} detections above {self.threshold:.3f} stand for labels"

    @property
    def note(self) -> str:
        """The same for a row of a table."""
        return f"also on {self.pictures} pictures without labels; the teacher sees nothing on {self.empty:.0%} of them"

    def announce(self) -> None:
        log.info("%s", self)
        if self.empty > MOSTLY:
            log.warning(
                "the teacher sees nothing above %g on %.0f %% of the pictures without labels: little is on them, "
                "or it does not know what is: then it has little to say of them",
                SURE,
                100 * self.empty,
            )


class FootageColumns(Hooks):
    """``unlabelled/...`` in every row of `results.csv`: what was found before the first step."""

    def __init__(self, facts: FootageFacts):
        self.columns = {f"{UNLABELLED}/{name}": float(v) for name, v in asdict(facts).items() if v is not None}

    def after_epoch(self, metrics: dict[str, float]) -> dict[str, float]:
        return self.columns


def unlabelled_batches(config: DistilConfig, spec: DataSpec, pictures: int, resize: str) -> list[Batch]:
    """About so many of the gathered pictures as they are, drawn with ``--seed``; no batch is smaller than the others.

    For what needs pictures and no labels, such as solving a cut; `resize` is the network's.
    """
    dataset = Dataset(spec, UNLABELLED, config.input_size, found=_gathered_scan(config, spec), resize=resize)
    size = min(BATCH, len(dataset))
    loader = make_loader(dataset, size, seed=config.seed, workers=config.workers, drop_last=True)
    return list(itertools.islice(loader, max(1, pictures // size)))


def _gathered_scan(config: DistilConfig, spec: DataSpec) -> Scan:
    (listing,) = map(Path, config.unlabelled)
    return scan_footage(pictures_at(listing, []), spec.pixel_range)


def footage_of(
    config: DistilConfig, spec: DataSpec, teacher: Teacher, threshold: float
) -> tuple[Footage, FootageFacts]:
    """The gathered pictures as the trainer takes them, and what the teacher makes of them.

    The teacher is asked once: its answers are kept beside the list, so that a resumed run, or the next cell of a
    comparison, has the same ones. Where pictures have gone or are others since, it is asked anew.

    Args:
        threshold: the confidence from which a detection may stand for a label.
    """
    scan = _gathered_scan(config, spec)
    as_labels = config.unlabelled_as == LABELS
    chosen = np.arange(len(scan.pictures))
    if not as_labels and len(chosen) > LOOKED_AT:
        chosen = np.linspace(0, len(chosen) - 1, LOOKED_AT).round().astype(int)
    listing = Path(config.unlabelled[0])
    stamps = stamps_of(scan.pictures)[:, :2].tolist()  # size and time of change
    pictures = _digest(json.dumps([[path.name for path in scan.pictures], stamps]))
    identity: list[Any] = [
        listing.name,
        pictures,
        teacher.full_digest,
        *config.input_size,
        threshold if as_labels else None,
    ]
    identity += [] if teacher.resize == LETTERBOX else [teacher.resize]
    identity += [list(spec.pixel_range)] if spec.pixel_range else []
    kept = listing.with_name(f"teacher-{_digest(json.dumps(identity))}.npz")
    if distributed.is_main() and _answers(kept) is None:
        best, boxes = _look(teacher, _part(scan, chosen), spec, config, threshold)
        with whole_file(kept) as temporary, open(temporary, "wb") as handle:
            np.savez(handle, best=best, boxes=boxes)
    distributed.barrier()
    answers = _answers(kept)
    assert answers is not None, f"{kept} was just written"
    best, boxes = answers
    if as_labels:
        scan.labels = [boxes[boxes[:, 0] == number, 1:] for number in range(len(scan.pictures))]
    facts = FootageFacts(
        pictures=len(scan.pictures),
        labelled=len(spec.require("train")),
        looked_at=len(chosen),
        confidence=float(best.mean()),
        empty=float((best <= SURE).mean()),
        threshold=threshold if as_labels else None,
        boxes=len(boxes) if as_labels else None,
    )
    return Footage(scan, config.unlabelled_ratio, as_labels), facts


def _answers(kept: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """What a teacher answered, the most confident box of each picture and all boxes; None: there is no whole file."""
    try:
        with np.load(io.BytesIO(read_bytes(kept)), allow_pickle=False) as answers:
            return answers["best"], answers["boxes"]
    except Exception:  # NumPy raises whatever a damaged file makes it stumble over; it is made again
        return None


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()[:8]


def _part(scan: Scan, chosen: np.ndarray) -> Scan:
    return Scan(
        scan.split,
        [scan.pictures[number] for number in chosen],
        scan.shapes[chosen],
        [scan.labels[number] for number in chosen],
        [],
    )


@torch.no_grad()
def _look(
    teacher: Teacher, scan: Scan, spec: DataSpec, config: DistilConfig, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's best confidence on each of the N pictures ``(N,)``, and its boxes from `threshold` on ``(T, 6)``.

    A row is the picture's number, class, cx, cy, w, h as shares of the picture.
    """
    device = distributed.start(config.device)
    dataset = Dataset(spec, UNLABELLED, config.input_size, found=scan, resize=teacher.resize)
    log.info("the teacher looks at %d pictures without labels", len(dataset))
    best: list[float] = []
    rows: list[np.ndarray] = []
    network: Any = teacher.network.to(device)
    for batch in make_loader(dataset, BATCH, workers=config.workers, shuffle=False):
        decoded = network.decode(network(batch.prepared(device).images))
        best += spec_read(network.specs).best_confidence(decoded).amax(dim=-1).tolist()
        answers = postprocess(decoded, spec_read(network.specs), threshold, NMS_IOU, KEPT, multi_label=False)
        for number, found, letterbox in zip(batch.indices.tolist(), answers, batch.letterboxes, strict=True):
            rows.append(_as_labels(number, to_original(found, letterbox).cpu().numpy(), letterbox.original))
    return np.array(best), np.concatenate(rows)


def _as_labels(number: int, found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Detections ``(n, 6)`` in a picture of `size` (h, w) as rows ``(n, 6)``: `number`, then those of a label file."""
    x1, y1, x2, y2, _, label = found.T
    width, height = x2 - x1, y2 - y1
    sides = np.array(size[::-1])
    boxes = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, width, height], axis=1) / np.tile(sides, 2)
    rows = np.column_stack([np.full(len(found), number), label, boxes]).astype(np.float32)
    return rows[np.minimum(width, height) >= 1]
