"""Both equalities on random small networks: every way of joining sections, at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import models
import prune
from models.cfg import parse_cfg
from tests.alive import alive
from tests.nets import conv, yolo
from tests.prune.reference import wither
from tests.prune.test_equality import check_both_equalities

ACTIVATIONS = ("leaky", "mish", "swish", "relu", "linear")


def random_cfg(seed: int) -> str:
    """Ten random sections on a 32 x 32 map between a stem and a head."""
    random = np.random.default_rng(seed)
    widths = [8 * int(random.integers(1, 3))]
    text = "[net]\nwidth=64\nheight=64\nchannels=3\n" + conv(widths[0], stride=2)
    for _ in range(10):
        here, width = len(widths), widths[-1]
        act = ACTIVATIONS[random.integers(len(ACTIVATIONS))]
        kind = random.choice(["conv", "conv", "depthwise", "grouped", "shortcut", "several", "route", "part", "pool"])
        if kind == "conv":
            widths.append(4 * int(random.integers(1, 6)))
            text += conv(widths[-1], int(random.choice([1, 3])), activation=act)
        elif kind == "depthwise":
            widths.append(width)
            text += conv(width, groups=width, activation=act)
        elif kind == "grouped" and width % 4 == 0:
            widths.append(8)
            text += conv(8, groups=int(random.choice([2, 4])), activation=act)
        elif kind in ("shortcut", "several") and here > 2:
            sources = random.choice(here - 1, size=1 if kind == "shortcut" else 2, replace=False)
            widths.append(width)
            text += f"\n[shortcut]\nfrom={','.join(map(str, sources))}\nactivation=leaky\n"
        elif kind == "route" and here > 1:
            sources = random.choice(here, size=2, replace=False)
            widths.append(sum(widths[source] for source in sources))
            text += f"\n[route]\nlayers={','.join(map(str, sources))}\n"
        elif kind == "part" and width % 4 == 0:
            widths.append(width // 2)
            text += f"\n[route]\nlayers=-1\ngroups=2\ngroup_id={random.integers(2)}\n"
        else:
            widths.append(width)
            text += "\n[maxpool]\nsize=3\nstride=1\n"
    return text + conv(16, stride=2) + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")


@pytest.mark.parametrize("seed", range(20))
def test_thin_equals_fat_for_random_networks(seed: int) -> None:
    net = alive(models.Network(parse_cfg(random_cfg(seed))), (64, 64), seed, torch.float64)
    wither(net, prune.trace(net), 0.5, seed)
    check_both_equalities(net, least=0)
