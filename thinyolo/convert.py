"""`thinyolo convert voc|coco|hand|yolo`: annotations of other programs become the usual layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command_line import Command
from common.errors import UserError
from common.log import log
from common.options import option
from common.reading import user_path
from data.spec import SPLITS

if TYPE_CHECKING:
    from data.convert import Converted

ANNOTATIONS, SET = "annotations", "the new data set"

DESCRIPTION = """\
Write a data set in the usual layout from annotations of another format:

    OUT/data.yaml
    OUT/images/{train,val,test}/NAME.jpg
    OUT/labels/{train,val,test}/NAME.txt      class cx cy w h, as shares of the picture

What cannot be converted is left out, counted, and named with its file and line or object."""


@dataclass
class ConvertOptions:
    """What is asked of the new data set, whatever it is made of."""

    out: str = option("", "the new data set's folder", group=SET, required=True, metavar="DIR")
    names: str | None = option(
        None,
        "the classes in their order: cat,dog, a text file with one a line, or a data.yaml; without: all that occur",
        group=SET,
        metavar="LIST",
    )
    shares: tuple[float, float, float] | None = option(
        None,
        "divide the pictures in these parts, by their names (e.g. 80 10 10)",
        group=SET,
        nargs=3,
        metavar="TRAIN VAL TEST",
        low=0,
        high=1e9,
    )
    link: bool = option(False, "symbolic links to the pictures instead of copies", group=SET)
    force: bool = option(False, "replace an earlier conversion in --out", group=SET)

    def __post_init__(self) -> None:
        if self.shares and not (min(self.shares) >= 0 and 0 < sum(self.shares) < math.inf):
            shares = " ".join(map(str, self.shares))
            raise UserError(f"--shares {shares} cannot divide anything", todo="write e.g. 80 10 10")

    def arguments(self) -> dict[str, Any]:
        """Of every converter."""
        from data.convert import read_names

        return {"out": user_path(self.out), "names": read_names(self.names), "link": self.link, "force": self.force}


def _images(default: str = "") -> Any:
    text = "folder of the pictures, sub-folders included" + (f"; without: {default}" if default else "")
    return option("", text, group=ANNOTATIONS, required=not default, metavar="DIR")


def _only_named() -> Any:
    return option(False, "leave out objects of classes not in --names", group=ANNOTATIONS)


def _as_written() -> Any:
    text = "take the numbers for what the format says, though all together they look like something else"
    return option(False, text, group=ANNOTATIONS)


@dataclass
class VocOptions:
    """Pascal VOC."""

    annotations: str = option("", "folder of the XML files", group=ANNOTATIONS, positional=True, required=True)
    images: str = _images()
    splits: str = option(
        "", "folder of train.txt, val.txt, test.txt (VOC's ImageSets/Main)", group=ANNOTATIONS, metavar="DIR"
    )
    skip_difficult: bool = option(False, "leave out objects marked as difficult", group=ANNOTATIONS)
    one_based: bool = option(
        False,
        "pixels are counted from 1, as in VOC's own releases (most tools' XML counts from 0)",
        group=ANNOTATIONS,
    )
    only_named: bool = _only_named()
    as_written: bool = _as_written()
    to: ConvertOptions = field(default_factory=ConvertOptions)

    def __post_init__(self) -> None:
        if self.to.shares and self.splits:
            raise UserError("--splits and --shares contradict each other", todo="give one of them")


@dataclass
class CocoOptions:
    """COCO."""

    annotations: tuple[str, ...] = option(
        (),
        "the JSON files; without SPLIT= the file's name tells it (instances_val2017.json)",
        group=ANNOTATIONS,
        positional=True,
        required=True,
        metavar="[SPLIT=]FILE",
    )
    images: str = _images()
    keep_crowd: bool = option(False, "convert boxes around crowds too (left out by default)", group=ANNOTATIONS)
    only_named: bool = _only_named()
    as_written: bool = _as_written()
    to: ConvertOptions = field(default_factory=ConvertOptions)


@dataclass
class HandOptions:
    """Oxford Hand."""

    annotations: str = option(
        "", "the unpacked data set, or any folder of its .mat files", group=ANNOTATIONS, positional=True, required=True
    )
    images: str = _images("that of the annotations")
    to: ConvertOptions = field(default_factory=ConvertOptions)


@dataclass
class YoloOptions:
    """YOLO labels without parts."""

    folder: str = option(
        "",
        "folder of pictures and labels: images and labels in it, or both in one folder",
        group=ANNOTATIONS,
        positional=True,
        required=True,
    )
    to: ConvertOptions = field(default_factory=ConvertOptions)


def convert_voc(options: VocOptions) -> None:
    """A folder of XML files."""
    from data.convert import voc_to_yolo

    done = voc_to_yolo(
        user_path(options.annotations),
        user_path(options.images),
        splits=user_path(options.splits) if options.splits else options.to.shares,
        skip_difficult=options.skip_difficult,
        one_based=options.one_based,
        only_named=options.only_named,
        as_written=options.as_written,
        **options.to.arguments(),
    )
    _tell(done)


def convert_coco(options: CocoOptions) -> None:
    """JSON files of instances."""
    from data.convert import coco_to_yolo

    done = coco_to_yolo(
        _coco_files(options.annotations),
        user_path(options.images),
        splits=options.to.shares,
        keep_crowd=options.keep_crowd,
        only_named=options.only_named,
        as_written=options.as_written,
        **options.to.arguments(),
    )
    _tell(done)


def convert_hand(options: HandOptions) -> None:
    """A folder of .mat files."""
    from data.convert import hand_to_yolo

    images = user_path(options.images) if options.images else None
    _tell(hand_to_yolo(user_path(options.annotations), images, splits=options.to.shares, **options.to.arguments()))


def convert_yolo(options: YoloOptions) -> None:
    """A folder of pictures and YOLO labels."""
    from data.convert import yolo_to_yolo

    _tell(yolo_to_yolo(user_path(options.folder), splits=options.to.shares, **options.to.arguments()))


def _tell(done: Converted) -> None:
    log.info("%s: %d classes. Train on it with --data %s", done.data_yaml, len(done.names), done.data_yaml)


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
    return {split: user_path(file) for split, file in pairs}


VOC = Command(
    "convert voc",
    "annotations of Pascal VOC, a folder of XML files, become a YOLO data set",
    VocOptions,
    lambda: convert_voc,
    description=DESCRIPTION,
    epilog="""\
examples:
  %(prog)s VOC/Annotations --images VOC/JPEGImages --splits VOC/ImageSets/Main --out sets/voc
  %(prog)s labels_xml --images photos --shares 80 10 10 --names cat,dog --out sets/pets""",
)
COCO = Command(
    "convert coco",
    "annotations of COCO, JSON files of instances, become one",
    CocoOptions,
    lambda: convert_coco,
    description=DESCRIPTION,
    epilog="""\
examples:
  %(prog)s annotations/instances_train2017.json annotations/instances_val2017.json \\
                   --images coco --out sets/coco --link
  %(prog)s train=a.json val=b.json --images photos --names names.txt --out sets/mine""",
)
HAND = Command(
    "convert hand",
    "annotations of Oxford Hand, a folder of .mat files (needs scipy), become one",
    HandOptions,
    lambda: convert_hand,
    description=DESCRIPTION,
    epilog="""\
examples:
  %(prog)s hand_dataset --out sets/hand""",
)
YOLO = Command(
    "convert yolo",
    "a folder of pictures and YOLO labels is divided in train, val and test",
    YoloOptions,
    lambda: convert_yolo,
    description=DESCRIPTION,
    epilog="""\
examples:
  %(prog)s export_of_my_tool --shares 80 10 10 --out sets/mine
  %(prog)s photos --names cat,dog --shares 80 20 0 --out sets/pets""",
)
