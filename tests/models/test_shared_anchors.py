"""One list of anchors, several heads: no head's anchors are changed through another's mask, in memory or in files."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from common.errors import UserError
from data.anchors import boxes_wh, check_anchors, choose_anchors
from data.spec import load_spec
from models.dropping import drop_heads
from models.network import Network
from prune.heads import head_shares
from tests.alive import alive
from tests.data.made import many
from tests.nets import RESIDUAL
from tests.opencv import needs_opencv_4, opencv_network

SHIPPED = ["yolov3-tiny", "yolov4-tiny", "yolov3", "yolov5n"]


def network(*masks: str | None) -> Network:
    """The residual network, its heads (strides 16 and 8) with these masks of one list of six; None: no `mask=`."""
    text = RESIDUAL
    for old, mask in zip(("3,4,5", "0,1,2"), masks, strict=True):
        count = 6 if mask is None else len(mask.split(","))
        head = f"filters=24(\n[^\\[]*\\[yolo\\]\n)mask={old}\n"
        assert re.search(head, text)
        line = "" if mask is None else f"mask={mask}\n"
        text = re.sub(head, lambda found, n=count, line=line: f"filters={8 * n}{found[1]}{line}", text)
    return alive(Network(models.parse_cfg(text)))


MASKS = {
    "separate": ("3,4,5", "0,1,2"),
    "yolov3-tiny": ("3,4,5", "1,2,3"),
    "overlap of two": ("1,2,3", "0,1,2"),
    "the same": ("0,1,2", "0,1,2"),
    "in another order": ("2,0,1", "1,2,0"),
    "unequal numbers": ("1,2,3,4", "0,1"),
    "one names one twice": ("3,3,5", "0,1,2"),
    "no masks": (None, None),
    "one without a mask": (None, "0,1,2"),
    "unused anchors": ("4,5", "1,2"),
    "overlap and unused": ("2,3", "1,2"),
}


def new_anchors(net: Network) -> list[tuple[tuple[float, float], ...]]:
    """Anchors no two of which are equal, none of them one of the file's."""
    return [
        tuple((10.25 + 20 * head + place, 7.0 + 20 * head + place) for place in range(len(spec.anchors)))
        for head, spec in enumerate(net.specs)
    ]


def anchors_of(net: Network) -> list[tuple[tuple[float, float], ...]]:
    return [spec.anchors for spec in net.specs]


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_every_head_has_the_anchors_it_was_given_in_memory_and_in_every_file(masks, tmp_path: Path):
    net = network(*masks)
    wanted, heads = new_anchors(net), net(torch.rand(1, 3, 64, 64))
    net.with_anchors(wanted)
    assert anchors_of(net) == wanted
    models.save(net, tmp_path / "net.pt")
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    for again in (
        Network(models.parse_cfg(net.cfg.text())),
        models.load(tmp_path / "net.pt"),
        models.load(tmp_path / "net.cfg", weights=tmp_path / "net.weights"),
        models.load(tmp_path / "net.pt", classes=7),
    ):
        assert anchors_of(again) == wanted
    torch.testing.assert_close(models.load(tmp_path / "net.pt").decode(heads), net.decode(heads), rtol=0, atol=0)
    other = [tuple((width + 1, height + 2) for width, height in head) for head in wanted]
    assert anchors_of(net.with_anchors(other)) == other, "and once more"


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_weights_bring_every_head_its_own_anchors(masks, tmp_path: Path):
    net = network(*masks)
    (tmp_path / "net.cfg").write_text(net.cfg.text())
    models.save(net.with_anchors(new_anchors(net)), tmp_path / "fitted.pt")
    assert anchors_of(models.load(tmp_path / "net.cfg", weights=tmp_path / "fitted.pt")) == anchors_of(net)


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("fitted", [False, True])
def test_the_other_head_keeps_its_anchors_when_one_goes(masks, fitted):
    for gone in (0, 1):
        net = network(*masks)
        if fitted:
            net.with_anchors(new_anchors(net))
        thin = drop_heads(net, [gone])
        assert anchors_of(thin) == [net.specs[1 - gone].anchors]
        assert anchors_of(thin.with_anchors(new_anchors(thin))) == new_anchors(thin)


def test_masks_that_do_not_overlap_keep_the_layout_of_the_file():
    net = network("3,4,5", "0,1,2")
    net.with_anchors(new_anchors(net))
    sections = net.cfg.heads
    assert [section.str("mask") for section in sections] == ["3,4,5", "0,1,2"]
    assert sections[0].str("anchors") == sections[1].str("anchors")


def test_masks_that_overlap_become_one_list_in_which_each_head_masks_its_own():
    net = network("1,2,3", "0,1,2")
    net.with_anchors(new_anchors(net))
    sections = net.cfg.heads
    assert [section.str("mask") for section in sections] == ["0,1,2", "3,4,5"]
    assert [section.int("num") for section in sections] == [6, 6]
    assert sections[0].str("anchors") == sections[1].str("anchors")


def test_two_region_heads_with_the_same_list_get_one_each():
    region = "\n[region]\nanchors=0.6,0.8, 1.5,2.1\nclasses=3\ncoords=4\nnum=2\nsoftmax=1\n"
    text = re.sub(r"\n\[yolo\]\n[^\[]*", region, RESIDUAL.replace("filters=24\nsize=1", "filters=16\nsize=1"))
    net = Network(models.parse_cfg(text))
    assert len(net.cfg.heads) == 2
    net.with_anchors(wanted := [((32.0, 16.0), (8.0, 8.0)), ((4.0, 4.0), (12.0, 20.0))])
    assert anchors_of(net) == wanted == anchors_of(Network(models.parse_cfg(net.cfg.text())))


def test_heads_with_lists_of_their_own_keep_them_apart():
    text = RESIDUAL.replace("mask=0,1,2\nanchors=6,7,", "mask=0,0,2\nanchors=5,5,")
    net = Network(models.parse_cfg(text))
    net.with_anchors(wanted := new_anchors(net))
    assert anchors_of(net) == wanted == anchors_of(Network(models.parse_cfg(net.cfg.text())))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_take_anchors_for_every_head(name):
    net = models.load(name, classes=3)
    net.with_anchors(wanted := new_anchors(net))
    assert anchors_of(net) == wanted == anchors_of(Network(models.parse_cfg(net.cfg.text())))


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_the_fit_that_is_reported_is_that_of_the_anchors_in_use(masks, tmp_path: Path):
    net, spec = network(*masks), load_spec(many(tmp_path, 24))
    before = check_anchors(boxes_wh(spec, (64, 64)), _all(net))
    anchors, message = choose_anchors("fit", spec, net.specs, (64, 64))
    assert anchors is not None
    after = check_anchors(boxes_wh(spec, (64, 64)), _all(net.with_anchors(anchors)))
    assert f"recall {before[0]:.3f} -> {after[0]:.3f}, mean IoU {before[1]:.3f} -> {after[1]:.3f}" in message


def _all(net: Network) -> np.ndarray:
    return np.array([anchor for spec in net.specs for anchor in spec.anchors])


@pytest.mark.parametrize("bad", [0.0, -3.0, float("nan"), float("inf")])
def test_sizes_that_are_none_are_refused_and_change_nothing(bad):
    net = network("1,2,3", "0,1,2")
    text = net.cfg.text()
    wanted = [list(head) for head in new_anchors(net)]
    wanted[1][1] = (5.0, bad)
    with pytest.raises(UserError, match="above 0 and finite"):
        net.with_anchors(wanted)
    assert net.cfg.text() == text


def test_a_head_whose_anchors_are_all_another_s_too_is_not_idle():
    specs = network("1,2,3", "1,2,3").specs
    boxes = np.array([specs[0].anchors[0]] * 50)
    assert head_shares(boxes, specs).tolist() == [0.5, 0.5]
    specs = network("1,2,3", "0,1,2").specs  # the first and second of head 0 are the second and third of head 1
    boxes = np.array([specs[0].anchors[1]] * 3 + [specs[0].anchors[2]])
    assert head_shares(boxes, specs).tolist() == [0.625, 0.375]


@needs_opencv_4
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_opencv_reads_the_same_boxes_from_the_written_files(masks, tmp_path: Path):
    net = network(*masks)
    net.with_anchors(new_anchors(net))
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    theirs = opencv_network(tmp_path / "net.cfg", tmp_path / "net.weights")
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    theirs.setInput(images.numpy())
    with torch.no_grad():
        heads = net(images)
    outs = theirs.forward([name for name in theirs.getLayerNames() if name.startswith("yolo_")])
    for head, spec, out in zip(heads, net.specs, outs, strict=True):
        ours = spec.decode(head).permute(0, 2, 3, 1, 4).reshape(-1, 5 + spec.classes)
        boxes = torch.from_numpy(out).reshape(-1, 5 + spec.classes)[:, :4] * 64
        assert (ours[:, :4] - boxes).abs().max() < 1e-4 * boxes.abs().max()
