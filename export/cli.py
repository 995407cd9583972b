"""The `thinyolo` command: check a data set, score a network, detect with it, convert annotations, read a report."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError, run_cleanly
from common.files import whole_file
from common.log import log, show_log

if TYPE_CHECKING:
    from engine.evaluate import Score
    from models.network import Network

DESCRIPTION = """\
ThinYOLO: give it a YOLO and a data set, get back a far thinner YOLO that detects as well, and the proof.

Training has its own two commands: train_prune.py (baseline, sparsity, pruning) and finetune_kd.py (the thin student
under its teacher). This one is for what comes before and after."""

EPILOG = """\
examples:
  thinyolo check --data mine.yaml
  thinyolo val --weights runs/finetune_kd/exp/weights/best.pt --data bccd.yaml --split test
  thinyolo predict --weights student.pt --source holiday/ --conf 0.4
  thinyolo predict --cfg yolov3-tiny --weights yolov3-tiny.weights --source street.mp4
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
    register_convert(commands)
    _register_report(commands)
    return parser


def _network_options(parser: argparse.ArgumentParser) -> None:
    network = parser.add_argument_group("network")
    network.add_argument(
        "--weights",
        required=True,
        metavar="FILE",
        help="a .pt of ThinYOLO or YOLOv5, or Darknet .weights (with --cfg)",
    )
    network.add_argument(
        "--cfg", metavar="FILE", help="the cfg, where --weights holds none (.weights), or a name: yolov3-tiny"
    )
    network.add_argument(
        "--imgsz",
        default="",
        metavar="SIZE",
        help="network input, 416 or WIDTHxHEIGHT such as 1280x800 (default: the size it was trained for)",
    )
    network.add_argument("--device", default="", metavar="D", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
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
        description="Score a network: COCO mAP 50:95, 50 and 75, per class and by object size, at confidence .001 and\n"
        "NMS IoU .6. Figures, prediction pictures and score.json go to runs/val/NAME.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _network_options(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="FILE", help="the data set's yaml (or Darknet .data)")
    data.add_argument("--split", default="val", choices=("train", "val", "test"), help="which pictures (default: val)")
    data.add_argument("--single-cls", action="store_true", help="all classes count as one")
    data.add_argument("--batch-size", type=int, default=16, metavar="N", help="pictures at a time (default: 16)")
    data.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (default: 0)")
    data.add_argument("--no-plots", action="store_true", help="numbers only")
    parser.set_defaults(run=run_val)


def _register_predict(commands: Any) -> None:
    parser = commands.add_parser(
        "predict",
        help="detect in pictures, a folder or a video",
        description="Detect in pictures, a folder of them or a video. Drawn pictures, predictions.json and YOLO txt\n"
        "files (labels/) go to runs/predict/NAME.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _network_options(parser)
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
    boxes.add_argument("--max-det", type=int, default=300, metavar="N", help="most boxes a picture (default: 300)")
    boxes.add_argument("--agnostic-nms", action="store_true", help="one box an object, even if two classes claim it")
    parser.set_defaults(run=run_predict)


def _register_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="where a run's report is, and its scores in short",
        description="Print the path of a run's report.html and the last rows of its results.",
    )
    parser.add_argument("run_dir", metavar="RUN", help="a run's folder: runs/train_prune/exp")
    parser.set_defaults(run=run_report)


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def load_network(options: argparse.Namespace, names: Sequence[str] | None = None) -> Network:
    """The network `--weights`, `--cfg` and `--device` name, in eval mode; `names` replace its class names.

    Raises:
        UserError: a file is absent, or does not fill the whole network: its untrained part would say anything.
    """
    import torch

    import models

    weights = Path(options.weights)
    if not weights.is_file():
        raise UserError(f"--weights {weights} does not exist", todo="give a trained network's .pt or .weights file")
    if weights.suffix == ".weights" and not options.cfg:
        raise UserError(f"{weights} holds tensors but no structure", todo="add --cfg with its cfg file")
    net = models.load(options.cfg, weights=weights, names=names) if options.cfg else models.load(weights)
    if (report := net.load_report) is not None and (report.missing or report.unfit):
        gaps = [*report.missing, *report.unfit]
        problem = f"does not fill {options.cfg}: {len(gaps)} tensors lack or do not fit, the first is {gaps[0]}"
        raise UserError(problem, where=weights, todo="give the cfg it was trained with, and by --data its classes")
    if names is not None:
        if len(names) != net.classes:
            problem = f"has {len(names)} class names, the network {net.classes} classes"
            raise UserError(problem, where=options.data, todo="give the data set the network was trained on")
        net.names = list(names)
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if name.isdigit() else name)
        net.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}", todo="cpu, cuda or cuda:0") from error
    return net.eval()


def class_names(path: str) -> list[str]:
    """The class names of a data set's yaml or Darknet `.data`, or of a `.names` file."""
    from data import load_spec

    if Path(path).suffix not in (".names", ".txt"):
        return list(load_spec(path).names)
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read class names: {error}", where=path) from error
    return [line.strip() for line in lines if line.strip()]


def input_size(options: argparse.Namespace, net: Network) -> tuple[int, int]:
    """(H, W) from `--imgsz`, rounded up to the network's largest stride, or the cfg's."""
    from engine.config import parse_size

    if not options.imgsz:
        return net.image_size
    height, width = parse_size(options.imgsz)
    stride = net.max_stride
    size = -(-height // stride) * stride, -(-width // stride) * stride
    if size != (height, width):
        log.info("--imgsz %sx%s is rounded up to %sx%s, multiples of %s", width, height, size[1], size[0], stride)
    return size


def run_check(options: argparse.Namespace) -> int:
    """`thinyolo check`."""
    from data import check

    report = check(options.data, [options.split] if options.split else None)
    report.announce()
    print(f"{report.spec.source}: no errors, {len(report.warnings)} warnings")
    return 0


def run_val(options: argparse.Namespace) -> int:
    """`thinyolo val`."""
    from data import load_spec
    from engine.evaluate import evaluate
    from engine.rundir import make_run_dir

    spec = load_spec(options.data, single_cls=options.single_cls)
    net = load_network(options, spec.names if options.cfg else None)  # a cfg's heads follow the classes
    size = input_size(options, net)
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
        "weights": str(options.weights),
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
    from engine.rundir import make_run_dir
    from export.predict import PredictOptions, find_sources, predict

    find_sources(options.source)  # a wrong path is told before a network is loaded and a folder made
    net = load_network(options, class_names(options.data) if options.data else None)
    settings = PredictOptions(
        input_size(options, net), options.conf, options.iou, options.max_det, options.agnostic_nms
    )
    folder = make_run_dir(options.project, "predict", options.name, exist_ok=options.exist_ok)
    predictions = predict(net, options.source, folder, settings, progress=sys.stderr.isatty())
    for each in predictions[:20]:
        frame = "" if each.frame is None else f" frame {each.frame}"
        print(f"{each.source}{frame}: {_found(each.boxes, net.names)}")
    if len(predictions) > 20:
        print(f"... and {len(predictions) - 20} more")
    print(f"written to {folder}")
    return 0


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
