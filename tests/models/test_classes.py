"""A network's classes beside a data set's: the same ones in another order, and others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

import models
from models.classes import class_order, one_numbering
from models.heads import decode_heads
from tests.alive import alive
from tests.nets import TINY, detect, dual

NETS = {**TINY, "detect": detect(), "dual": dual()}
OURS, THEIRS = ["red", "green", "blue"], ["Blue", "red ", "green"]
ORDER = [1, 2, 0]
"""Where each of ours is among theirs."""


def known_and_loaded(name: str, as_weights: bool, tmp_path: Path, names: list[str]) -> tuple[models.Network, ...]:
    """A network that knows THEIRS, and what is loaded for `names` from its file, or from a cfg with it as weights."""
    known = alive(models.Network(models.parse_cfg(NETS[name]), THEIRS))
    known.lineage = models.descend(known, "baseline", models.identity_step(known))
    path = tmp_path / f"{name}-{as_weights}.pt"
    models.save(known, path)
    (tmp_path / "net.cfg").write_text(NETS[name])
    source = (tmp_path / "net.cfg", path) if as_weights else (path,)
    return known.eval(), models.load(*source, names=names).eval()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("as_weights", [False, True], ids=["file", "weights of a cfg"])
def test_classes_in_another_order_are_taken_by_name(
    name: str, as_weights: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    known, net = known_and_loaded(name, as_weights, tmp_path, OURS)
    assert net.names == OURS
    assert "another order" in caplog.text
    images = torch.rand(2, 3, 64, 64)
    theirs, ours = (decode_heads(each(images), each.specs) for each in (known, net))
    first = theirs.shape[-1] - 3
    moved = [*range(first), *(first + number for number in ORDER)]
    torch.testing.assert_close(ours, theirs[..., moved])
    assert not torch.equal(ours, theirs)
    for number in net.head_convolutions:  # the lineage says of every channel which one of the file it is
        _, read = net.lineage
        assert read["sha256"] == models.fingerprint(known)
        kept = [entry["layers"][str(number)]["kept"] for entry in net.lineage]
        assert kept[0] == kept[1]
        assert torch.equal(net.convolutions[number].conv.weight, known.convolutions[number].conv.weight[kept[0]])


@pytest.mark.parametrize("name", [name for name in NETS if name != "rare"])  # its head is a softmax
@pytest.mark.parametrize("as_weights", [False, True], ids=["file", "weights of a cfg"])
def test_classes_that_a_network_of_more_knows_are_taken_by_name(
    name: str, as_weights: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    known, net = known_and_loaded(name, as_weights, tmp_path, ["green", "blue"])
    assert net.names == ["green", "blue"]
    assert "are among its 3" in caplog.text
    assert "anew" not in caplog.text
    images = torch.rand(2, 3, 64, 64)
    for spec, ours, theirs in zip(known.specs, net(images), known(images), strict=True):
        torch.testing.assert_close(ours, spec.select(theirs, range(spec.places), [2, 0]))
    _, read = net.lineage
    assert read["sha256"] == models.fingerprint(known)
    for number in net.head_convolutions:
        kept = read["layers"][str(number)]["kept"]
        assert torch.equal(net.convolutions[number].conv.weight, known.convolutions[number].conv.weight[kept])
    assert not any(each.is_meta for each in (*net.parameters(), *net.buffers()))


def test_a_softmax_over_fewer_classes_is_another_answer_so_its_head_begins_anew(tmp_path: Path) -> None:
    """Without the cat, whatever looked like one would be a dog."""
    models.save(alive(models.Network(models.parse_cfg(TINY["rare"]), THEIRS)), tmp_path / "net.pt")
    known, fewer = models.load(tmp_path / "net.pt"), models.load(tmp_path / "net.pt", names=THEIRS[:2], classes=2)
    assert known.specs[0].softmax
    head = known.head_convolutions[0]
    assert not torch.isin(fewer.convolutions[head].conv.weight, known.convolutions[head].conv.weight).any()
    assert models.load(tmp_path / "net.pt", names=THEIRS[::-1]).names == list(THEIRS[::-1]), "in another order, all"


def test_heads_start_anew_where_one_class_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    models.save(alive(models.Network(models.parse_cfg(TINY["csp"]), THEIRS)), tmp_path / "net.pt")
    assert models.load(tmp_path / "net.pt", names=["green", "cat"]).names == ["green", "cat"]
    assert "3 -> 2 classes: 1 head starts anew" in caplog.text


def test_other_classes_are_taken_by_number_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = alive(models.Network(models.parse_cfg(TINY["csp"]), THEIRS))
    models.save(net, tmp_path / "others.pt")
    again = models.load(tmp_path / "others.pt", names=["red", "cat", "dog"])
    assert again.names == ["red", "cat", "dog"]
    assert models.fingerprint(again) == models.fingerprint(net)
    assert "taken by number" in caplog.text
    assert "red, cat, dog" in caplog.text


@pytest.mark.parametrize("names", [["0", "1", "2"], THEIRS, [" BLUE", "Red", "green"]])
def test_nothing_is_said_where_names_agree_or_say_nothing(
    names: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    models.save(alive(models.Network(models.parse_cfg(TINY["csp"]), names)), tmp_path / "net.pt")
    assert models.load(tmp_path / "net.pt", names=THEIRS).names == THEIRS
    assert "classes" not in caplog.text


def test_order_of_classes() -> None:
    assert class_order(OURS, THEIRS) == tuple(ORDER)
    assert class_order(["green"], THEIRS) == (2,)
    assert class_order(["cat"], THEIRS) is None
    assert class_order(["red", "Red"], THEIRS) is None
    assert class_order(["red"], ["red", "Red", "green"]) is None
    assert class_order(["0", "1", "2"], THEIRS) is None
    assert class_order(OURS, ["0", "1", "2"]) is None


def test_several_networks_get_one_numbering_by_name() -> None:
    assert one_numbering([["cat", "dog"], ["Dog ", "bird"]]) == (["cat", "dog", "bird"], [(0, 1), (1, 2)])
    assert one_numbering([["cat", "dog"], ["0", "1"]]) == (["cat", "dog"], [(0, 1), (0, 1)])
    assert one_numbering([["0", "1"], ["cat", "dog"], ["dog"]]) == (["cat", "dog"], [(0, 1), (0, 1), (1,)])
    assert one_numbering([["cat"], ["0", "1"]]) == (["cat", "0", "1"], [(0,), (1, 2)])
    assert one_numbering([["cat", "cat"], ["cat"]]) == (["cat", "cat"], [(0, 1), (0,)])
