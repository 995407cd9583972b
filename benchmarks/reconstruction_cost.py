"""What solving a cut costs: seconds of CPU and the memory beside the two networks.

    python benchmarks/reconstruction_cost.py --cfg yolov3 --budget params=0.18 --imgsz 160 --pictures 64
    python benchmarks/reconstruction_cost.py --cfg yolov5n --budget params=0.1 --imgsz 320 --pictures 200

Random weights with BatchNorms whose strengths and statistics differ, on pictures drawn by the built-in set: the time
depends on shapes alone. "Forward passes" is the least that any solution has to pay: both networks, and the cut one
once more for its error, over all pictures. Each line is measured in one process, one after the other.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch

import data
import models
import prune
from common.errors import run_cleanly
from models.network import Network

_MIB = 2**20


def alive(cfg: str) -> Network:
    """A network in which every channel says something."""
    generator = torch.Generator().manual_seed(0)
    net = models.load(cfg).eval()
    for layer in net.convolutions.values():
        if layer.bn is not None:
            layer.bn.weight.data.copy_(torch.rand(layer.bn.weight.shape, generator=generator) + 0.1)
    return net


def pictures(count: int, size: int) -> torch.Tensor:
    """``(count, 3, size, size)`` in 0..1."""
    shown = data.Dataset(data.load_spec("shapes"), "train", (size, size))
    return torch.stack([shown[number].image for number in range(count)]).float() / 255


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", default="yolov5n", help="a cfg file or the name of a shipped one")
    parser.add_argument("--budget", default="params=0.1", help="as --prune")
    parser.add_argument("--imgsz", type=int, default=320, help="side of the pictures")
    parser.add_argument("--pictures", type=int, default=200, help="at most 200 are used")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    net, images = alive(arguments.cfg), pictures(arguments.pictures, arguments.imgsz)
    prune.reestimate(net, images[:32].split(8))
    size = (arguments.imgsz, arguments.imgsz)
    thin = prune.channels(net, budget=arguments.budget, size=size).network.eval()
    print(f"{arguments.cfg}: {models.parameters(net):,} -> {models.parameters(thin):,} parameters", flush=True)
    with torch.no_grad():
        began = time.process_time()
        for part in images.split(16):
            for each in (net, thin, thin):
                each(part)
        passes = time.process_time() - began
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    report = prune.reconstruct(thin, net, images)
    seconds = time.process_time() - began
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 / _MIB
    print(f"forward passes: {passes:.1f} s of CPU; solving {len(report.layers)} convolutions: {seconds:.1f} s")
    print(f"memory above the networks, the pictures and a forward pass: {more:,.0f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(run_cleanly(main))
