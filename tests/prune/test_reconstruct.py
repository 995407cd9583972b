"""A thin network solved for its ancestor: exact where it can be, for every kind of layer, and nothing else changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import models
import prune
from common.errors import UserError
from data.batch import Batch
from models.cfg import parse_cfg
from prune.least_squares import Equations, patches
from prune.reestimate import restate
from tests.alive import alive, noise
from tests.nets import NET, TINY, conv, yolo
from tests.prune.test_timm import around

NO_RIDGE = 1e-9


def network(text: str, seed: int = 0) -> models.Network:
    return alive(models.Network(parse_cfg(text)), seed=seed, dtype=torch.float64)


def pictures(net: models.Network, count: int = 6, seed: int = 5) -> Tensor:
    return noise(net, (64, 64), torch.Generator().manual_seed(seed), batch=count)


@torch.no_grad()
def doubled(text: str, layers: tuple[int, ...] = (0,)) -> tuple[models.Network, models.Network]:
    """A network in which the second half of some layers' channels are the first half's twins, and it without them.

    What is cut is then all said by what is kept, though with other weights.
    """
    net = network(text)
    scores = {name: torch.ones(len(ids)).numpy() for name, ids in prune.trace(net).norms.items()}
    for number in layers:
        layer = net.convolutions[number]
        norm, half = layer.bn, layer.conv.out_channels // 2
        for tensor in (layer.conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor[half:] = tensor[:half]
        scores[f"layers.{number}.bn"][half:] = 0
    thin = prune.channels(net, threshold=0.5, scores=scores, fold=False).network
    assert thin.lineage[-1]["layers"]["0"]["kept"] == list(range(half))
    return net, thin


@torch.no_grad()
def layer_errors(thin: models.Network, net: models.Network, images: Tensor) -> dict[int, float]:
    """Per convolution, max|difference| / max|out| between its output and its ancestor's in the kept channels."""
    rows = {key: models.kept_channels(thin.lineage, models.fingerprint(net), key) for key in thin.convolutions}
    found = thin.eval().forward_features(images, rows)[1]
    wanted = net.forward_features(images, [origin for origin, _ in rows.values()])[1]
    told = {key: wanted[origin][:, kept] for key, (origin, kept) in rows.items()}
    return {key: float((found[key] - told[key]).abs().max() / told[key].abs().max()) for key in rows}


@torch.no_grad()
def away(one: models.Network, two: models.Network, images: Tensor) -> float:
    """max|difference| / max|out|, the worst of the heads."""
    pairs = zip(one.eval()(images), two.eval()(images), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


HEAD = conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
# What reads the doubled layer 0.
READERS = {
    "1x1": conv(16, 1) + HEAD,
    "3x3 with a border": conv(16) + HEAD,
    "stride 2": conv(16, stride=2, activation="swish") + HEAD,
    "6x6": "\n[convolutional]\nbatch_normalize=1\nfilters=8\nsize=6\nstride=2\npadding=2\nactivation=swish\n" + HEAD,
    "dilated": conv(16, dilation=2, activation="mish") + HEAD,
    "a head": HEAD,
    "depthwise": conv(16, groups=16) + conv(16, 1) + HEAD,
    "grouped": "\n[route]\nlayers=-1,-1\n" + conv(16, groups=2) + HEAD,
}


def case(kind: str) -> tuple[models.Network, models.Network]:
    return doubled(NET + conv(16, stride=2) + READERS[kind], (0, 1) if kind == "depthwise" else (0,))


@pytest.mark.parametrize("kind", READERS)
def test_what_the_kept_channels_can_say_is_recovered_exactly(kind: str) -> None:
    net, thin = case(kind)
    images, unseen = pictures(net), pictures(net, seed=9)
    assert away(thin, net, unseen) > 0.01
    report = prune.reconstruct(thin, net, images, ridge=NO_RIDGE)
    assert away(thin, net, unseen) < 1e-6
    assert max(layer_errors(thin, net, unseen).values()) < 1e-6
    assert not report.left
    assert report.error[0] > 1e-3
    assert all(layer.after < 1e-10 for layer in report.layers.values())


@pytest.mark.parametrize("kind", READERS)
def test_a_kept_index_shifted_by_one_is_noticed(kind: str) -> None:
    net, thin = case(kind)
    images, right = pictures(net), thin.lineage
    for key, row in right[-1]["layers"].items():
        wrong = copy.deepcopy(thin)
        count = net.convolutions[row["layer"]].conv.out_channels
        wrong.lineage[-1]["layers"][key]["kept"] = [(channel + 1) % count for channel in row["kept"]]
        prune.reconstruct(wrong, net, images, ridge=NO_RIDGE)
        wrong.lineage = right
        assert layer_errors(wrong, net, images)[int(key)] > 1e-3, key


def cut(net: models.Network) -> models.Network:
    return prune.prune(net, ratio=0.4, criterion="random").network


@pytest.mark.parametrize("name", TINY)
def test_a_live_cut_comes_nearer_in_every_way_sections_can_be_joined(name: str) -> None:
    net = network(TINY[name])
    thin, images = cut(net), pictures(net)
    before = copy.deepcopy(thin)
    report = prune.reconstruct(thin, net, images)
    assert not report.left
    assert list(report.layers) == list(thin.convolutions)
    assert report.error[1] < 0.8 * report.error[0]
    unseen = pictures(net, seed=9)
    assert _error(thin, net, unseen) < 0.9 * _error(before, net, unseen)


@torch.no_grad()
def _error(thin: models.Network, net: models.Network, images: Tensor) -> float:
    return sum(float((a - b).square().mean()) for a, b in zip(thin.eval()(images), net.eval()(images), strict=True))


@pytest.mark.parametrize("name", ["resnet18", "regnety_002", "mobilenetv2_050", "ghostnet_050", "densenet121"])
def test_convolutions_inside_a_backbone_are_solved(name: str) -> None:
    net = network(around(name))
    thin, images = cut(net), pictures(net, 4)
    before = copy.deepcopy(thin)
    report = prune.reconstruct(thin, net, images, chunk=2)
    assert not report.left
    assert sum(isinstance(key, str) for key in report.layers) == len(thin.conv_modules) - len(thin.convolutions)
    assert _error(thin, net, images) < 0.9 * _error(before, net, images)


def test_rounds_and_removed_blocks_are_followed_to_the_first_ancestor() -> None:
    net = network(TINY["residual"])
    once = prune.prune(net, shortcuts=1, ratio=0.2, criterion="l1").network
    thin, images = prune.prune(once, ratio=0.2, criterion="l1").network, pictures(net)
    before = copy.deepcopy(thin)
    report = prune.reconstruct(thin, net, images)
    assert not report.left
    assert any(key != layer.origin for key, layer in report.layers.items())
    assert _error(thin, net, images) < 0.8 * _error(before, net, images)


def test_filters_keep_their_norms_and_statistics_are_those_of_the_pictures() -> None:
    net = network(TINY["csp"])
    with torch.no_grad():
        net.convolutions[2].bn.weight[::2] *= -1
    thin, images = cut(net), pictures(net)
    before = copy.deepcopy(thin)
    prune.reconstruct(thin, net, images)
    inputs: dict[int, Tensor] = {}
    for number, layer in thin.convolutions.items():
        layer.conv.register_forward_hook(lambda _m, _i, out, n=number: inputs.update({n: out}))
    with torch.no_grad():
        thin(images)
    for number, layer in thin.convolutions.items():
        old = before.convolutions[number]
        if layer.bn is None:
            continue
        norms = [each.conv.weight.flatten(1).norm(dim=1) for each in (layer, old)]
        torch.testing.assert_close(*norms)
        assert not torch.allclose(layer.conv.weight, old.conv.weight) or number == 0
        assert torch.equal(layer.bn.weight.sign(), old.bn.weight.sign())
        torch.testing.assert_close(layer.bn.running_mean, inputs[number].mean((0, 2, 3)))
        torch.testing.assert_close(layer.bn.running_var, inputs[number].var((0, 2, 3), correction=0))


def test_new_statistics_change_no_output() -> None:
    net = network(TINY["yolov5"])
    same = copy.deepcopy(net)
    restate(net, pictures(net, 6).split(4))
    assert not torch.allclose(net.convolutions[1].bn.running_mean, same.convolutions[1].bn.running_mean)
    assert away(net, same, pictures(net, seed=9)) < 1e-10


def test_nothing_stays_behind_where_new_statistics_fail() -> None:
    net = network(TINY["yolov5"])
    before = copy.deepcopy(net.state_dict())

    def unreadable() -> Iterator[torch.Tensor]:
        yield pictures(net, 2)
        raise OSError

    with pytest.raises(OSError):
        restate(net, unreadable())
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("name", [name for name in TINY if name != "gated"])  # a gate's channels have no gamma
def test_nothing_changes_where_every_removed_gamma_is_zero(name: str) -> None:
    net = network(TINY[name])
    graph, modules = prune.trace(net), dict(net.named_modules())
    with torch.no_grad():
        for norm, mask in graph.participating().items():
            modules[norm].weight[torch.from_numpy(mask & (graph.root[graph.norms[norm]] % 3 == 0))] = 0
    thin = prune.channels(net, threshold=0).network
    assert models.parameters(thin) < models.parameters(net)
    before = copy.deepcopy(thin.state_dict())
    report = prune.reconstruct(thin, net, iter(()))  # not one picture is read
    assert report.skipped
    assert all(torch.equal(tensor, before[key]) for key, tensor in thin.state_dict().items())
    assert not prune.reconstruct(cut(net), net, pictures(net, 1)).skipped


def test_neither_chunks_nor_memory_nor_batches_change_the_solution() -> None:
    net = network(TINY["csp"])
    thin, images = cut(net), pictures(net, 7)
    solved = []
    for given, options in (
        (images, {}),
        (images, {"chunk": 2}),
        (images, {"chunk": 3, "memory": 40e6}),
        (images, {"chunk": 1, "memory": 20e6}),
        (iter(images.split(3)), {}),
    ):
        solved.append(copy.deepcopy(thin))
        prune.reconstruct(solved[-1], net, given, cells=300, **options)
    for other in solved[1:]:
        for key, tensor in solved[0].state_dict().items():
            torch.testing.assert_close(tensor, other.state_dict()[key], rtol=1e-10, atol=1e-10, msg=key)


def test_the_same_pictures_give_the_same_bits_and_the_ancestor_and_modes_stay() -> None:
    net = network(TINY["gated"]).float()
    thin, images = cut(net).train(), pictures(net)
    twin, kept = copy.deepcopy(thin), copy.deepcopy(net.state_dict())
    for each in (thin, twin):
        prune.reconstruct(each, net, images)
    assert all(torch.equal(a, b) for a, b in zip(thin.state_dict().values(), twin.state_dict().values(), strict=True))
    assert all(torch.equal(kept[key], tensor) for key, tensor in net.state_dict().items())
    assert thin.training
    assert not net.training


def test_a_loaders_batches_are_taken_and_no_more_than_two_hundred_pictures() -> None:
    net = network(NET + conv(8, stride=2) + conv(8, stride=2) + HEAD).float()
    thin = cut(net)
    raw = torch.randint(0, 256, (150, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def batches():
        for _ in range(2):
            yield Batch(raw, torch.zeros(0, 6), torch.arange(150))
        raise AssertionError("a third batch was read")

    assert prune.reconstruct(thin, net, batches()).pictures == 200
    with pytest.raises(UserError, match="not one picture"):
        prune.reconstruct(thin, net, iter(()))


def test_a_cut_with_pictures_is_solved_and_says_so() -> None:
    net = network(TINY["residual"])
    images = pictures(net)
    plain, solved = (prune.prune(net, budget="params=0.5", images=given) for given in (None, images))
    report = prune.reconstruct(plain.network, net, images)
    assert models.fingerprint(plain.network) == models.fingerprint(solved.network)
    assert solved.report.solved == report.lines()
    assert "solved on 6 pictures" in solved.report.text()
    assert "val" not in "".join(solved.report.solved), "nobody scored it"


@pytest.mark.parametrize("dips", [False, True])
def test_what_the_score_does_to_the_thin_network_is_not_undone(dips: bool) -> None:
    """As where it measures statistics anew: that network was scored."""
    net = network(TINY["residual"])
    thin = prune.prune(net, budget="params=0.5").network
    scores = iter([0.5, 0.1 if dips else 0.9])

    def score(candidate: models.Network) -> float:
        candidate.convolutions[0].bn.running_mean.add_(1.0)
        return next(scores)

    before = thin.convolutions[0].bn.running_mean.clone()
    report = prune.reconstruct_if_better(thin, net, pictures(net), score)
    assert report.kept != dips
    assert report.score == (0.5 if dips else 0.9)
    assert not dips or torch.equal(thin.convolutions[0].bn.running_mean, before + 1)


def test_a_network_that_is_no_ancestor_is_refused() -> None:
    net = network(TINY["csp"])
    with pytest.raises(UserError, match="is no ancestor"):
        prune.reconstruct(cut(net), network(TINY["csp"], seed=1), pictures(net))


@pytest.mark.parametrize(
    ("scores", "kept"), [((0.1, 0.2), True), ((0.2, 0.1), False), ((0.1, 0.101), True), ((0.1, 0.099), True)]
)
def test_a_solution_stays_only_where_val_rises_or_ties_with_a_smaller_error(
    scores: tuple[float, float], kept: bool
) -> None:
    net = network(TINY["csp"])
    thin, told = cut(net), iter(scores)
    before = copy.deepcopy(thin.state_dict())
    report = prune.reconstruct_if_better(thin, net, pictures(net), lambda _: next(told))
    assert report.scores == scores
    assert report.kept is kept
    assert all(torch.equal(tensor, before[key]) for key, tensor in thin.state_dict().items()) is not kept


def test_places_where_the_ancestor_sees_objects_are_met_better_with_more_focus() -> None:
    net = network(TINY["csp"])
    with torch.no_grad():  # an object in few places
        net.convolutions[15].conv.bias[4::8] -= 3
    images, seen = pictures(net), None
    errors = []
    for focus in (0.0, 0.95):
        thin = cut(net)
        prune.reconstruct(thin, net, images, focus=focus)
        with torch.no_grad():
            told = net(images)[0]
            seen = told[..., 4].sigmoid() if seen is None else seen
            errors.append(float(((thin(images)[0] - told).square().sum(-1) * seen).sum()))
    assert errors[1] < errors[0]


# -- the equations alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{"padding": 1}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}, {}])
def test_patches_are_what_the_convolution_reads(shape: dict[str, int]) -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2, **shape).double()
    x = torch.randn(2, 4, 9, 11, dtype=torch.float64)
    out = layer(x)
    under = patches(x, layer, out.shape[2:], torch.arange(out[0, 0].numel()))  # (C, 9, B, cells)
    told = torch.einsum("gok,gkn->gon", layer.weight.view(2, 3, -1), under.reshape(2, 18, -1)).reshape(6, 2, -1)
    torch.testing.assert_close(told.transpose(0, 1) + layer.bias[:, None], out.flatten(2))


def test_steps_after_the_activation_miss_less_than_the_solution_before_it() -> None:
    random = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(5, 4, 1).double()
    x = torch.randn(3, 5, 12, 12, generator=random, dtype=torch.float64)
    wanted = torch.randn(3, 4, 144, generator=random, dtype=torch.float64) + x[:, :4].flatten(2)
    found = []
    for steps in (0, 1, 8):
        equations = Equations(layer, True, F.relu)
        equations.add(x, wanted, torch.arange(144), torch.Size((12, 12)), torch.ones(3, 144))
        found.append(equations.solve(layer.weight.detach(), 0.01, steps).missed)
    assert found[0] > found[1] > found[2]


def test_a_group_that_reads_nothing_but_zeros_keeps_its_weights() -> None:
    layer = nn.Conv2d(2, 2, 3, padding=1, groups=2).double()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    x[:, 1] = 0
    equations = Equations(layer, True)
    cells = torch.arange(36)
    equations.add(x, torch.ones(2, 2, 36, dtype=torch.float64), cells, torch.Size((6, 6)), torch.ones(2, 36))
    solution = equations.solve(layer.weight.detach(), 0.01, 0)
    assert torch.equal(solution.weight[1], layer.weight[1].detach())
    assert float(solution.bias[1]) == pytest.approx(1)
