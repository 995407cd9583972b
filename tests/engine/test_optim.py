"""Parameter groups, learning-rate schedule, averaged weights, freezing."""

from __future__ import annotations

import math

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD

from common.errors import UserError
from engine.config import TrainConfig
from engine.objective import DetectionObjective
from engine.optim import clip_gradients, freeze, make_ema, make_optimizer, make_schedule, set_train_mode
from tests.engine.job import AdaptedObjective, make_network


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_only_matrices_and_kernels_decay(name: str) -> None:
    objective = AdaptedObjective(make_network())
    optimizer = make_optimizer(objective, TrainConfig(optimizer=name, weight_decay=0.1))
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert len(decays) == len(list(objective.parameters()))
    for module in objective.modules():
        if isinstance(module, _BatchNorm):
            assert decays[id(module.weight)] == decays[id(module.bias)] == 0
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert decays[id(module.weight)] == 0.1
            assert module.bias is None or decays[id(module.bias)] == 0


def test_frozen_layers_are_not_optimised_and_keep_their_statistics() -> None:
    objective = AdaptedObjective(make_network())
    network = objective.network
    freeze(network, [0, 1])
    held = {id(each) for group in make_optimizer(objective, TrainConfig()).param_groups for each in group["params"]}
    assert not held & {id(each) for number in (0, 1) for each in network.layers[number].parameters()}
    set_train_mode(objective, network, [0, 1], freeze_bn=False)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.rand(2, 3, 64, 64))
    moved = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert not any(name.startswith(("layers.0.", "layers.1.")) for name in moved)
    assert any(name.startswith("layers.2.") for name in moved)
    set_train_mode(objective, network, [], freeze_bn=True)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_everything_frozen_is_a_user_error() -> None:
    objective = DetectionObjective(make_network())
    freeze(objective.network, range(len(objective.network.layers)))
    with pytest.raises(UserError, match="nothing to train"):
        make_optimizer(objective, TrainConfig())


def test_learning_rate_warms_up_linearly_then_follows_a_cosine() -> None:
    config = TrainConfig(lr0=0.1, lrf=0.01, warmup_epochs=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr0)
    schedule = make_schedule(optimizer, config, steps=100, steps_per_epoch=5)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] > 0
    assert torch.allclose(torch.tensor(rates[:10]).diff(), torch.tensor((0.1 / 11,) * 9), atol=1e-7)
    for step in (10, 50, 99):
        expected = 0.001 + 0.5 * (0.1 - 0.001) * (1 + math.cos(math.pi * step / 100))
        assert rates[step] == pytest.approx(expected)


def test_learning_rate_depends_on_the_step_alone() -> None:
    config = TrainConfig()

    def rate(steps: list[int]) -> float:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=config.lr0)
        schedule = make_schedule(optimizer, config, steps=50, steps_per_epoch=5)
        for step in steps:
            schedule.step_update(step)
        return optimizer.param_groups[0]["lr"]

    assert rate([33]) == rate(list(range(34)))


def test_warm_up_takes_at_most_half_of_a_short_training() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = make_schedule(optimizer, TrainConfig(lr0=0.1, warmup_epochs=3), steps=8, steps_per_epoch=4)
    schedule.step_update(4)
    assert optimizer.param_groups[0]["lr"] > 0.05


def test_averaging_starts_with_the_first_weights_and_lengthens() -> None:
    network = make_network()
    ema = make_ema(network, TrainConfig(ema_decay=0.999))
    weight = network.layers[0].conv.weight
    averaged = ema.module.layers[0].conv.weight
    with torch.no_grad():
        weight.fill_(1.0)
        ema.update(network, step=1)
        assert torch.equal(averaged, torch.ones_like(averaged))
        weight.fill_(2.0)
        ema.update(network, step=2)
    decay = 1 - 2 ** (-2 / 3)
    torch.testing.assert_close(averaged, torch.full_like(averaged, decay + 2 * (1 - decay)))
    assert ema.get_decay(10) < ema.get_decay(1000) < ema.get_decay(10**6) == 0.999


@pytest.mark.parametrize("copies", [False, True], ids=["its own tensors", "copies, as Apex gives them"])
def test_averaging_is_timms_to_the_last_bit(copies: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    net, config = make_network(), TrainConfig()
    ours, theirs = make_ema(net, config), ModelEmaV3(net, decay=config.ema_decay, use_warmup=True)
    if copies:
        tensors = net.state_dict()
        monkeypatch.setattr(net, "state_dict", lambda: {name: value.clone() for name, value in tensors.items()})
    for step in range(1, 5):
        with torch.no_grad():
            for value in (*net.parameters(), *net.buffers()):
                value += torch.randn(value.shape).to(value.dtype) + 1
        ours.update(net, step=step)
        theirs.update(net, step=step)
    for name, value in theirs.module.state_dict().items():
        assert torch.equal(ours.module.state_dict()[name], value), name


def test_clipping_bounds_the_global_norm_and_zero_never_clips() -> None:
    network, beside = [nn.Parameter(torch.zeros(1)) for _ in range(2)], nn.Parameter(torch.zeros(1))
    optimizer = SGD([{"params": network, "beside": False}, {"params": [beside], "beside": True}], lr=0.1)
    for clip, expected in ((1.0, [0.6, 0.8, 1.0]), (0.0, [3.0, 4.0, 12.0]), (10.0, [3.0, 4.0, 10.0])):
        for parameter, value in zip([*network, beside], (3.0, 4.0, 12.0)):
            parameter.grad = torch.tensor([value])
        assert clip_gradients(optimizer, clip) == pytest.approx(13.0)
        gradients = [parameter.grad for parameter in (*network, beside)]
        assert [float(each) for each in gradients if each is not None] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("place", [0, 1])
def test_norm_is_not_finite_wherever_a_gradient_is_not(place: int) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = SGD([{"params": [each], "beside": bool(number)} for number, each in enumerate(parameters)], lr=0.1)
    for number, parameter in enumerate(parameters):
        parameter.grad = torch.tensor([math.nan if number == place else 1.0])
    assert not math.isfinite(clip_gradients(optimizer, 10.0))


def test_adapters_are_in_groups_of_their_own() -> None:
    objective = AdaptedObjective(make_network())
    groups = make_optimizer(objective, TrainConfig()).param_groups
    of_network = {id(each) for each in objective.network.parameters()}
    held = {
        beside: {id(each) for group in groups if group["beside"] is beside for each in group["params"]}
        for beside in (False, True)
    }
    assert held[False] == of_network
    assert held[True] == {id(each) for each in objective.parameters()} - of_network != set()
