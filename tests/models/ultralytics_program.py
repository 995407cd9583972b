"""A stand-in for the program that trains YOLOv8, 11 and 26: builds small module trees, runs them, saves checkpoints.

Written from what such files hold; the classes carry the foreign module names (`ultralytics.nn.modules.block.C2f`) only
while a checkpoint is saved, so that the file refers to classes nobody here has.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    def __init__(
        self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: nn.Module | None = None, p: int | None = None
    ):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, groups=g, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU() if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def forward_fuse(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class DWConv(Conv):
    pass


class Bottleneck(nn.Module):
    def __init__(self, c1: int, c2: int, shortcut: bool = True, hidden: int | None = None):
        super().__init__()
        hidden = c2 // 2 if hidden is None else hidden
        self.cv1, self.cv2, self.add = Conv(c1, hidden, 3), Conv(hidden, c2, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    def __init__(self, c1: int, c2: int, inner: Sequence[nn.Module], c: int):
        super().__init__()
        self.c = c
        self.cv1, self.cv2 = Conv(c1, 2 * c), Conv((2 + len(inner)) * c, c2)
        self.m = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        seen = list(self.cv1(x).chunk(2, 1))
        for module in self.m:
            seen.append(module(seen[-1]))
        return self.cv2(torch.cat(seen, 1))


class C3k2(C2f):
    pass


class C2f_v2(nn.Module):
    """What pruning tools put in its place: the first convolution as two, of any widths."""

    def __init__(self, c1: int, c2: int, inner: Sequence[nn.Module], past: int, through: int):
        super().__init__()
        self.cv0, self.cv1 = Conv(c1, past), Conv(c1, through)
        self.cv2 = Conv(past + (1 + len(inner)) * through, c2)
        self.m = nn.ModuleList(inner)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.cv0(x), self.cv1(x)]
        for module in self.m:
            seen.append(module(seen[-1]))
        return self.cv2(torch.cat(seen, 1))


class C3k(nn.Module):
    def __init__(self, c: int):
        super().__init__()
        half = c // 2
        self.cv1, self.cv2, self.cv3 = Conv(c, half), Conv(c, half), Conv(2 * half, c)
        self.m = nn.Sequential(Bottleneck(half, half, hidden=half), Bottleneck(half, half, hidden=half))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C3(nn.Module):
    """The block of YOLOv5, and of its "u" models with heads without anchors."""

    def __init__(self, c1: int, c2: int):
        super().__init__()
        c = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c), Conv(c1, c), Conv(2 * c, c2)
        self.m = nn.Sequential(Bottleneck(c, c, hidden=c))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPP(nn.Module):
    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 // 2 * 4, c2)
        self.m = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in (5, 9, 13))

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int, newer: bool = False):
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2, act=nn.Identity() if newer else None)
        self.cv2 = Conv(c1 // 2 * 4, c2)
        self.m = nn.MaxPool2d(5, 1, 2)
        if newer:
            self.n, self.add = 3, True

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.cv1(x)]
        for _ in range(3):
            seen.append(self.m(seen[-1]))
        y = self.cv2(torch.cat(seen, 1))
        return y + x if hasattr(self, "add") else y


class Attention(nn.Module):
    def __init__(self, c: int, heads: int):
        super().__init__()
        self.num_heads, self.head_dim = heads, c // heads
        self.key_dim = self.head_dim // 2
        self.scale = self.key_dim**-0.5
        self.qkv = Conv(c, c + 2 * self.key_dim * heads, act=nn.Identity())
        self.proj = Conv(c, c, act=nn.Identity())
        self.pe = Conv(c, c, 3, g=c, act=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        rows = self.qkv(x).flatten(2).unflatten(1, (self.num_heads, -1))
        q, k, v = rows.split([self.key_dim, self.key_dim, self.head_dim], 2)
        share = torch.softmax(torch.einsum("bhdn,bhdm->bhnm", q, k) * self.scale, -1)
        seen = torch.einsum("bhdm,bhnm->bhdn", v, share).reshape(b, c, h, w)
        return self.proj(seen + self.pe(v.reshape(b, c, h, w)))


class PSABlock(nn.Module):
    def __init__(self, c: int, heads: int = 2):
        super().__init__()
        self.attn, self.add = Attention(c, heads), True
        self.ffn = nn.Sequential(Conv(c, 2 * c), Conv(2 * c, c, act=nn.Identity()))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        return x + self.ffn(x)


class C2PSA(nn.Module):
    def __init__(self, c1: int):
        super().__init__()
        self.c = c1 // 2
        self.cv1, self.cv2 = Conv(c1, c1), Conv(c1, c1)
        self.m = nn.Sequential(PSABlock(self.c))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        return self.cv2(torch.cat((a, self.m(b)), 1))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d = 1

    def forward(self, xs: list[Tensor]) -> Tensor:
        return torch.cat(xs, 1)


class DFL(nn.Module):
    def __init__(self, bins: int):
        super().__init__()
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.conv.weight.data[:] = torch.arange(bins).float().view(1, bins, 1, 1)


class Detect(nn.Module):
    def __init__(self, nc: int, channels: Sequence[int], strides: Sequence[int], bins: int, newer: bool, pairs: bool):
        super().__init__()
        self.nc, self.nl, self.reg_max, self.stride = nc, len(channels), bins, torch.tensor(strides).float()
        self.dfl = DFL(bins) if bins > 1 else nn.Identity()
        for prefix in ("", "one2one_")[: 1 + pairs]:
            setattr(self, f"{prefix}cv2", nn.ModuleList(self.tower(c, 8, 4 * bins, False) for c in channels))
            setattr(self, f"{prefix}cv3", nn.ModuleList(self.tower(c, 12, nc, newer) for c in channels))

    def tower(self, c: int, hidden: int, out: int, depthwise: bool) -> nn.Sequential:
        if depthwise:
            first = nn.Sequential(DWConv(c, c, 3, g=c), Conv(c, hidden))
            second: nn.Module = nn.Sequential(DWConv(hidden, hidden, 3, g=hidden), Conv(hidden, hidden))
        else:
            first, second = Conv(c, hidden, 3), Conv(hidden, hidden, 3)  # type: ignore[assignment]
        return nn.Sequential(first, second, nn.Conv2d(hidden, out, 1))

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Raw heads ``(B, 4 bins + C, H, W)``."""
        prefixes = ("", "one2one_")[: 1 + hasattr(self, "one2one_cv2")]
        pairs = [(getattr(self, f"{prefix}cv2"), getattr(self, f"{prefix}cv3")) for prefix in prefixes]
        return [torch.cat((s(x), c(x)), 1) for sides, classes in pairs for s, c, x in zip(sides, classes, xs)]


class DetectionModel(nn.Module):
    """A small network of one of the families with heads at so many strides from 8 on.

    8, 11 and 26 are made of their own blocks, 3 and 5 of those of YOLOv3 and v5, as yolov3u and yolov5nu are.
    """

    def __init__(self, family: int = 8, nc: int = 3, heads: int = 3, block: nn.Module | None = None, width: int = 16):
        super().__init__()
        newer, w = family > 8, width
        first = {3: nn.Sequential(Bottleneck(w, w), Bottleneck(w, w)), 5: C3(w, w)}.get(family)
        second = {3: Bottleneck(w, w), 5: C3(w, w)}.get(family)
        layers: list[tuple[int | list[int], nn.Module]] = [
            (-1, Conv(3, 8, 6, 2, p=2) if family == 5 else Conv(3, 8, 3, 2)),
            (-1, Conv(8, w, 3, 2)),
            (-1, block or first or C2f(w, w, [Bottleneck(w // 2, w // 2, hidden=w // 2)], w // 2)),
            (-1, Conv(w, w, 3, 2)),
            (-1, second or (C3k2(w, w, [C3k(w // 2)], w // 2) if newer else C2f(w, w, [], w // 2))),
            (-1, Conv(w, 2 * w, 3, 2)),
            (-1, SPP(2 * w, 2 * w) if family == 3 else SPPF(2 * w, 2 * w, newer=family == 26)),
        ]
        if newer:
            layers.append((-1, C2PSA(2 * w)))
        layers += [
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 4], Concat()),
        ]
        last = nn.Sequential(Bottleneck(w // 2, w // 2), PSABlock(w // 2))
        inner: nn.Module = last if family == 26 else Bottleneck(w // 2, w // 2, shortcut=False)
        layers.append((-1, C3k2(3 * w, w, [inner], w // 2)))
        reads = [len(layers) - 1]
        for _ in range(heads - 1):
            layers.append((-1, Conv(w, w, 3, 2)))
            reads.append(len(layers) - 1)
        strides = [8 * 2**number for number in range(heads)]
        bins = 1 if family == 26 else 16
        layers.append((reads, Detect(nc, [w] * heads, strides, bins, newer, family == 26)))  # type: ignore[arg-type]
        for number, (source, layer) in enumerate(layers):
            layer.f, layer.i = source, number  # type: ignore[assignment]
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.names = {number: f"class {number}" for number in range(nc)}
        self.args: dict[str, Any] = {"imgsz": 320, "task": "detect"}
        self.stride = torch.tensor(strides).float()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.3)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.05, 0.5)
        self.half().float()  # checkpoints are FP16
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        outs: list[Any] = []
        for layer in self.model:
            f = layer.f
            x = layer(x if not outs else outs[f] if isinstance(f, int) else [outs[i] for i in f])
            outs.append(x)
        return outs[-1]

    def fuse(self) -> DetectionModel:
        """Each BatchNorm into its convolution, as for inference."""
        for module in self.modules():
            if isinstance(module, Conv) and hasattr(module, "bn"):
                module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
                delattr(module, "bn")
                module.forward = module.forward_fuse  # type: ignore[method-assign]
        return self


HOMES = {
    "ultralytics.nn.tasks": [DetectionModel],
    "ultralytics.nn.modules.conv": [Conv, DWConv, Concat],
    "ultralytics.nn.modules.block": [Bottleneck, C2f, C3k2, C3, C3k, SPP, SPPF, Attention, PSABlock, C2PSA, DFL],
    "ultralytics.nn.modules.head": [Detect],
    "__main__": [C2f_v2],
}
OLD_HOMES = {
    "ultralytics.nn.tasks": [DetectionModel],
    "ultralytics.nn.modules": [cls for group in list(HOMES.values())[1:] for cls in group],
}


def save(content: object, path: Path, homes: dict[str, list[type]] | None = None) -> Path:
    """`torch.save` with our classes under the names that the training program gives them."""
    before: dict[str, types.ModuleType | None] = {}
    own = {cls: (cls.__module__, cls.__name__) for cls in (c for group in HOMES.values() for c in group)}
    try:
        for home, classes in (homes or HOMES).items():
            for end in range(1, home.count(".") + 2):
                package = ".".join(home.split(".")[:end])
                if package not in before:
                    before[package] = sys.modules.get(package)
                    sys.modules[package] = types.ModuleType(package)
            for cls in classes:
                cls.__module__ = home
                setattr(sys.modules[home], cls.__name__, cls)
        torch.save(content, path)
    finally:
        for cls, (module, _) in own.items():
            cls.__module__ = module
        for home, module_before in before.items():
            if module_before is None:
                sys.modules.pop(home, None)
            else:
                sys.modules[home] = module_before
    return path


def checkpoint(model: DetectionModel, path: Path, homes: dict[str, list[type]] | None = None, **more: object) -> Path:
    """Save `model` in FP16 as training does at its end."""
    save({"epoch": -1, "model": model.half(), "ema": None, "train_args": {}, **more}, path, homes)
    model.float()
    return path
