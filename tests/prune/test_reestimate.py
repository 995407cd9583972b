"""BatchNorm statistics measured anew: what they become, and all that stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import models
import prune
from common.errors import UserError
from data.batch import Batch
from models.cfg import parse_cfg
from tests.alive import alive, noise
from tests.nets import TINY


def network(name: str = "residual") -> models.Network:
    return alive(models.Network(parse_cfg(TINY[name])), dtype=torch.float64)


def batches(net: models.Network, count: int = 3) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(5)
    return [noise(net, (64, 64), random) for _ in range(count)]


def test_the_first_norm_gets_the_mean_over_batches_of_its_inputs_statistics() -> None:
    net = network()
    found = batches(net)
    assert prune.reestimate(net, found) == 6
    with torch.no_grad():
        inputs = [net.convolutions[0].conv(images) for images in found]
    norm = net.convolutions[0].bn
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0))


def test_spoilt_statistics_come_back_and_nothing_else_changes() -> None:
    net = network("gated")  # has a dropout
    images = batches(net, 1)
    prune.reestimate(net, images)
    wanted = copy.deepcopy(net.state_dict())
    for layer in net.convolutions.values():
        if layer.bn is not None:
            layer.bn.running_mean += 1
            layer.bn.running_var *= 3
    net.train()
    net.layers[1].eval()
    modes = [module.training for module in net.modules()]
    momenta = [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    prune.reestimate(net, images)
    assert [module.training for module in net.modules()] == modes
    assert [module.momentum for module in net.modules() if isinstance(module, nn.BatchNorm2d)] == momenta
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_batches_of_the_loader_are_taken_in_their_own_number_format() -> None:
    net, same = network(), network()
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    prune.reestimate(net, [Batch(pictures, torch.zeros(0, 6), torch.arange(2))])
    prune.reestimate(same, [pictures.float() / 255])
    for one, two in zip(net.state_dict().values(), same.state_dict().values()):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)  # channels last sum up in another order


def test_after_a_cut_that_shifts_the_statistics_the_outputs_come_nearer_to_the_fat_network() -> None:
    net = network()
    images = batches(net, 1)
    thin = prune.channels(net, ratio=0.2, fold=False).network

    def away() -> float:
        with torch.no_grad():
            return sum(float((a - b).square().mean()) for a, b in zip(thin(images[0]), net(images[0]), strict=True))

    before = away()
    prune.reestimate(thin, images)
    assert away() < before


@pytest.mark.parametrize(
    "bad,words",
    [
        ([], "not one picture"),
        ([torch.full((2, 3, 64, 64), torch.nan)], "not finite"),
    ],
)
def test_what_gives_no_statistics_is_refused_and_the_old_ones_stay(bad: list[torch.Tensor], words: str) -> None:
    net = network()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(UserError, match=words):
        prune.reestimate(net, bad)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not net.training


def test_a_single_value_per_channel_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 4), nn.BatchNorm2d(4))
    with pytest.raises(UserError, match="at least 2 pictures"):
        prune.reestimate(net, [torch.rand(1, 3, 4, 4)])
