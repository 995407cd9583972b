"""Which layers are compared."""

from __future__ import annotations

import pytest
import torch

import models
from distill.pairs import neck_output, pairs_at_heads, pairs_on_lineage
from models.lineage import descend, identity_step
from models.network import Network
from tests import nets
from tests.distill.material import tiny_network


@pytest.mark.parametrize("name", ["yolov3", "yolov3-tiny", "yolov4", "yolov4-tiny", "yolov5s", "demo"])
def test_every_head_is_fed_by_a_map_of_its_own_size(name: str) -> None:
    with torch.device("meta"):  # only its structure is asked for
        net = Network(models.read_cfg(models.cfg_path(name)))
    layers = [neck_output(net, head) for head in range(len(net.specs))]
    assert len(set(layers)) == len(layers)
    assert [net.strides[layer] for layer in layers] == [spec.stride for spec in net.specs]


def test_what_the_heads_last_3x3_reads_is_the_necks_output() -> None:
    net = models.load("yolov3-tiny")
    sections = net.cfg.layers
    for head, wide in ((0, 512), (1, 256)):
        layer = neck_output(net, head)
        tower = sections[layer + 1]
        assert tower.int("size") == 3 if head == 0 else True
        assert net.output_channels(net.head_convolutions[head] - 1) == wide
    assert net.output_channels(neck_output(net, 0)) == 256  # the 1x1 before the 512
    assert sections[neck_output(net, 1)].kind == "route"  # its 3x3 reads a concatenation


def test_what_all_towers_of_a_head_read_is_the_necks_output() -> None:
    net = Network(models.parse_cfg(nets.detect()))
    assert [neck_output(net, head) for head in (0, 1)] == [0, 9]


def test_a_head_of_one_1x1_is_fed_by_what_that_reads() -> None:
    net = models.load("yolov5n")
    for head, conv in enumerate(net.head_convolutions):
        assert neck_output(net, head) == net._inputs[conv][0]


def test_pairs_take_the_teachers_heads_in_the_students_order() -> None:
    student, teacher = tiny_network(8), tiny_network(16)
    swapped = pairs_at_heads(student, teacher, (1, 0))
    straight = pairs_at_heads(student, teacher, (0, 1))
    assert [p.teacher_layer for p in swapped] == [p.teacher_layer for p in straight][::-1]
    assert [(p.head, p.stride, p.student_channels, p.teacher_channels) for p in straight] == [
        (0, 8, 8, 16),
        (1, 16, 8, 16),
    ]


def test_paired_maps_have_equal_sizes() -> None:
    student, teacher = models.load("yolov3-tiny", classes=2), tiny_network(16)
    images = torch.zeros(1, 3, 64, 64)
    for one in (student, teacher):
        layers = [neck_output(one, head) for head in range(len(one.specs))]
        maps = one.forward_features(images, layers)[1]
        for layer, spec in zip(layers, one.specs):
            assert maps[layer].shape[2:] == (64 // spec.stride, 64 // spec.stride)


def test_stages_end_where_the_size_changes_and_at_the_heads() -> None:
    fat, student = models.load("yolov3-tiny", classes=2), models.load("yolov3-tiny", classes=2)
    student.lineage = descend(fat, "baseline", identity_step(fat))
    pairs = pairs_on_lineage(student, fat)
    # Backbone at stride 16; head at 32 and the lateral that leaves for 16; head at 16. Strides below 16 have no head.
    assert [(pair.student_layer, pair.stride) for pair in pairs] == [(8, 16), (14, 32), (18, 32), (21, 16)]
