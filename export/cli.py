"""The `thinyolo` command: what comes before a training and after it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_cleanly
from common.files import whole_file
from common.log import show_log
from export.opening import class_names, input_size, network_options, open_chosen, warn_of_other_classes

if TYPE_CHECKING:
    from engine.evaluate import Score

DESCRIPTION = """\
ThinYOLO: give it a YOLO and a data set, get back a far thinner YOLO that detects as well, and the proof.

Training has its own two commands: train_prune.py (baseline, sparsity, pruning) and finetune_kd.py (the thin student
under its teacher). This one is for what comes before and after."""

EPILOG = """\
examples:
  thinyolo check --data mine.yaml
  thinyolo val --model runs/finetune_kd/exp/weights/best.pt --data bccd.yaml --split test
  thinyolo predict --model student.pt --source holiday/ --conf 0.4
  thinyolo predict --cfg yolov3-tiny --model yolov3-tiny.weights --source street.mp4
  thinyolo predict --compare fat.pt thin.pt --source holiday/
  thinyolo export --weights student.pt --to onnx,int8 --data mine.yaml
  thinyolo latency fat.pt thin.pt thin-int8.onnx
  thinyolo convert coco --help
  thinyolo report runs/train_prune/exp

Every command has its own --help. A mistake in what was typed ends with exit status 2 and says what to change."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the installed command; returns the exit status."""
    return run_cleanly(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    show_log()
    parser = make_parser()
    options = parser.parse_args(argv)
    if not hasattr(options, "run"):
        parser.print_help()
        return 0
    return options.run(options) or 0


def make_parser() -> argparse.ArgumentParser:
    """The parser with every sub-command; a parsed namespace's `run` is the function to call with it."""
    from data.convert import register as register_convert
    from export.command import COMMAND as EXPORT
    from reporting.latency_table import COMMAND as LATENCY

    parser = argparse.ArgumentParser(
        prog="thinyolo",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _register_check(commands)
    _register_val(commands)
    _register_predict(commands)
    EXPORT.register(commands)
    LATENCY.register(commands)
    register_convert(commands)
    _register_report(commands)
    return parser


def _run_options(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("run")
    run.add_argument("--project", default="runs", metavar="DIR", help="where runs are kept (default: runs)")
    run.add_argument("--name", default="exp", help="the run's folder; a number is added if it exists (default: exp)")
    run.add_argument("--exist-ok", action="store_true", help="write into the folder even if it exists")


def _register_check(commands: Any) -> None:
    parser = commands.add_parser(
        "check",
        help="look for wrong labels, damaged pictures and leaks in a data set",
        description="Read all labels and open every picture, as a training does before it starts. Problems are\n"
        "counted and named with file and line; errors, on which no training would start, end with status 2.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", required=True, metavar="FILE", help="the data set's yaml (or Darknet .data)")
    parser.add_argument("--split", choices=("train", "val", "test"), help="only this split (default: all there are)")
    parser.set_defaults(run=run_check)


def _register_val(commands: Any) -> None:
    parser = commands.add_parser(
        "val",
        help="score a network on a data set: mAP, curves, confusion matrix, pictures",
        description="Score a network of any format: COCO mAP 50:95, 50 and 75, per class and by object size, at\n"
        "confidence .001 and NMS IoU .6. Figures, prediction pictures and score.json go to runs/val/NAME.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    network_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="FILE", help="the data set's yaml (or Darknet .data)")
    data.add_argument("--split", default="val", choices=("train", "val", "test"), help="which pictures (default: val)")
    data.add_argument("--single-cls", action="store_true", help="all classes count as one")
    data.add_argument(
        "--batch-size", type=_at_least(1), default=16, metavar="N", help="pictures at a time (default: 16)"
    )
    data.add_argument(
        "--workers", type=_at_least(0), default=0, metavar="N", help="processes that read pictures (default: 0)"
    )
    data.add_argument("--no-plots", action="store_true", help="numbers only")
    _run_options(parser)
    parser.set_defaults(run=run_val)


def _register_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="detect in pictures, a folder or a video",
        description="Detect in pictures, a folder of them or a video, with a network of any format. Drawn pictures,\n"
        "predictions.json and YOLO txt files (labels/) go to runs/predict/NAME. With --compare the pictures hold what\n"
        "each network finds, side by side, and each has its own folder of labels.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    network_options(parser, many=True)
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="FILE",
        help="instead of --model: two or more networks with the same classes, side by side in one picture",
    )
    boxes = parser.add_argument_group("boxes")
    boxes.add_argument("--source", required=True, metavar="PATH", help="a picture, a video or a folder")
    boxes.add_argument(
        "--data",
        metavar="FILE",
        help="class names where the weights hold none (.weights): a data set's yaml, or a .names file, a name a line",
    )
    boxes.add_argument(
        "--conf",
        type=_share,
        default=0.25,
        metavar="P",
        help="least confidence: lower shows more boxes, and more wrong ones (default: 0.25)",
    )
    boxes.add_argument(
        "--iou",
        type=_share,
        default=0.45,
        metavar="P",
        help="overlap above which the weaker of two boxes is dropped (default: 0.45)",
    )
    boxes.add_argument(
        "--max-det", type=_at_least(1), default=300, metavar="N", help="most boxes a picture (default: 300)"
    )
    boxes.add_argument("--agnostic-nms", action="store_true", help="one box an object, even if two classes claim it")
    _run_options(parser)
    parser.set_defaults(run=run_predict)


def _register_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="where a run's report is, and its scores in short",
        description="Print the path of a run's report.html and the last rows of its results.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder: runs/train_prune/exp")
    parser.set_defaults(run=run_report)


def _at_least(least: int) -> Callable[[str], int]:
    """A whole number not below `least`, for argparse."""

    def number(text: str) -> int:
        value = int(text)  # argparse makes a message of the ValueError
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return value

    number.__name__ = "whole number"
    return number


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def run_check(options: argparse.Namespace) -> int:
    """`thinyolo check`."""
    from data import check

    report = check(options.data, [options.split] if options.split else None)
    report.announce()
    print(f"{report.spec.source}: no errors, {len(report.warnings)} warnings")
    return 0


def run_val(options: argparse.Namespace) -> int:
    """`thinyolo val`."""
    from common.rundir import make_run_dir
    from data import load_spec
    from engine.evaluate import evaluate

    spec = load_spec(options.data, single_cls=options.single_cls)
    net = open_chosen(options, options.model, spec.names if options.cfg else None)  # a cfg's heads follow the classes
    warn_of_other_classes(net, spec)
    size = input_size(options.imgsz, net)
    folder = make_run_dir(options.project, "val", options.name, exist_ok=options.exist_ok)
    score = evaluate(
        net,
        spec,
        split=options.split,
        size=size,
        batch_size=options.batch_size,
        workers=options.workers,
        plots_dir=None if options.no_plots else folder,
        progress=sys.stderr.isatty(),
    )
    record = {
        "weights": str(options.model),
        "data": str(options.data),
        "split": options.split,
        "size": list(size),
        "images": score.images,
        "boxes": score.boxes,
        "confidence": score.confidence,
        **score.as_dict(),
        "classes": score.per_class,
    }
    with whole_file(folder / "score.json") as temporary:
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    print(score_table(score))
    print(f"\nwritten to {folder}")
    return 0


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
        lines.append(f"without a box in this split, left out of the mean: {', '.join(without)}")
    sizes = ", ".join(f"{name} {value:.3f}" for name, value in score.by_size.items() if value is not None)
    lines += [
        "",
        f"{score.images} pictures; mAP75 {score.map75:.3f}; mAP50-95 by size: {sizes}",
        f"at confidence {score.confidence:.2f}: precision {score.precision:.3f}, recall {score.recall:.3f}, "
        f"F1 {score.f1:.3f}",
    ]
    return "\n".join(lines)


def run_predict(options: argparse.Namespace) -> int:
    """`thinyolo predict`."""
    from common.rundir import make_run_dir
    from reporting.predict import PredictOptions, find_sources, predict, predict_side_by_side
    from reporting.tables import short_names

    files = options.compare or [options.model]
    if bool(options.compare) == bool(options.model) or len(files) < 2 - bool(options.model):
        raise UserError("name one network by --model, or several by --compare", todo="--compare fat.pt thin.pt")
    find_sources(options.source)  # a wrong path is told before a network is loaded and a folder made
    names = class_names(options.data) if options.data else None
    captions = short_names(files)
    nets = {caption: open_chosen(options, file, names) for caption, file in zip(captions, files)}
    if len(nets) < len(files):
        raise UserError(f"--compare names {len(files)} files, but two are the same", todo="name different files")
    settings = {
        caption: PredictOptions(
            input_size(options.imgsz, net), options.conf, options.iou, options.max_det, options.agnostic_nms
        )
        for caption, net in nets.items()
    }
    first = next(iter(nets.values()))
    for caption, net in nets.items():
        if net.names != first.names:
            raise UserError(
                f"{caption} has other classes than {captions[0]}: {net.names[:10]}, {first.names[:10]}",
                todo="compare networks of one data set, or give its names by --data",
            )
    folder = make_run_dir(options.project, "predict", options.name, exist_ok=options.exist_ok)
    if options.model:
        found = {"": predict(first, options.source, folder, settings[captions[0]], progress=sys.stderr.isatty())}
    else:
        found = predict_side_by_side(nets, options.source, folder, settings, progress=sys.stderr.isatty())
    for caption, predictions in found.items():
        _tell_predictions(caption, predictions, first.names)
    print(f"written to {folder}")
    return 0


def _tell_predictions(caption: str, predictions: Sequence[Any], names: Sequence[str], most: int = 20) -> None:
    if caption:
        print(f"{caption}:")
    for each in predictions[:most]:
        frame = "" if each.frame is None else f" frame {each.frame}"
        print(f"{'  ' if caption else ''}{each.source}{frame}: {_found(each.boxes, names)}")
    if len(predictions) > most:
        print(f"... and {len(predictions) - most} more")


def _found(boxes: Any, names: Sequence[str]) -> str:
    counts: dict[str, int] = {}
    for label in boxes[:, 5].astype(int):
        counts[names[label]] = counts.get(names[label], 0) + 1
    shown = (f"{count} of class {name}" if name.isdigit() else f"{count} {name}" for name, count in counts.items())
    return ", ".join(shown) or "nothing"


def run_report(options: argparse.Namespace) -> int:
    """`thinyolo report`."""
    from engine.plots import read_results

    folder = Path(options.run_dir)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a run's folder", todo="for example runs/train_prune/exp")
    results, report = sorted(folder.rglob("results.csv")), folder / "report.html"
    if not results and not report.exists():
        raise UserError("holds neither a report.html nor a results.csv", where=folder, todo="name a run's folder")
    for path in results:
        columns = read_results(path)
        if columns:
            last = {name: values[-1] for name, values in columns.items() if "mAP" in name or name == "epoch"}
            print(f"{path}: " + ", ".join(f"{name} {value:.4g}" for name, value in last.items()))
    print(report if report.exists() else "no report.html yet: it is written when the run ends")
    return 0


if __name__ == "__main__":
    sys.exit(main())
