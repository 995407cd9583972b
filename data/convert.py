"""``thinyolo convert voc|coco|hand``: annotations of other programs become the usual layout.

One function a format, for scripts: `voc_to_yolo`, `coco_to_yolo`, `hand_to_yolo`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, run_cleanly
from common.log import log, show_log
from data.convert_coco import coco_to_yolo
from data.convert_hand import hand_to_yolo
from data.convert_voc import voc_to_yolo
from data.convert_writer import Converted, read_names
from data.spec import SPLITS

__all__ = ["Converted", "add_arguments", "coco_to_yolo", "hand_to_yolo", "main", "register", "run", "voc_to_yolo"]

DESCRIPTION = """\
Write a data set in the usual layout from annotations of another format:

    OUT/data.yaml
    OUT/images/{train,val,test}/NAME.jpg
    OUT/labels/{train,val,test}/NAME.txt      class cx cy w h, as shares of the picture

What cannot be converted is left out, counted, and named with its file and line or object."""

EXAMPLES = """\
examples:
  thinyolo convert voc VOC/Annotations --images VOC/JPEGImages --splits VOC/ImageSets/Main --out sets/voc
  thinyolo convert voc labels_xml --images photos --shares 80 10 10 --names cat,dog --out sets/pets
  thinyolo convert coco annotations/instances_train2017.json annotations/instances_val2017.json \\
                   --images coco --out sets/coco --link
  thinyolo convert coco train=a.json val=b.json --images photos --names names.txt --out sets/mine
  thinyolo convert hand hand_dataset --out sets/hand"""


def register(subparsers: Any) -> None:
    """Add the command ``convert`` to a parser's sub-commands; its `run` is in the parsed arguments."""
    parser = subparsers.add_parser(
        "convert",
        help="annotations of VOC, COCO or Oxford Hand become a YOLO data set",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The three formats and their options."""
    formats = parser.add_subparsers(dest="format", metavar="{voc,coco,hand}", required=True)
    voc = formats.add_parser("voc", help="Pascal VOC: a folder of XML files")
    voc.add_argument("annotations", type=Path, help="folder of the XML files")
    voc.add_argument(
        "--splits", type=Path, metavar="DIR", help="folder of train.txt, val.txt, test.txt (VOC's ImageSets/Main)"
    )
    voc.add_argument("--skip-difficult", action="store_true", help="leave out objects marked as difficult")
    voc.add_argument(
        "--one-based",
        action="store_true",
        help="pixels are counted from 1, as in VOC's own releases (most tools' XML counts from 0)",
    )
    coco = formats.add_parser("coco", help="COCO: JSON files of instances")
    coco.add_argument(
        "annotations",
        nargs="+",
        metavar="[SPLIT=]FILE",
        help="the JSON files; without SPLIT= the file's name tells it (instances_val2017.json)",
    )
    coco.add_argument("--keep-crowd", action="store_true", help="convert boxes around crowds too (left out by default)")
    hand = formats.add_parser("hand", help="Oxford Hand: a folder of .mat files (needs scipy)")
    hand.add_argument("annotations", type=Path, help="the unpacked data set, or any folder of its .mat files")
    for kind in (voc, coco, hand):
        kind.formatter_class = argparse.RawDescriptionHelpFormatter
        kind.epilog = "\n".join(["examples:", *_examples(kind.prog.split()[-1])])
        kind.add_argument(
            "--images",
            type=Path,
            required=kind is not hand,
            metavar="DIR",
            help="folder of the pictures, sub-folders included"
            + (" (default: that of the annotations)" if kind is hand else ""),
        )
        kind.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new data set's folder")
        kind.add_argument(
            "--names",
            metavar="LIST",
            help="the classes in their order: cat,dog, a text file with one a line, or a data.yaml "
            "(default: all that occur)",
        )
        kind.add_argument(
            "--shares",
            type=float,
            nargs=3,
            metavar=("TRAIN", "VAL", "TEST"),
            help="divide the pictures in these parts, by their names (e.g. 80 10 10)",
        )
        if kind is not hand:
            kind.add_argument("--only-named", action="store_true", help="leave out objects of classes not in --names")
        kind.add_argument("--link", action="store_true", help="symbolic links to the pictures instead of copies")
        kind.add_argument("--force", action="store_true", help="replace an earlier conversion in --out")
    parser.set_defaults(run=run)


def _examples(kind: str) -> list[str]:
    """The lines of `EXAMPLES` that show `kind`, continuation lines included."""
    shown, mine = [], False
    for line in EXAMPLES.splitlines()[1:]:
        mine = f"convert {kind} " in line or (mine and "thinyolo" not in line)
        shown += [line] if mine else []
    return shown


def run(arguments: argparse.Namespace) -> int:
    """Do what the command line says; returns the exit status."""
    common: dict[str, Any] = {"names": read_names(arguments.names), "link": arguments.link, "force": arguments.force}
    shares = tuple(arguments.shares) if arguments.shares else None
    if shares and (min(shares) < 0 or sum(shares) <= 0):
        raise UserError(f"--shares {' '.join(map(str, shares))} cannot divide anything", todo="write e.g. 80 10 10")
    if arguments.format == "voc":
        if shares and arguments.splits:
            raise UserError("--splits and --shares contradict each other", todo="give one of them")
        done = voc_to_yolo(
            arguments.annotations,
            arguments.images,
            arguments.out,
            splits=arguments.splits or shares,
            skip_difficult=arguments.skip_difficult,
            one_based=arguments.one_based,
            only_named=arguments.only_named,
            **common,
        )
    elif arguments.format == "coco":
        done = coco_to_yolo(
            _coco_files(arguments.annotations),
            arguments.images,
            arguments.out,
            splits=shares,
            keep_crowd=arguments.keep_crowd,
            only_named=arguments.only_named,
            **common,
        )
    else:
        done = hand_to_yolo(arguments.annotations, arguments.images, arguments.out, splits=shares, **common)
    log.info("%s: %d classes. Train on it with --data %s", done.data_yaml, len(done.names), done.data_yaml)
    return 0


def _coco_files(texts: Sequence[str]) -> dict[str, Path] | list[Path]:
    """``[SPLIT=]FILE`` arguments: all of them with a split, or none."""
    pairs = [text.split("=", 1) for text in texts if text.split("=", 1)[0] in SPLITS and "=" in text]
    if not pairs:
        return [Path(text) for text in texts]
    if len(pairs) != len(texts) or len({split for split, _ in pairs}) != len(pairs):
        raise UserError(
            f"write SPLIT= before every file or before none, each split once: {' '.join(texts)}",
            todo="e.g. train=a.json val=b.json",
        )
    return {split: Path(file) for split, file in pairs}


def main(argv: Sequence[str] | None = None) -> int:
    """The command by itself: ``python -m data.convert voc ...``."""
    parser = argparse.ArgumentParser(
        "thinyolo convert",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    show_log()
    return run_cleanly(lambda: run(arguments))


if __name__ == "__main__":
    raise SystemExit(main())
