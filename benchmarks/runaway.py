"""On which pictures a network's activations run away, and what it then detects there.

    python benchmarks/runaway.py --weights runs/.../best.pt --data hand_gesture/data.yaml --split val --imgsz 160

A line a BatchNorm: the largest output of a picture by absolute value, of the median picture and the worst, and how
many pictures are over ten times the median. Then the most confident false boxes. In training a batch's own statistics
bound a picture, at inference nothing does: a network may be right on most and certain of nonsense on a few.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

import torch
from torch import Tensor, nn

import models
from common.errors import run_cleanly
from data import Dataset, load_spec, make_loader
from engine.evaluate import detect
from engine.metrics import claimed
from export.opening import input_size
from reporting.tables import table

FAR, SHOWN = 10, 10


def largest(net: models.Network, pictures: Dataset) -> dict[int, Tensor]:
    """Layer -> the largest output of its BatchNorm by absolute value, of each picture ``(n,)``."""
    found: dict[int, list[Tensor]] = {}

    def note(number: int, module: nn.Module, inputs: object, output: Tensor) -> None:
        found.setdefault(number, []).append(output.abs().amax((1, 2, 3)))

    for number, conv in net.convolutions.items():
        if conv.bn is not None:
            conv.bn.register_forward_hook(partial(note, number))
    with torch.no_grad():
        for batch in make_loader(pictures, 16, shuffle=False):
            net(batch.prepared("cpu").images)
    return {number: torch.cat(parts) for number, parts in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="a .pt")
    parser.add_argument("--data", required=True, help="the data set's yaml")
    parser.add_argument("--split", default="val")
    parser.add_argument("--imgsz", default="", help="(default: the network's own)")
    arguments = parser.parse_args()
    net = models.load(arguments.weights).eval()
    spec = load_spec(arguments.data)
    pictures = Dataset(spec, arguments.split, input_size(arguments.imgsz, net), cache="ram")
    found, _ = detect(net, make_loader(pictures, 16, shuffle=False))
    wrong = []
    for path, boxes in zip(pictures.pictures, found, strict=True):
        for row, place in zip(boxes.detections, claimed(boxes), strict=True):
            if place < 0:
                wrong.append((float(row[4]), path.name, " ".join(f"{side:.0f}" for side in row[:4])))
    rows = []
    for number, values in largest(net, pictures).items():
        median, worst = values.median(), int(values.argmax())
        far = int((values > FAR * median).sum())
        rows.append([f"{number}", f"{median:.1f}", f"{values.max():.1f}", f"{far}", pictures.pictures[worst].name[:40]])
    print(table(["layer", "median", "worst", f"over {FAR} x", "worst picture"], rows))
    print("\nthe most confident false boxes")
    shown = [[f"{confidence:.3f}", box, name[:60]] for confidence, name, box in sorted(wrong, reverse=True)[:SHOWN]]
    print(table(["confidence", "x1 y1 x2 y2", "picture"], shown))
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
