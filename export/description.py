"""What an exported file says about itself, so that it can be used alone: names, anchors, sizes, meaning of its outputs.

The same few text fields travel in the metadata of an ONNX file, in the `rt_info` of OpenVINO's, and in the model card.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from data.augment import GREY
from data.describe import MOST_CLASSES
from data.pictures import MOST_PIXELS
from export.formats import EARLIER_OUTPUTS, OUTPUTS
from export.options import DETECTION
from models.content import PIXEL_RANGE
from models.heads import FAMILIES, HeadSpec, spec_read
from models.limits import MOST_SIDE
from models.network import Network
from models.resize import LETTERBOX, RESIZE, STRETCH

FORMAT = "thinyolo/1"
WRONG = (ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError, RecursionError)
"""What reading damaged metadata raises."""
MOST_BATCH, MOST_HEADS, MOST_BOXES = 2**16, 64, 1_000_000
_SHRINKING, _GROWING = "OpenCV's INTER_AREA", "INTER_LINEAR"
RESIZING = {
    LETTERBOX: "pictures are scaled by r = min(H / h, W / w) to round(h r) x round(w r) pixels (halves to even, at "
    f"least 1), by {_SHRINKING} where the height shrinks, else by {_GROWING}, and lie (H - round(h r)) // 2 rows from "
    f"the top and (W - round(w r)) // 2 columns from the left; the rest is grey {GREY}/255",
    STRETCH: "pictures are stretched to H x W, whatever their aspect: sides that shrink by OpenCV's INTER_AREA first, "
    "then those that grow by INTER_LINEAR",
}
"""How a picture of h x w pixels is brought to an input of H x W."""


@dataclass(frozen=True)
class Description:
    """An exported network without its weights.

    Attributes:
        names: class names.
        specs: one `HeadSpec` per head.
        size: (H, W) of the input the file was made for; where `any_size`, of the input it was trained for.
        any_size: pictures of every size that `stride` divides are taken.
        batch: pictures at a time; 0: as many as one likes.
        stride: height and width have to be multiples of it.
        outputs: "heads", "decoded" or "boxes", see `export.formats.OUTPUTS`.
        precision: "fp32", "fp16" or "int8".
        fingerprint: `models.fingerprint` of the network it was made of.
        nms: what chooses the boxes inside the graph, where `outputs` is "boxes": "conf", "iou", "max_det"; of
            one-to-one heads "max_det" alone.
        resize: how pictures are brought to the size, see `models.resize`.
        pixel_range: the values that become 0 and 1 of pictures with more than 8 bits, where the training says so.
    """

    names: tuple[str, ...]
    specs: tuple[HeadSpec, ...]
    size: tuple[int, int]
    any_size: bool = False
    batch: int = 1
    stride: int = 32
    outputs: str = "heads"
    precision: str = "fp32"
    fingerprint: str = ""
    nms: Mapping[str, float] | None = None
    resize: str = LETTERBOX
    pixel_range: tuple[float, float] | None = None

    @property
    def classes(self) -> int:
        return len(self.names)

    @property
    def spec(self) -> HeadSpec:
        """How what is decoded is read."""
        return spec_read(self.specs)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "format": FORMAT,
            "names": list(self.names),
            "heads": [spec.as_dict() for spec in self.specs],
            "size": list(self.size),
            "any_size": self.any_size,
            "batch": self.batch,
            "stride": self.stride,
            "outputs": self.outputs,
            "precision": self.precision,
            "fingerprint": self.fingerprint,
            "nms": dict(self.nms) if self.nms else None,
            "resize": self.resize,
            "pixel_range": list(self.pixel_range) if self.pixel_range else None,
            "input": {"channels": "RGB", "divided_by": 255, "fill": GREY},
            "input_meaning": f"(B, 3, H, W) float32, RGB, 0..1; {self.deep}{RESIZING[self.resize]}",
            "output_meaning": self.spec.outputs[self.outputs],
            "detection": {"one_to_one": self.spec.one_to_one, **DETECTION},
            "detection_meaning": self.choice,
        }

    @property
    def deep(self) -> str:
        """What is done with pictures of more than 8 bits, where the training says it."""
        if not self.pixel_range:
            return ""
        return "of pictures with more than 8 bits the values from {:g} to {:g} become 0..1; ".format(*self.pixel_range)

    @property
    def choice(self) -> str:
        """How boxes are chosen among what is put out, in words; `thinyolo predict` does so."""
        if self.outputs == "boxes":
            score = "confidence is as put out"
        elif self.spec.softmax:
            score = "confidence in a class: sigmoid of objectness x softmax over the classes"
        elif self.spec.has_objectness:
            score = "confidence in a class: sigmoid of objectness x sigmoid of the class"
        else:
            score = "confidence in a class: sigmoid of the class, for there is no objectness"
        nms = (
            "no NMS, the {max_det} most confident"
            if self.spec.one_to_one
            else "then NMS class by class, which drops what overlaps a more confident box by an IoU above {iou:g}; at "
            "most {max_det}"
        )
        rule = f"of a place the most confident class, if above {{conf:g}}; {nms}".format(**DETECTION)
        return f"{score}; {rule}; boxes back in the picture: minus the offset, by the scale, cut at its borders"

    def metadata(self) -> dict[str, str]:
        """Text by key: JSON, but for what is text already."""
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.as_dict().items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str | Path) -> Description:
        """The inverse of `metadata`.

        Raises:
            UserError: the file was not written by this program, or its metadata are damaged.
        """
        if metadata.get("format") != FORMAT:
            raise UserError(
                "does not say what its outputs mean: it was not exported by ThinYOLO",
                where=where,
                todo="export it anew: thinyolo export --weights FILE.pt --to onnx",
            )
        text = {"outputs", "precision", "fingerprint", "resize"}
        coded = {"names", "heads", "size", "any_size", "batch", "stride", "nms"}  # other programs may add keys
        try:
            words = {key: metadata[key] for key in text if key in metadata}
            later = {"pixel_range"} & metadata.keys()
            return cls.from_dict(words | {key: json.loads(metadata[key]) for key in (*coded, *later)})
        except WRONG as error:
            raise UserError(
                f"its metadata are damaged: {type(error).__name__}: {error}",
                where=where,
                todo="export it anew: thinyolo export --weights FILE.pt --to onnx",
            ) from error

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Description:
        """The inverse of `as_dict`."""
        resize = content.get("resize", LETTERBOX)  # absent in files of before it was said
        if resize not in RESIZE:
            raise ValueError(f"resize {str(resize)[:40]!r}")
        found = cls(
            names=tuple(content["names"]),
            specs=tuple(_spec(head) for head in content["heads"]),
            size=(int(content["size"][0]), int(content["size"][1])),
            any_size=bool(content["any_size"]),
            batch=int(content["batch"]),
            stride=int(content["stride"]),
            outputs=EARLIER_OUTPUTS.get(content["outputs"], content["outputs"]),
            precision=content["precision"],
            fingerprint=content["fingerprint"],
            nms=content["nms"],
            resize=resize,
            pixel_range=(float(ends[0]), float(ends[1])) if (ends := content.get("pixel_range")) else None,
        )
        found._check()
        return found

    def _check(self) -> None:
        """Raise a `ValueError` where something is beyond what any export of ours says."""
        if not 0 < len(self.names) <= MOST_CLASSES or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"{len(self.names)} class names, or some that are no text")
        if not 0 < len(self.specs) <= MOST_HEADS:
            raise ValueError(f"{len(self.specs)} heads")
        bounds = {"height": (self.size[0], 1, MOST_SIDE), "width": (self.size[1], 1, MOST_SIDE)}
        bounds |= {"batch": (self.batch, 0, MOST_BATCH), "stride": (self.stride, 1, MOST_SIDE)}
        for spec in self.specs:
            if spec.classes != self.classes:
                raise ValueError(f"a head of {str(spec.classes)[:40]} classes, and {self.classes} names")
            bounds[f"stride {str(spec.stride)[:40]} of a head"] = spec.stride, 1, MOST_SIDE
        for what, (number, low, high) in bounds.items():
            if type(number) is not int or not low <= number <= high:
                raise ValueError(f"{what} {str(number)[:40]} is not between {low} and {high:,}")
        if self.size[0] * self.size[1] * max(1, self.batch) > MOST_PIXELS:
            raise ValueError(f"{self.batch} pictures of {self.size[1]} x {self.size[0]} are too many pixels")
        if self.outputs not in OUTPUTS:
            raise ValueError(f"outputs {str(self.outputs)[:40]!r}")
        if self.outputs == "boxes":
            chosen = dict(self.nms or {})
            most = chosen.get("max_det")
            if type(most) is not int or not 0 < most <= MOST_BOXES:
                raise ValueError(f"max_det {str(most)[:40]}")
            shares = [chosen.get(key) for key in ("conf", "iou") if key in chosen or not self.spec.one_to_one]
            if not all(isinstance(share, (int, float)) and 0 <= share <= 1 for share in shares):
                raise ValueError(f"nms {str(chosen)[:80]}")
        black, white = self.pixel_range or (0.0, 1.0)
        if not -math.inf < black < white < math.inf:
            raise ValueError(f"pixel_range {black:g} to {white:g}")


def describe(net: Network, size: tuple[int, int] | None = None, **more: Any) -> Description:
    """The description of `net` for pictures of `size` (H, W), by default the cfg's."""
    from models import fingerprint

    return Description(
        tuple(net.names),
        net.specs,
        size or net.image_size,
        stride=net.max_stride,
        fingerprint=fingerprint(net),
        resize=net.resize,
        pixel_range=tuple(net.meta.get(PIXEL_RANGE) or ()) or None,
        **more,
    )


def _spec(head: Mapping[str, Any]) -> HeadSpec:
    content = dict(head)
    family = content.pop("family", "anchored")  # files of before there were families name none
    return FAMILIES[family].spec().from_dict(content)


def card_paths(path: str | Path) -> tuple[Path, Path]:
    """(Markdown, JSON) of an exported file."""
    path = Path(path)
    return path.with_name(path.name + ".card.md"), path.with_name(path.name + ".card.json")


def read_description(path: str | Path) -> Description:
    """The description in the card beside an exported file that holds none itself.

    Raises:
        UserError: there is no such card, or it is damaged.
    """
    card = card_paths(path)[1]
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        return Description.from_dict(content["file"]["description"])
    except (OSError, *WRONG) as error:
        raise UserError(
            f"needs its model card {card.name} beside it, which says what its outputs mean",
            where=path,
            todo="copy the card too, or export anew",
        ) from error


def remove_cards(path: str | Path) -> None:
    """Remove the cards of a file, if there are any."""
    for card in card_paths(path):
        card.unlink(missing_ok=True)
