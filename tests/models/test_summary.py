import struct

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import models
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo


def tiny(name: str) -> models.Network:
    return models.Network(models.parse_cfg(TINY[name]))


def test_a_network_counted_by_hand():
    text = NET + conv(8, stride=2) + conv(8, groups=8) + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
    net = models.Network(models.parse_cfg(text))
    assert models.parameters(net) == (8 * 3 * 9 + 16) + (8 * 9 + 16) + (24 * 8 + 24)
    # 64 x 64 pictures, 32 x 32 cells.
    assert models.macs(net) == 32 * 32 * (8 * 3 * 9 + 8 * 9 + 24 * 8)
    statistics = 2 * 8 * 2
    assert models.weights_bytes(net) == struct.calcsize("<3iq") + 4 * (models.parameters(net) + statistics)


@pytest.mark.parametrize("name", TINY)
def test_macs_agree_with_torchs_flop_counter(name):
    net = alive(tiny(name))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(1, 3, 32, 64))
    assert 2 * models.macs(net, (32, 64)) == counter.get_total_flops()


@pytest.mark.parametrize("name", TINY)
def test_the_table_sums_to_the_whole_and_states_real_sizes(name):
    net = alive(tiny(name))
    table = models.layer_table(net, (32, 64))
    assert sum(row.parameters for row in table) == models.parameters(net)
    assert sum(row.macs for row in table) == models.macs(net, (32, 64))
    _, outputs = net.forward_features(torch.rand(1, 3, 32, 64), [row.index for row in table])
    for row, section in zip(table, net.cfg.layers):
        assert row.kind == section.kind
        if row.kind not in ("yolo", "region"):
            assert outputs[row.index].shape[1:] == (row.outputs, *row.size)


def test_macs_allocate_nothing_and_need_no_weights():
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path("yolov3")))
    assert models.macs(net, (416, 416)) > 3e10


def test_fingerprint_survives_every_way_of_saving_and_sees_every_change(tmp_path):
    net = alive(tiny("residual"))
    print_of = models.fingerprint(net)
    models.save(net, tmp_path / "net.pt")
    models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")
    assert models.fingerprint(models.load(tmp_path / "net.pt")) == print_of
    assert models.fingerprint(models.load(tmp_path / "net.cfg", tmp_path / "net.weights")) == print_of
    net.names = ["a", "b", "c"]
    net.cfg.net.set("burn_in", 5)
    net.with_image_size((96, 160))
    assert models.fingerprint(net) == print_of
    for change in (
        lambda: net.layers[0].bn.running_mean[0].add_(1e-3),
        lambda: net.layers[22].conv.bias[3].add_(1e-3),
        lambda: net.cfg.heads[0].set("scale_x_y", 1.1),
    ):
        before = models.fingerprint(net)
        with torch.no_grad():
            change()
        assert models.fingerprint(net) != before


def test_fingerprint_does_not_depend_on_the_number_format():
    net = alive(tiny("csp"))
    before = models.fingerprint(net)
    assert models.fingerprint(net.double()) == before
