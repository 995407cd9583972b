"""A stand-in for the program that trains YOLOv5: builds its module tree, runs it, and saves checkpoints as it does.

Written from the structure of release 6; the classes carry the foreign module names (`models.common.Conv`) only while a
checkpoint is saved, so that the file refers to classes nobody here has.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

import torch
from torch import Tensor, nn

# letter -> (width multiple, depth multiple)
SIZES = {"n": (0.25, 0.33), "s": (0.5, 0.33), "m": (0.75, 0.67)}
ANCHORS = [[[10, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]], [[116, 90], [156, 198], [373, 326]]]


class Conv(nn.Module):
    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None):
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2 if p is None else p, bias=False)
        self.bn = nn.BatchNorm2d(c2, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, c: int, shortcut: bool):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(c, c), Conv(c, c, 3), shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C3(nn.Module):
    def __init__(self, c1: int, c2: int, n: int, shortcut: bool):
        super().__init__()
        c = c2 // 2
        self.cv1, self.cv2, self.cv3 = Conv(c1, c), Conv(c1, c), Conv(2 * c, c2)
        self.m = nn.Sequential(*(Bottleneck(c, shortcut) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class SPPF(nn.Module):
    def __init__(self, c1: int, c2: int):
        super().__init__()
        self.cv1, self.cv2 = Conv(c1, c1 // 2), Conv(c1 * 2, c2)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        views = [self.cv1(x)]
        for _ in range(3):
            views.append(self.m(views[-1]))
        return self.cv2(torch.cat(views, 1))


class Concat(nn.Module):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return torch.cat(xs, 1)


class Detect(nn.Module):
    def __init__(self, nc: int, channels: list[int], anchors: list):
        super().__init__()
        self.nc, self.stride = nc, torch.tensor([8.0, 16.0, 32.0])
        self.register_buffer("anchors", torch.tensor(anchors).float() / self.stride.view(3, 1, 1))
        self.m = nn.ModuleList(nn.Conv2d(c, 3 * (5 + nc), 1) for c in channels)

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        """Raw heads, `(B, A, H, W, 5 + C)`."""
        outs = [m(x) for m, x in zip(self.m, xs)]
        return [out.unflatten(1, (3, 5 + self.nc)).permute(0, 1, 3, 4, 2) for out in outs]


class Model(nn.Module):
    """YOLOv5 of one size; BatchNorm statistics and weights are random, so that nothing in the network is neutral."""

    def __init__(self, letter: str = "n", nc: int = 80, names: list | dict | None = None, anchors: list | None = None):
        super().__init__()
        width, depth = SIZES[letter]
        c1, c2, c3, c4, c5 = (int(width * c) for c in (64, 128, 256, 512, 1024))
        n3, n6, n9 = (max(round(depth * n), 1) for n in (3, 6, 9))
        layers: list[tuple[int | list[int], nn.Module]] = [
            (-1, Conv(3, c1, 6, 2, 2)),
            (-1, Conv(c1, c2, 3, 2)),
            (-1, C3(c2, c2, n3, True)),
            (-1, Conv(c2, c3, 3, 2)),
            (-1, C3(c3, c3, n6, True)),
            (-1, Conv(c3, c4, 3, 2)),
            (-1, C3(c4, c4, n9, True)),
            (-1, Conv(c4, c5, 3, 2)),
            (-1, C3(c5, c5, n3, True)),
            (-1, SPPF(c5, c5)),
            (-1, Conv(c5, c4)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 6], Concat()),
            (-1, C3(c5, c4, n3, False)),
            (-1, Conv(c4, c3)),
            (-1, nn.Upsample(None, 2, "nearest")),
            ([-1, 4], Concat()),
            (-1, C3(c4, c3, n3, False)),
            (-1, Conv(c3, c3, 3, 2)),
            ([-1, 14], Concat()),
            (-1, C3(c4, c4, n3, False)),
            (-1, Conv(c4, c4, 3, 2)),
            ([-1, 10], Concat()),
            (-1, C3(c5, c5, n3, False)),
            ([17, 20, 23], Detect(nc, [c3, c4, c5], anchors or ANCHORS)),
        ]
        for reads, layer in layers:
            layer.f = reads  # type: ignore[assignment]
        self.model = nn.Sequential(*(layer for _, layer in layers))
        self.names = names if names is not None else [f"class {number}" for number in range(nc)]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.01, 0.5)
        self.half().float()  # checkpoints are FP16
        self.eval()

    def forward(self, x: Tensor) -> list[Tensor]:
        outs: list[Tensor] = []
        for layer in self.model:
            reads = layer.f
            x = layer(outs[reads] if isinstance(reads, int) else [outs[i] for i in reads]) if outs else layer(x)
            outs.append(x)
        return outs[-1]  # type: ignore[return-value]


def save(content: object, path: Path, **options: object) -> None:
    """`torch.save` with our classes under the names that the training program gives them."""
    homes = {Model: "models.yolo", Detect: "models.yolo"}
    classes = (Conv, Bottleneck, C3, SPPF, Concat, Detect, Model)
    before = {name: sys.modules.get(name) for name in ("models.yolo", "models.common")}
    try:
        for name in before:
            sys.modules[name] = types.ModuleType(name)
        for cls in classes:
            cls.__module__ = homes.get(cls, "models.common")
            setattr(sys.modules[cls.__module__], cls.__name__, cls)
        torch.save(content, path, **options)  # type: ignore[arg-type]
    finally:
        for cls in classes:
            cls.__module__ = __name__
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module


def checkpoint(model: Model, path: Path, **more: object) -> Path:
    """Save `model` in FP16 as train.py does at its end."""
    save({"epoch": -1, "best_fitness": None, "model": model.half(), "ema": None, "optimizer": None, **more}, path)
    model.float()
    return path
