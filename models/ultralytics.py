"""Read checkpoints of YOLOv8, 11 and 26 as networks of ours.

The file is read without executing its pickle (`models.unpickle`). What comes out is the tree of modules; it becomes
`models.blocks`, module by module, with the widths of its *tensors*: a network of other widths, of other classes, or
one that another program has pruned reads as well. Everything a module says of itself is checked and bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.log import log
from models.blocks import (
    Block,
    Chain,
    Conv,
    CrossStage,
    Graph,
    Pools,
    Residual,
    SelfAttention,
    Towers,
    Upsample,
)
from models.cfg import parse_cfg
from models.content import TRAINED_AT, size_text
from models.foreign import Mismatch, Source, class_names, network_record, part, parts, shown, tensor, told_size
from models.network import Network
from models.unpickle import Record, TorchFile, read_torch_file

# More than the largest of these networks has, and far less than would hurt.
MAX_MODULES, MAX_DEPTH = 4000, 12
MAX_SIZE = 31  # of a window
USUAL_SIZE = 640, 640

# What a network is for, by its class or that of its last module.
TASKS = {
    "Segment": "segmentation",
    "Pose": "pose estimation",
    "OBB": "oriented boxes",
    "Classif": "classification",
    "RTDETR": "detection with RT-DETR's transformer",
    "World": "open-vocabulary detection",
    "YOLOE": "open-vocabulary detection",
    "v10Detect": "detection with YOLOv10's head",
    "Semantic": "semantic segmentation",
}
ACTIVATIONS = {
    "SiLU": "swish",
    "Identity": "linear",
    "ReLU": "relu",
    "ReLU6": "relu6",
    "Mish": "mish",
    "ELU": "elu",
    "Sigmoid": "logistic",
    "Tanh": "tanh",
}
TODO = "use a YOLOv8, YOLO11 or YOLO26 detection checkpoint (best.pt, last.pt) as its training program saved it"


def is_ultralytics(path: str | Path) -> bool:
    """Whether the file is a torch checkpoint with a model of that program in it. Nothing is built or run."""
    try:
        with TorchFile(path) as file:
            return any(name.startswith("ultralytics.nn.") for name in file.mentions())
    except (OSError, UserError):
        return False


def load_ultralytics(path: str | Path) -> Network:
    """A detection checkpoint as a `Network`: FP32, in eval mode, with the file's classes, names and picture size.

    The exponential moving average is taken where the file has one. BatchNorm's eps there (1e-3) is larger than ours;
    the difference is added to `running_var`, so the outputs stay the same.

    Raises:
        UserError: not a torch file; a file whose pickle asks for code; a network for another task, or with a module
            that is not known here (the message names it).
    """
    path = Path(path)
    content = read_torch_file(path)
    try:
        return _network(content, path)
    except Mismatch as mismatch:
        raise UserError(str(mismatch), where=path, todo=TODO) from None


def _network(content: Any, path: Path) -> Network:
    model = network_record(content)
    graph, strides = _Reader().graph(model)
    names = class_names(model, graph.classes)
    trained_at = _image_size(content, model)
    sections, convolutions = graph.cfg(*(trained_at or USUAL_SIZE))
    if (channels := tensor(convolutions[0].weights.conv, "weight", "stem").shape[1]) != 3:
        raise Mismatch(
            f"takes pictures of {channels} channel{'s' * (channels > 1)}; only colour pictures are read here"
        )
    text = sections.text()
    with torch.device("meta"):  # nothing is allocated before every shape is known to be the file's
        _compare(Network(parse_cfg(text, source=path.name)), graph, strides, convolutions, path.stat().st_size)
    net = Network(parse_cfg(text, source=path.name), names)
    if trained_at:
        net.meta[TRAINED_AT] = size_text(trained_at)
    for layer, conv in zip(net.convolutions.values(), convolutions, strict=True):
        conv.weights.fill(layer)
    if not any(conv.normalised for conv in convolutions):
        log.warning(
            "%s: its BatchNorms were fused into the convolutions for inference: it detects and is exported, but gammas "
            "to prune by are gone",
            path,
        )
    return net.eval()


def _compare(
    net: Network, graph: Graph, strides: list[float] | None, convolutions: list[Conv], file_bytes: int
) -> None:
    if strides is not None and [float(spec.stride) for spec in net.specs] != strides * len(graph.towers):
        raise Mismatch(f"says its heads are at the strides {strides}; they are at {[s.stride for s in net.specs]}")
    for layer, conv in zip(net.convolutions.values(), convolutions, strict=True):
        conv.weights.compare(layer)
    if sum(layer.conv.weight.numel() for layer in net.convolutions.values()) > file_bytes:
        raise Mismatch("uses its tensors several times")


def _image_size(content: Any, model: Record) -> tuple[int, int] | None:
    """(H, W) it was trained for; None where the file does not say it."""
    for args in (model.state.get("args"), content.get("train_args") if isinstance(content, dict) else None):
        if (size := told_size(args)) is not None:
            return size
    return None


class _Reader:
    """Modules of the file -> blocks. Counts what it visits: a file may contain a module in itself."""

    def __init__(self) -> None:
        self.visited = 0

    # -- the network -------------------------------------------------------------------------------------------------

    def graph(self, model: Record) -> tuple[Graph, list[float] | None]:
        """The network, and the strides it says its heads have."""
        modules = list(parts(part(model, "model", "model")).values())
        if not modules:
            raise Mismatch("has no modules")
        for kind in (modules[-1].kind, model.kind):
            if task := next((task for word, task in TASKS.items() if word in kind), None):
                raise Mismatch(f"is a network for {task} ({kind}); only YOLO's own detection heads are read here")
        if modules[-1].kind != "Detect":
            raise Mismatch(f"ends in a {modules[-1].kind}, not in a Detect")
        blocks: list[tuple[Sequence[int], Block | None]] = []
        for number, module in enumerate(modules[:-1]):
            name = f"model.{number}"
            reads = _reads(module, number, name)
            if module.kind == "Concat":
                if module.state.get("d", 1) != 1:
                    raise Mismatch(f"its {name} joins along dimension {shown(module.state.get('d'))}, not channels")
                blocks.append((reads, None))
                continue
            if len(reads) != 1:
                raise Mismatch(f"its {name} ({module.kind}) reads {len(reads)} modules")
            blocks.append((reads, self.block(module, name)))
        return self.heads(modules[-1], f"model.{len(modules) - 1}", blocks)

    def heads(
        self, detect: Record, name: str, blocks: list[tuple[Sequence[int], Block | None]]
    ) -> tuple[Graph, list[float] | None]:
        reads = _reads(detect, len(blocks), name)
        classes, bins = _whole(detect, "nc", name, 1, 100_000), _whole(detect, "reg_max", name, 1, 64)
        self.distribution(detect, bins, name)
        own = parts(detect)
        towers = []
        for prefix in ("", "one2one_"):
            if f"{prefix}cv2" in own and f"{prefix}cv3" in own:
                sides, scores = (self.towers(own[prefix + key], f"{name}.{prefix}{key}") for key in ("cv2", "cv3"))
                if not len(sides) == len(scores) == len(reads):
                    raise Mismatch(f"its {name} reads {len(reads)} maps with {len(sides)} and {len(scores)} towers")
                towers.append(Towers(sides, scores, one_to_one=bool(prefix)))
        if not towers:
            raise Mismatch(f"its {name} has no towers cv2 and cv3")
        told = detect.state.get("stride")
        strides = told.tolist() if isinstance(told, Tensor) and told.dim() == 1 and bool(told.any()) else None
        return Graph(blocks, reads, towers, classes, bins), strides

    def distribution(self, detect: Record, bins: int, name: str) -> None:
        """Its mean is a convolution with the fixed weights 0, 1, ..., which our head computes itself."""
        if bins > 1:
            conv = part(part(detect, "dfl", name), "conv", f"{name}.dfl")
            weight = tensor(conv, "weight", f"{name}.dfl.conv").flatten().float()
            if weight.shape != (bins,) or not torch.equal(weight, torch.arange(bins).float()):
                raise Mismatch(f"its {name}.dfl does not weigh {bins} bins with 0..{bins - 1}")

    def towers(self, module: Record, name: str) -> list[Block]:
        return [self.block(tower, f"{name}.{key}") for key, tower in parts(module).items()]

    # -- blocks ------------------------------------------------------------------------------------------------------

    def block(self, module: Record, name: str) -> Block:
        self.visited += 1
        if self.visited > MAX_MODULES or name.count(".") > MAX_DEPTH:
            raise Mismatch(f"has more than {MAX_MODULES} modules, or more than {MAX_DEPTH} inside each other")
        reader = READERS.get(module.kind)
        if reader is None:
            raise Mismatch(f"its module {name} is a {module.path}, which is not known here")
        return reader(self, module, name)

    def inside(self, module: Record, key: str, name: str) -> list[Block]:
        """The blocks in a list or sequence of modules."""
        return [self.block(inner, f"{name}.{key}.{place}") for place, inner in parts(part(module, key, name)).items()]

    def conv(self, module: Record, name: str, rows: Tensor | None = None) -> Conv:
        """A `Conv` (with its BatchNorm, or fused) or a bare convolution."""
        self.visited += 1
        bare = module.kind == "Conv2d"
        own = parts(module)
        record = module if bare else part(module, "conv", name)
        if record.kind != "Conv2d":
            raise Mismatch(f"its module {name}.conv is a {record.path}, not a plain convolution")
        activation = "linear" if bare else _activation(own.get("act"), name)
        source = Source(name, record, own.get("bn"), rows)
        weight = tensor(record, "weight", name)
        if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or not 1 <= weight.shape[2] <= MAX_SIZE:
            raise Mismatch(f"its {name} has weights of the shape {list(weight.shape)}, not (out, in, size, size)")
        if record.state.get("padding_mode", "zeros") != "zeros":
            raise Mismatch(f"its {name} has padding_mode={shown(record.state.get('padding_mode'))}")
        if _square(record, "dilation", name, 1) != 1:
            raise Mismatch(f"its {name} has dilation={shown(record.state.get('dilation'))}; only 1 is read here")
        return Conv(
            filters=weight.shape[0] if rows is None else len(rows),
            size=weight.shape[2],
            stride=_square(record, "stride", name, 8),
            groups=_whole(record, "groups", name, 1, weight.shape[0]),
            activation=activation,
            normalised=source.bn is not None,
            padding=_square(record, "padding", name, weight.shape[2]),
            weights=source,
        )

    def part_conv(self, module: Record, key: str, name: str) -> Conv:
        return self.conv(part(module, key, name), f"{name}.{key}")

    def halves(self, module: Record, key: str, name: str) -> tuple[Conv, Conv]:
        """A convolution whose output is split in two, as two."""
        half, record = f"{name}.{key}", part(module, key, name)
        whole = self.conv(record, half)
        if whole.filters % 2 or whole.groups > 1:
            raise Mismatch(f"its {half} has {whole.filters} channels in {whole.groups} groups to be split in halves")
        first, second = torch.arange(whole.filters).chunk(2)
        return self.conv(record, half, first), self.conv(record, half, second)

    def bottleneck(self, module: Record, name: str) -> Block:
        branch = Chain([self.part_conv(module, key, name) for key in ("cv1", "cv2")])
        return Residual(branch) if _flag(module, "add", name) else branch

    def c3(self, module: Record, name: str) -> Block:
        main, bypass, last = (self.part_conv(module, key, name) for key in ("cv1", "cv2", "cv3"))
        return CrossStage(bypass, main, self.inside(module, "m", name), last, bypass_first=False)

    def c2f(self, module: Record, name: str) -> Block:
        bypass, main = (
            (self.part_conv(module, "cv0", name), self.part_conv(module, "cv1", name))
            if "cv0" in parts(module)  # the split form that pruning tools put in its place
            else self.halves(module, "cv1", name)
        )
        inner, last = self.inside(module, "m", name), self.part_conv(module, "cv2", name)
        return CrossStage(bypass, main, inner, last, dense=True)

    def c2psa(self, module: Record, name: str) -> Block:
        inner = Chain(self.inside(module, "m", name))
        return CrossStage(*self.halves(module, "cv1", name), [inner], self.part_conv(module, "cv2", name))

    def psa_block(self, module: Record, name: str) -> Block:
        branches = self.attention(part(module, "attn", name), f"{name}.attn"), Chain(self.inside(module, "ffn", name))
        return Chain([Residual(branch) if _flag(module, "add", name) else branch for branch in branches])

    def attention(self, module: Record, name: str) -> Block:
        """q, k and v lie head by head in one convolution there."""
        if module.kind != "Attention":
            raise Mismatch(f"its module {name} is a {module.path}, which is not known here")
        heads, key, value = (_whole(module, word, name, 1, 8192) for word in ("num_heads", "key_dim", "head_dim"))
        scale = module.state.get("scale")
        if type(scale) is not float or not 0 < scale <= 1:
            raise Mismatch(f"its {name} has scale={shown(scale)}")
        joined = part(module, "qkv", name)
        rows = self.conv(joined, f"{name}.qkv").filters
        if rows != heads * (2 * key + value):
            raise Mismatch(f"its {name}.qkv has {rows} channels, not {heads} x (2 x {key} + {value})")
        split = torch.arange(rows).view(heads, -1).split([key, key, value], 1)
        queries, keys, values = (self.conv(joined, f"{name}.qkv", index.flatten()) for index in split)
        position, project = (self.part_conv(module, word, name) for word in ("pe", "proj"))
        return SelfAttention(queries, keys, values, position, project, heads, scale)

    def pools(self, module: Record, name: str) -> Block:
        first, last = self.part_conv(module, "cv1", name), self.part_conv(module, "cv2", name)
        inner = part(module, "m", name)
        if inner.kind == "MaxPool2d":
            sizes = [_pool(inner, f"{name}.m")] * _whole(module, "n", name, 1, 16, default=3)
        else:
            sizes = [_pool(pool, f"{name}.m.{key}") for key, pool in list(parts(inner).items())[:16]]
        found = Pools(first, sizes, inner.kind == "MaxPool2d", last)
        return Residual(found) if module.state.get("add") is True else found

    def upsample(self, module: Record, name: str) -> Block:
        factor, mode = module.state.get("scale_factor"), module.state.get("mode")
        if factor not in (2, (2, 2)) or mode != "nearest" or module.state.get("size") is not None:
            raise Mismatch(f"its {name} scales by {shown(factor)} ({shown(mode)}); only nearest by 2 is read here")
        return Upsample()

    def sequence(self, module: Record, name: str) -> Block:
        return Chain([self.block(inner, f"{name}.{key}") for key, inner in parts(module).items()])


READERS: dict[str, Callable[[_Reader, Record, str], Block]] = {
    "Conv": _Reader.conv,
    "DWConv": _Reader.conv,
    "Conv2d": _Reader.conv,
    "Bottleneck": _Reader.bottleneck,
    "C3": _Reader.c3,
    "C3k": _Reader.c3,
    "C2f": _Reader.c2f,
    "C2f_v2": _Reader.c2f,
    "C3k2": _Reader.c2f,
    "SPP": _Reader.pools,
    "SPPF": _Reader.pools,
    "C2PSA": _Reader.c2psa,
    "PSABlock": _Reader.psa_block,
    "Upsample": _Reader.upsample,
    "Sequential": _Reader.sequence,
}


def _reads(module: Record, number: int, name: str) -> list[int]:
    """The numbers of the modules it reads; -1 is the picture."""
    told = module.state.get("f")
    found: list[Any] = told if type(told) is list else [told]
    if not 1 <= len(found) <= 16 or any(type(source) is not int or not -1 <= source < number for source in found):
        raise Mismatch(f"its {name} ({module.kind}) reads f={shown(told)}; only modules before it can be read")
    return [source if source >= 0 else number - 1 for source in found]


def _whole(record: Record, key: str, name: str, low: int, high: int, default: int | None = None) -> int:
    value = record.state.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise Mismatch(f"its {name} ({record.kind}) has {key}={shown(value)}, not a whole number in {low}..{high}")
    return value


def _square(record: Record, key: str, name: str, high: int) -> int:
    value = record.state.get(key)
    value = value[0] if type(value) is tuple and len(value) == 2 and value[0] == value[1] else value
    if type(value) is not int or not 0 <= value <= high:
        raise Mismatch(f"its {name} has {key}={shown(record.state.get(key))}, not one whole number up to {high}")
    return value


def _flag(record: Record, key: str, name: str) -> bool:
    value = record.state.get(key)
    if type(value) is not bool:
        raise Mismatch(f"its {name} ({record.kind}) has {key}={shown(value)}, neither True nor False")
    return value


def _pool(pool: Record, name: str) -> int:
    size = _square(pool, "kernel_size", name, MAX_SIZE)
    told = [_square(pool, key, name, MAX_SIZE) for key in ("stride", "padding", "dilation")]
    if pool.kind != "MaxPool2d" or size % 2 == 0 or told != [1, size // 2, 1]:
        raise Mismatch(f"its {name} ({pool.kind}) is no maximum over an odd window with stride 1")
    return size


def _activation(act: Record | None, name: str) -> str:
    kind = "none" if act is None else act.kind
    if act is not None and kind == "LeakyReLU" and act.state.get("negative_slope") in (0.1, 0.01):
        return "leaky" if act.state["negative_slope"] == 0.1 else "relie"
    if kind not in ACTIVATIONS:
        raise Mismatch(f"its convolution {name} has the activation {kind}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[kind]
