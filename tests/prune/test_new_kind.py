"""A kind of section that the program has never heard of, added by one record: read, written, costed, cut, loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import models
import prune
from common.errors import UserError
from models.cfg import Section
from models.kinds import KINDS, SectionKind
from models.layers import BN_EPS, Layer, Size
from prune.fold import leftovers
from prune.surgery import thin_network
from tests.alive import alive, noise
from tests.nets import NET, conv, yolo
from tests.prune import traced
from tests.prune.reference import TOLERANCE, keep_mask, wither

PAIR = "\n[pair]\ninside=16\nfilters=12\nspeed=3\n"
TEXT = NET + conv(8, stride=2) + PAIR + conv(12) + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")


class Pair(Layer):
    """Two convolutions with their BatchNorms and rectifiers."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        inside, self.out_channels = section.int("inside"), section.int("filters")
        self.first = nn.Conv2d(channels[0], inside, 3, padding=1, bias=False)
        self.first_bn = nn.BatchNorm2d(inside, BN_EPS)
        self.second = nn.Conv2d(inside, self.out_channels, 3, padding=1, bias=False)
        self.second_bn = nn.BatchNorm2d(self.out_channels, BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_bn(self.first(x)).relu()
        return self.second_bn(self.second(x)).relu()

    def conv_sizes(self, *sizes: Size) -> dict[str, Size]:
        return {"first": sizes[0], "second": sizes[0]}

    def set_width(self, section: Section, tensors: Mapping[str, Tensor]) -> None:
        section.set("inside", len(tensors["first.weight"]))
        section.set("filters", len(tensors["second.weight"]))


RECORD = SectionKind(
    "pair",
    layer=lambda: Pair,
    effect=frozenset({"inside", "filters"}),
    training=frozenset({"speed"}),
    off={"shuffle": "0"},
    darknet=False,
    opencv_problem=lambda section: "knows no [pair]",
)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "pair", RECORD)


def test_its_keys_are_read_refused_and_written() -> None:
    cfg = models.parse_cfg(TEXT)
    assert models.parse_cfg(cfg.text()).text() == cfg.text()
    assert cfg.structure() == models.parse_cfg(TEXT.replace("speed=3", "speed=4")).structure()
    assert cfg.structure() != models.parse_cfg(TEXT.replace("inside=16", "inside=8")).structure()
    assert models.opencv_problems(models.portable(cfg)) == ["knows no [pair] (layer 1, [pair])"]
    for wrong, says in (("inisde=8", "did you mean inside="), ("shuffle=1", "only shuffle=0 is accepted")):
        with pytest.raises(UserError, match=says):
            models.parse_cfg(TEXT.replace("speed=3", wrong))


def test_its_convolutions_are_counted() -> None:
    net = alive(models.Network(models.parse_cfg(TEXT)))
    with FlopCounterMode(display=False) as counter:
        net(torch.rand(1, 3, 64, 64))
    assert 2 * models.macs(net, (64, 64)) == counter.get_total_flops()
    changed = models.fingerprint(net)
    with torch.no_grad():
        net.state_dict()["layers.1.second.weight"][0] += 1
    assert models.fingerprint(net) != changed


def test_it_does_not_get_into_a_darknet_file(tmp_path: Path) -> None:
    net = models.Network(models.parse_cfg(TEXT))
    with pytest.raises(UserError, match=r"\[pair\] has no Darknet word"):
        models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"a \[pair\] section has no place in a .weights file"):
        models.load_darknet(net, tmp_path / "net.weights")


def test_its_channels_are_cut_and_the_thin_network_equals_the_fat_one(tmp_path: Path) -> None:
    net = alive(models.Network(models.parse_cfg(TEXT)), dtype=torch.float64)
    graph, images = prune.trace(net), noise(net, (64, 64), torch.Generator().manual_seed(7))
    wither(net, graph, 0.5, 0)
    result = prune.channels(net, ratio=0.5).network
    pair = result.cfg.layers[1]
    assert 0 < pair.int("inside") < 16
    assert 0 < pair.int("filters") < 12
    keep = keep_mask(graph, result)
    plain, folded = thin_network(net, graph, keep), thin_network(net, graph, keep, leftovers(net, graph, keep))
    assert traced.distance(plain, traced.dropped_at_zero(net, graph, keep), images) < TOLERANCE
    assert traced.distance(folded, traced.gammas_at_zero(net, graph, keep), images) < TOLERANCE
    assert traced.distance(folded, plain, images) > 1e-4
    models.save(result, tmp_path / "thin.pt")
    again = models.load(tmp_path / "thin.pt")
    assert models.fingerprint(again) == models.fingerprint(result)
    assert set(again.lineage[0]["layers"]) == {"0", "1.first", "1.second", "2", "3"}


def test_traced_as_a_whole_it_keeps_every_channel_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Whole(Pair):
        traced_whole = True

    monkeypatch.setitem(KINDS, "pair", replace(RECORD, layer=lambda: Whole))
    graph = prune.trace(models.Network(models.parse_cfg(TEXT)))
    assert set(graph.convs) == {"layers.0.conv", "layers.2.conv", "layers.3.conv"}
    assert graph.fixed[graph.convs["layers.0.conv"].makes].all()
    assert not graph.fixed[graph.convs["layers.2.conv"].makes].any()
