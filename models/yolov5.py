"""Import trained YOLOv5 n, s and m checkpoints (releases 6.0 to 7.0) onto our cfgs.

The file is read without executing its pickle (`models.unpickle`). What comes out is the tree of modules the file
describes; it is checked here, module by module, against the structure of `cfg/yolov5*.cfg`, and its tensors are copied
in the order of the cfg's convolutions. Class names, their number and the anchors come from the file, so custom-trained
checkpoints load as well as the official ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import UserError
from models.archive import LEGACY_MAGIC
from models.cfg import Cfg, parse_cfg
from models.content import TRAINED_AT, size_text
from models.foreign import Mismatch, Source, class_names, network_record, part, parts, shown, tensor, told_size
from models.network import Network, adapt_classes
from models.unpickle import Record, TorchFile, read_torch_file

# Channels of the stem -> the cfg that has it. n and s differ in width only, m is deeper besides.
VARIANTS = {16: "yolov5n", 32: "yolov5s", 48: "yolov5m"}

# What release 6 runs, in order: the class of each module and the modules it reads (-1: the one before).
STRUCTURE: tuple[tuple[str, int | list[int]], ...] = (
    ("Conv", -1),
    ("Conv", -1),
    ("C3", -1),
    ("Conv", -1),
    ("C3", -1),
    ("Conv", -1),
    ("C3", -1),
    ("Conv", -1),
    ("C3", -1),
    ("SPPF", -1),
    ("Conv", -1),
    ("Upsample", -1),
    ("Concat", [-1, 6]),
    ("C3", -1),
    ("Conv", -1),
    ("Upsample", -1),
    ("Concat", [-1, 4]),
    ("C3", -1),
    ("Conv", -1),
    ("Concat", [-1, 14]),
    ("C3", -1),
    ("Conv", -1),
    ("Concat", [-1, 10]),
    ("C3", -1),
    ("Detect", [17, 20, 23]),
)
BACKBONE = 10  # the bottlenecks of the modules before this one have a shortcut
HEAD_AFTER = {17: 0, 20: 1, 23: 2}  # module -> the head that reads it; the cfg has the head right there
STRIDES = [8, 16, 32]
ANCHORS = 3  # per head

TODO = "use a YOLOv5 n, s or m checkpoint saved by train.py of release 6 or 7 (best.pt, last.pt)"


def is_yolov5(path: str | Path) -> bool:
    """Whether the file is a torch checkpoint with a model of the YOLOv5 program in it.

    Nothing is built or run. Such files in torch's old format count too: `load_yolov5` says what to do about them.
    """
    try:
        with open(path, "rb") as handle:
            if handle.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC:
                return b"cmodels.yolo\n" in handle.read(1 << 20)
        with TorchFile(path) as file:
            found = file.mentions()
    except (OSError, UserError):
        return False
    return any(name.startswith("models.yolo") for name in found)


def load_yolov5(path: str | Path) -> Network:
    """A YOLOv5 n, s or m checkpoint as a `Network`: FP32, in eval mode, with the file's classes, names, anchors
    and, where it says it, picture size.

    The exponential moving average is taken where the file has one. YOLOv5's BatchNorm eps (1e-3) is larger than ours;
    the difference is added to `running_var`, so the outputs stay the same.

    Raises:
        UserError: not a torch file; a file whose pickle asks for code; a network other than YOLOv5 n, s, m of release 6
            (the message names what the file has and what the cfg wants).
    """
    path = Path(path)
    content = read_torch_file(path)
    try:
        net = _build(network_record(content))
    except Mismatch as mismatch:
        raise UserError(str(mismatch), where=path, todo=TODO) from None
    if size := told_size(content.get("opt")) if isinstance(content, dict) else None:
        net.with_image_size(size).meta[TRAINED_AT] = size_text(size)
    return net


def _build(model: Record) -> Network:
    modules = _modules(model)
    sources = list(_convolutions(modules))
    cfg = _cfg_for(sources[0])
    classes = _class_count(modules[-1], sources)
    adapt_classes(cfg, classes)
    anchors = _anchors(modules[-1])
    for head in cfg.heads:
        head.set("anchors", anchors)
    net = Network(cfg, class_names(model, classes))
    _compare(net, sources)
    for layer, source in zip(net.convolutions.values(), sources, strict=True):
        source.fill(layer)
    return net.eval()


# What the file says.


def _expect(record: Record, key: str, wanted: object, name: str) -> None:
    have = record.state.get(key)
    if have != wanted and have != (wanted, wanted):
        raise Mismatch(f"its module {name} ({record.kind}) has {key}={shown(have)}; YOLOv5's cfgs have {shown(wanted)}")


def _modules(model: Record) -> list[Record]:
    """The 25 modules of the network; each has the class and reads the modules that `STRUCTURE` says."""
    modules = list(parts(parts(model)["model"]).values())
    for number, (module, (kind, _)) in enumerate(zip(modules, STRUCTURE)):
        if module.kind != kind:
            raise Mismatch(f"its module {number} is a {module.kind}; YOLOv5's cfgs have a {kind} there")
    if len(modules) != len(STRUCTURE):
        raise Mismatch(f"has {len(modules)} modules; YOLOv5's cfgs have {len(STRUCTURE)}")
    for number, (module, (_, reads)) in enumerate(zip(modules, STRUCTURE)):
        _expect(module, "f", reads, f"model.{number}")
    return modules


def _convolutions(modules: list[Record]) -> Iterator[Source]:
    """Every convolution in the order of the cfg: a C3's bypass first, each head right after the module it reads."""
    for number, module in enumerate(modules[:-1]):
        name = f"model.{number}"
        if module.kind == "Conv":
            yield _conv(module, name)
        elif module.kind == "C3":
            yield from _c3(module, name, shortcut=number < BACKBONE)
        elif module.kind == "SPPF":
            _expect(part(module, "m", name), "kernel_size", 5, f"{name}.m")
            yield from (_conv(part(module, inner, name), f"{name}.{inner}") for inner in ("cv1", "cv2"))
        if number in HEAD_AFTER:
            head, detect = str(HEAD_AFTER[number]), f"model.{len(modules) - 1}.m"
            yield Source(f"{detect}.{head}", part(part(modules[-1], "m", detect), head, detect), None)


def _c3(module: Record, name: str, shortcut: bool) -> Iterator[Source]:
    for first in ("cv2", "cv1"):
        yield _conv(part(module, first, name), f"{name}.{first}")
    for place, bottleneck in parts(part(module, "m", name)).items():
        inner = f"{name}.m.{place}"
        if bottleneck.kind != "Bottleneck":
            raise Mismatch(f"its module {inner} is a {bottleneck.kind}; YOLOv5's cfgs have a Bottleneck there")
        _expect(bottleneck, "add", shortcut, inner)
        for own in ("cv1", "cv2"):
            yield _conv(part(bottleneck, own, inner), f"{inner}.{own}")
    yield _conv(part(module, "cv3", name), f"{name}.cv3")


def _conv(module: Record, name: str) -> Source:
    inside = parts(module)
    if "bn" not in inside:
        raise Mismatch(
            f"its convolution {name} has no BatchNorm: it was fused for inference, and the BatchNorm's "
            "scales are what training and pruning need"
        )
    act = inside["act"].kind if "act" in inside else "none"
    if act != "SiLU":
        raise Mismatch(f"its convolution {name} has the activation {act}; YOLOv5's cfgs have SiLU (swish)")
    return Source(name, part(module, "conv", name), inside["bn"])


def _cfg_for(stem: Source) -> Cfg:
    width = tensor(stem.conv, "weight", stem.name).shape[:1]
    name = VARIANTS.get(width[0] if width else 0)
    if name is None:
        known = ", ".join(f"{variant} {channels}" for channels, variant in VARIANTS.items())
        raise Mismatch(f"its stem has {list(width)} channels; the cfgs have {known}")
    text = resources.files("cfg").joinpath(f"{name}.cfg").read_text(encoding="utf-8")
    return parse_cfg(text, source=f"cfg/{name}.cfg")


def _class_count(detect: Record, sources: list[Source]) -> int:
    classes = detect.state.get("nc")
    for source in sources:
        if source.bn is None:
            rows = tensor(source.conv, "weight", source.name).shape[0]
            if type(classes) is not int or classes < 1 or rows != ANCHORS * (5 + classes):
                raise Mismatch(
                    f"its Detect says nc={shown(classes)}, but {source.name} has {rows} channels, not "
                    f"{ANCHORS} x (5 + nc)"
                )
    assert isinstance(classes, int)
    return classes


def _anchors(detect: Record) -> list[float]:
    """The nine anchors of all heads, in pixels (the file keeps them in cells): w, h, w, h, ..."""
    anchors, strides = tensor(detect, "anchors", "Detect").double(), detect.state.get("stride")
    if anchors.shape != (len(STRIDES), ANCHORS, 2):
        raise Mismatch(
            f"its anchors have the shape {list(anchors.shape)}; YOLOv5's cfgs have {[len(STRIDES), ANCHORS, 2]}"
        )
    if not isinstance(strides, Tensor) or strides.shape != (len(STRIDES),) or strides.tolist() != STRIDES:
        raise Mismatch(f"its heads are not at the strides {STRIDES} of YOLOv5's cfgs")
    pixels = (anchors * strides.double()[:, None, None]).flatten().tolist()
    if not all(0 < value < math.inf for value in pixels):
        raise Mismatch(f"its anchors are not all above 0: {pixels}")
    return pixels


# Onto the cfg.


def _compare(net: Network, sources: list[Source]) -> None:
    """Raise where a convolution of the file differs from ours in shape, stride, padding, dilation or groups."""
    for (number, layer), source in zip(net.convolutions.items(), sources):
        have = _geometry(tensor(source.conv, "weight", source.name), source.conv.state.get)
        want = _geometry(layer.conv.weight, lambda key, conv=layer.conv: getattr(conv, key))  # type: ignore[misc]
        if have != want:
            raise Mismatch(f"its {source.name} is {have}; layer {number} of {net.cfg.source} is {want}")
    if len(net.convolutions) != len(sources):
        raise Mismatch(f"has {len(sources)} convolutions; {net.cfg.source} has {len(net.convolutions)}")


def _geometry(weight: Tensor, attribute: Callable[[str], Any]) -> str:
    rest = ", ".join(f"{key} {shown(attribute(key))}" for key in ("stride", "padding", "dilation", "groups"))
    return f"{'x'.join(map(str, weight.shape))} ({rest})"
