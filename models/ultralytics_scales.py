"""YOLOv8, 11 and 26 of each size as `models.blocks`, from their width and depth multiples; cfg/*.cfg are written by it.

python -m models.ultralytics_scales cfg  # writes cfg/yolov8n.cfg, ...
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.blocks import Block, Chain, Conv, CrossStage, Graph, Pools, Residual, SelfAttention, Towers, Upsample

HEADER = """# {title}, 80 classes: {about}
#
# Heads without anchors at strides 8, 16, 32; {heads}
# Written by `python -m models.ultralytics_scales`; a split convolution of the original is two here, with the same sums.

"""
CLASSES = 80


@dataclass(frozen=True)
class Scale:
    """What a size multiplies: repeats by `depth`, channels (at most `most` before) by `width`."""

    depth: float
    width: float
    most: int

    def channels(self, count: int) -> int:
        return -(-int(min(count, self.most) * self.width) // 8) * 8

    def repeats(self, count: int) -> int:
        return max(round(count * self.depth), 1)


SCALES = {
    "yolov8n": Scale(0.33, 0.25, 1024),
    "yolov8s": Scale(0.33, 0.50, 1024),
    "yolov8m": Scale(0.67, 0.75, 768),
    "yolo11n": Scale(0.50, 0.25, 1024),
    "yolo11s": Scale(0.50, 0.50, 1024),
    "yolo11m": Scale(0.50, 1.00, 512),
    "yolo26n": Scale(0.50, 0.25, 1024),
    "yolo26s": Scale(0.50, 0.50, 1024),
}


def bottleneck(channels: int, shortcut: bool = True, hidden: float = 0.5) -> Block:
    branch = Chain([Conv(int(channels * hidden), 3), Conv(channels, 3)])
    return Residual(branch) if shortcut else branch


def c3k(channels: int) -> Block:
    half = channels // 2
    return CrossStage(
        Conv(half), Conv(half), [bottleneck(half, hidden=1) for _ in range(2)], Conv(channels), bypass_first=False
    )


def psa(channels: int) -> Block:
    """Attention in heads of 64 channels, with half as many for queries and keys, then two 1x1 convolutions."""
    heads = max(channels // 64, 1)
    keys = channels // heads // 2
    attention = SelfAttention(
        queries=Conv(keys * heads, activation="linear"),
        keys=Conv(keys * heads, activation="linear"),
        values=Conv(channels, activation="linear"),
        position=Conv(channels, 3, groups=channels, activation="linear"),
        project=Conv(channels, activation="linear"),
        heads=heads,
        scale=keys**-0.5,
    )
    return Chain([Residual(attention), Residual(Chain([Conv(2 * channels), Conv(channels, activation="linear")]))])


def dense(channels: int, inner: Callable[[int], Block], count: int, hidden: float = 0.5) -> Block:
    """C2f and C3k2: every block's output is joined; `inner` makes a block of a width."""
    width = int(channels * hidden)
    return CrossStage(Conv(width), Conv(width), [inner(width) for _ in range(count)], Conv(channels), dense=True)


def pools(channels: int, linear: bool = False) -> Block:
    first = Conv(channels // 2, activation="linear" if linear else "swish")
    return Pools(first, [5, 5, 5], True, Conv(channels))


def towers(channels: Sequence[int], bins: int, depthwise: bool, one_to_one: bool = False) -> Towers:
    sides_width = max(16, channels[0] // 4, 4 * bins)
    classes_width = max(channels[0], min(CLASSES, 100))
    last = {"activation": "linear", "normalised": False}
    sides, classes = [], []
    for width in channels:
        sides.append(Chain([Conv(sides_width, 3), Conv(sides_width, 3), Conv(4 * bins, **last)]))  # type: ignore[arg-type]
        plain: list[Block] = [Conv(classes_width, 3), Conv(classes_width, 3)]
        separable: list[Block] = [
            Conv(width, 3, groups=width),
            Conv(classes_width),
            Conv(classes_width, 3, groups=classes_width),
            Conv(classes_width),
        ]
        classes.append(Chain([*(separable if depthwise else plain), Conv(CLASSES, **last)]))  # type: ignore[arg-type]
    return Towers(sides, classes, one_to_one)


def graph(name: str) -> Graph:
    """The network of a name in `SCALES`."""
    scale, family = SCALES[name], name[:-1]
    stages = {"yolov8": _stages_8, "yolo11": _stages_11, "yolo26": _stages_26}[family](scale, name[-1])
    c = [scale.channels(count) for count in (64, 128, 256, 512, 1024)]
    blocks: list[tuple[Sequence[int], Block | None]] = []

    def add(block: Block | None, *reads: int) -> int:
        blocks.append((reads or (len(blocks) - 1,), block))
        return len(blocks) - 1

    maps = []
    add(Conv(c[0], 3, 2))
    for width, stage in zip(c[1:], stages.backbone):
        add(Conv(width, 3, 2))
        maps.append(add(stage))
    for block in stages.top:
        maps[-1] = add(block)
    down = []
    at = maps[-1]
    for lateral, block in zip((maps[2], maps[1]), stages.down):
        up = add(Upsample(), at)
        at = add(block, add(None, up, lateral))
        down.append(at)
    outs = [at]
    for width, lateral, block in zip((c[2], c[3]), (down[0], maps[3]), stages.up):
        conv = add(Conv(width, 3, 2), at)
        at = add(block, add(None, conv, lateral))
        outs.append(at)
    bins, heads = 1 if family == "yolo26" else 16, c[2:]
    sets = [towers(heads, bins, family != "yolov8")]
    if family == "yolo26":
        sets.append(towers(heads, bins, True, one_to_one=True))
    return Graph(blocks, outs, sets, CLASSES, bins)


@dataclass(frozen=True)
class _Stages:
    """The blocks behind the strided convolutions, those at the top, and those on the way down and up again."""

    backbone: Sequence[Block]
    top: Sequence[Block]
    down: Sequence[Block]
    up: Sequence[Block]


def _stages_8(scale: Scale, _: str) -> _Stages:
    def block(channels: int, count: int, shortcut: bool) -> Block:
        return dense(scale.channels(channels), lambda c: bottleneck(c, shortcut, hidden=1), scale.repeats(count))

    backbone = [block(channels, count, True) for channels, count in ((128, 3), (256, 6), (512, 6), (1024, 3))]
    neck = {channels: block(channels, 3, False) for channels in (256, 512, 1024)}
    return _Stages(backbone, [pools(scale.channels(1024))], [neck[512], neck[256]], [neck[512], neck[1024]])


def _stages_11(scale: Scale, size: str) -> _Stages:
    deep = size in "mlx"
    neck = [_c3k2(scale, channels, deep) for channels in (512, 256, 512)]
    return _Stages(_backbone_11(scale, deep), _top(scale), neck[:2], [neck[2], _c3k2(scale, 1024, True)])


def _stages_26(scale: Scale, size: str) -> _Stages:
    neck = [_c3k2(scale, channels, True) for channels in (512, 256, 512)]
    last = dense(scale.channels(1024), lambda c: Chain([bottleneck(c), psa(c)]), 1)
    return _Stages(_backbone_11(scale, size in "mlx"), _top(scale, residual=True), neck[:2], [neck[2], last])


def _c3k2(scale: Scale, channels: int, deep: bool, hidden: float = 0.5) -> Block:
    return dense(scale.channels(channels), c3k if deep else bottleneck, scale.repeats(2), hidden)


def _backbone_11(scale: Scale, deep: bool) -> list[Block]:
    narrow = [_c3k2(scale, channels, deep, hidden=0.25) for channels in (256, 512)]
    return [*narrow, *(_c3k2(scale, channels, True) for channels in (512, 1024))]


def _top(scale: Scale, residual: bool = False) -> list[Block]:
    width = scale.channels(1024)
    sppf = pools(width, linear=residual)
    inner = Chain([psa(width // 2) for _ in range(scale.repeats(2))])
    half = Conv(width // 2)
    return [Residual(sppf) if residual else sppf, CrossStage(half, Conv(width // 2), [inner], Conv(width))]


def text(name: str) -> str:
    """The cfg of a network, as a file."""
    family, size = name[:-1], name[-1]
    about = {
        "yolov8": "C2f blocks, SPPF, a pyramid down and up",
        "yolo11": "C3k2 blocks, SPPF, attention (C2PSA), a pyramid down and up",
        "yolo26": "C3k2 blocks, SPPF with a shortcut, attention (C2PSA, and in the last block), a pyramid down and up",
    }[family]
    heads = (
        "plain distances, and beside them towers that give each object one place (one_to_one=1)."
        if family == "yolo26"
        else "a side's distance is the mean of a distribution over 16 bins."
    )
    title = f"{family.upper().replace('YOLOV', 'YOLOv')}{size}"
    return HEADER.format(title=title, about=about, heads=heads) + graph(name).cfg()[0].text()


if __name__ == "__main__":
    for each in SCALES:
        (Path(sys.argv[1]) / f"{each}.cfg").write_text(text(each), encoding="utf-8")
