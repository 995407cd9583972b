"""`thinyolo val`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import data
import engine
import export
from common.command_line import Command
from common.files import whole_file
from common.options import option
from common.rundir import make_run_dir
from data.options import BATCH
from data.spec import SCORED, SPLITS
from export.options import NetworkOptions, network_file
from thinyolo.run_options import RunOptions

if TYPE_CHECKING:
    from engine.evaluate import Score

DATA = "data"
LISTED = 10
"""Classes without a box that are named; a network of COCO's may be scored on three."""


@dataclass
class ValOptions:
    """Which network is scored on what."""

    model: str = network_file(required=True)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    data: str = option("", "the data set's yaml (or Darknet .data)", group=DATA, metavar="FILE", required=True)
    split: str = option("val", "which pictures", group=DATA, choices=SPLITS)
    single_cls: bool = option(False, "all classes count as one", group=DATA)
    batch_size: int = option(BATCH, "pictures at a time", group=DATA, low=1, high=65_536)
    workers: int = option(0, "processes that read pictures", group=DATA, low=0, high=1024)
    max_det: int = option(
        0,
        "boxes of a class that are scored in a picture; 0: the data set's `max_det`, else 100 as in COCO",
        group=DATA,
        low=0,
        high=100_000,
    )
    rect: bool = option(
        False,
        "batches of pictures of like shape, without the grey around them: faster where few are square, and not the "
        "score of a training, whose pictures have grey edges",
        group=DATA,
    )
    plots: bool = option(True, "numbers only", group=DATA)
    run: RunOptions = field(default_factory=RunOptions)


def val(options: ValOptions) -> None:
    """Score the network, print the table, write figures and `score.json`."""
    from reporting.verdict import CHECK_INPUT, NOTHING

    spec = data.load_spec(options.data, single_cls=options.single_cls)
    if options.max_det:
        spec = replace(spec, max_det=options.max_det)
    # A cfg's heads follow the classes.
    net = export.open_chosen(options.network, options.model, spec.names if options.network.cfg else None)
    spec = export.in_classes_of(net, spec)
    size = export.input_size(options.network.imgsz, net)
    folder = make_run_dir(options.run.project, "val", options.run.name, exist_ok=options.run.exist_ok)
    score = engine.evaluate(
        net,
        spec,
        split=options.split,
        size=size,
        batch_size=options.batch_size,
        workers=options.workers,
        plots_dir=folder if options.plots else None,
        progress=sys.stderr.isatty(),
        rect=options.rect,
    )
    record = {
        "weights": str(options.model),
        "data": str(options.data),
        "split": options.split,
        "size": list(size),
        "images": score.images,
        "boxes": score.boxes,
        "max_det": score.scored,
        "rect": options.rect,
        "confidence": score.confidence,
        **score.as_dict(),
        "classes": score.per_class,
    }
    with whole_file(folder / "score.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    height, width = size
    print(f"{options.model} on {options.split} of {options.data}: {score.images} pictures at {width}x{height}")
    print(score_table(score))
    if score.map50 < NOTHING:
        print(f"it detects nothing here ({CHECK_INPUT})")
    print(f"\nwritten to {folder}")


def score_table(score: Score) -> str:
    """A score for the terminal: all classes, then each, then by size."""
    width = max(12, *(len(name) for name in score.per_class))
    lines = [f"{'class':<{width}}  {'boxes':>7}  {'mAP50':>7}  {'mAP50-95':>8}", "-" * (width + 28)]
    lines.append(f"{'all':<{width}}  {score.boxes:>7}  {score.map50:>7.3f}  {score.map50_95:>8.3f}")
    for name, row in score.per_class.items():
        if row["ap50"] is not None:
            lines.append(f"{name:<{width}}  {row['boxes']:>7}  {row['ap50']:>7.3f}  {row['ap50_95']:>8.3f}")
    without = [name for name, row in score.per_class.items() if row["ap50"] is None]
    if without:
        shown = ", ".join(without[:LISTED]) + (f" and {len(without) - LISTED} more" if len(without) > LISTED else "")
        lines.append(f"without a box in this split, left out of the mean: {shown}")
    sizes = ", ".join(f"{name} {value:.3f}" for name, value in score.by_size.items() if value is not None)
    lines += [
        "",
        f"{score.images} pictures; mAP75 {score.map75:.3f}; mAP50-95 by size: {sizes}",
        f"at confidence {score.confidence:.2f}: precision {score.precision:.3f}, recall {score.recall:.3f}, "
        f"F1 {score.f1:.3f}",
    ]
    if score.crowded or score.scored != SCORED:
        more = f"; {score.crowded} pictures have more: mAP stays low (--max-det)" if score.crowded else ""
        lines.append(f"scored: the {score.scored} most confident boxes of a class in a picture{more}")
    return "\n".join(lines)


VAL = Command(
    "val",
    "score a network on a data set: mAP, curves, confusion matrix, pictures",
    ValOptions,
    lambda: val,
    description="""\
Score a network of any format: COCO mAP 50:95, 50 and 75, per class and by object size, at
confidence .001 and NMS IoU .6. Figures, prediction pictures and score.json go to runs/val/NAME.""",
)
