import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

import models
from common.errors import UserError
from models.layers import AvgPool, Head, MaxPool, Reorg, Upsample
from tests.alive import alive
from tests.nets import NET, TINY, conv, yolo


def tiny(name: str) -> models.Network:
    return models.Network(models.parse_cfg(TINY[name], source=f"{name}.cfg"))


@pytest.fixture(params=TINY)
def net(request) -> models.Network:
    return alive(tiny(request.param))


def test_heads_have_a_cell_per_stride(net):
    heads = net(torch.rand(2, 3, 32, 96) if net.max_stride <= 16 else torch.rand(2, 3, 64, 96))
    assert len(heads) == len(net.specs)
    for head, spec in zip(heads, net.specs):
        assert head.shape == (2, len(spec.anchors), 32 // spec.stride, 96 // spec.stride, 5 + net.classes)


def test_strides_come_from_the_graph_not_from_the_size_in_the_file():
    text = TINY["residual"].replace("width=64", "width=96").replace("height=64", "height=1024")
    net = models.Network(models.parse_cfg(text))
    assert [spec.stride for spec in net.specs] == [16, 8]
    assert (net.max_stride, net.image_size) == (16, (1024, 96))


def test_two_pictures_in_a_batch_do_not_see_each_other(net):
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        together, alone = net(images), net(images[1:])
    for both, one in zip(together, alone):
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-5 * float(one.abs().max()))


def test_features_are_the_outputs_on_the_way_to_the_same_heads():
    net = alive(tiny("residual"))
    images = torch.rand(1, 3, 64, 64)
    heads, features = net.forward_features(images, [4, 15])
    assert torch.equal(heads[0], net(images)[0])
    assert features[4].shape == (1, 12, 16, 16)
    flat = features[15].view(1, 3, 8, 4, 4).permute(0, 1, 3, 4, 2)
    assert torch.equal(flat, heads[0])
    with pytest.raises(UserError, match=r"0\.\.23"):
        net.forward_features(images, [24])


def test_forward_keeps_no_output_longer_than_it_is_read():
    net = tiny("residual")
    frees = {number: place for place, numbers in enumerate(net._frees) for number in numbers}
    assert sorted(frees) == list(range(len(net.layers)))
    readers = net.cfg.readers()
    for number, section in enumerate(net.cfg.layers):
        last = max([net.cfg.index()[reader] for reader in readers[section]], default=number)
        assert frees[number] == last


def test_a_size_that_does_not_divide_is_named_with_its_neighbours():
    with pytest.raises(UserError, match="70x64") as caught:
        tiny("residual")(torch.rand(1, 3, 70, 64))
    assert "64 or 80" in str(caught.value)


def test_a_picture_with_other_channels_is_a_user_error():
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        tiny("residual")(torch.rand(1, 1, 64, 64))


def test_logistic_head_gives_logits():
    net = alive(tiny("yolov5"))
    out = net(torch.rand(1, 3, 64, 64))[0]
    assert out.min() < 0
    assert out.max() > 1


@pytest.mark.parametrize("name", TINY)
def test_network_traces_with_the_sections_that_look_at_shapes_as_leaves(name):
    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
            leaves = (MaxPool, AvgPool, Upsample, Reorg, Head)
            return isinstance(module, leaves) or super().is_leaf_module(module, qualified_name)

    net = alive(tiny(name))
    graph = fx.GraphModule(net, Tracer().trace(net))
    images = torch.rand(1, 3, 64, 64)
    for traced, ours in zip(graph(images), net(images)):
        assert torch.equal(traced, ours)


@pytest.mark.parametrize("classes", [1, 20])
@pytest.mark.parametrize("name", TINY)
def test_classes_adapt_every_head(name, classes, tmp_path):
    (tmp_path / "net.cfg").write_text(TINY[name])
    net = models.load(tmp_path / "net.cfg", classes=classes)
    assert net.classes == classes == len(net.names)
    assert all(head.shape[-1] == 5 + classes for head in net(torch.rand(1, 3, 64, 64)))


def test_names_have_to_be_as_many_as_classes():
    with pytest.raises(UserError, match="2 class names for a network of 3 classes"):
        models.Network(models.parse_cfg(TINY["csp"]), ["a", "b"])


def test_new_anchors_are_in_the_specs_the_file_and_the_boxes():
    net = alive(tiny("residual"))
    heads = net(torch.rand(1, 3, 64, 64))
    wanted = [[(30.5, 31), (32, 33), (34, 35)], [(4, 5), (6, 7), (8, 9.25)]]
    before = net.decode(heads)
    old = [spec.anchors for spec in net.specs]
    net.with_anchors(wanted)
    again = models.Network(models.parse_cfg(net.cfg.text()))
    assert [spec.anchors for spec in again.specs] == [tuple(map(tuple, head)) for head in wanted]
    after = net.decode(heads)
    # The first rows are the first anchor of the first head.
    torch.testing.assert_close(after[0, 0, 2] / before[0, 0, 2], torch.tensor(30.5 / old[0][0][0]))
    with pytest.raises(UserError, match="anchors for heads"):
        net.with_anchors(wanted[:1])


def test_region_anchors_are_written_in_cells():
    net = tiny("rare")
    assert net.specs[0].anchors[1] == (1.5 * 8, 2.1 * 8)
    net.with_anchors([[(8, 16), (24, 20)]])
    assert net.cfg.heads[0].floats("anchors") == [1, 2, 3, 2.5]
    assert net.specs[0].anchors == ((8, 16), (24, 20))


def test_copies_and_pickles_are_whole_and_independent():
    net = alive(tiny("gated"))
    images = torch.rand(1, 3, 64, 64)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(images)[0], net(images)[0])
        assert twin.cfg is not net.cfg
        assert models.fingerprint(twin) == models.fingerprint(net)


def test_initial_heads_expect_few_objects_and_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = models.init_weights(tiny("residual"))
    heads = net.eval()(torch.rand(2, 3, 64, 64))
    for head, spec in zip(heads, net.specs):
        expected = 8 / (640 / spec.stride) ** 2
        assert 0.3 * expected < head[..., 4].sigmoid().mean() < 3 * expected
    sum(head.square().sum() for head in net.train()(torch.rand(2, 3, 64, 64))).backward()
    silent = [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert not silent


@pytest.mark.parametrize(
    ("activation", "variance"),
    [
        ("leaky", lambda conv: 2 / 1.01 / (9 * conv.out_channels)),
        ("swish", lambda conv: 1 / 3 / (9 * conv.in_channels)),
    ],
)
def test_weights_begin_as_large_as_the_activation_asks_for(activation: str, variance: Callable[[nn.Conv2d], float]):
    torch.manual_seed(0)
    body = conv(64, 3, activation=activation) + conv(16, 3, activation=activation)
    text = NET + body + conv(24, 1, activation="linear", bn=0) + yolo("0,1,2")
    net = models.init_weights(models.Network(models.parse_cfg(text)))
    middle = net.convolutions[1].conv
    assert middle.weight.var().item() == pytest.approx(variance(middle), rel=0.05)


def test_heads_with_different_classes_are_refused():
    feeder = conv(24, 1, activation="linear", bn=0)
    text = (
        NET
        + conv(8)
        + feeder
        + yolo("0,1,2")
        + "\n[route]\nlayers=0\n"
        + conv(27, 1, activation="linear", bn=0)
        + yolo("3,4,5", classes=4)
    )
    with pytest.raises(UserError, match="differ in classes"):
        models.Network(models.parse_cfg(text))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_network_for_other_pictures_than_rgb_is_told_before_it_is_used(channels):
    text = next(iter(TINY.values()))
    other = text.replace("channels=3", f"channels={channels}")
    assert other != text
    with pytest.raises(UserError, match=rf"channels={channels}: pictures come as RGB"):
        models.Network(models.parse_cfg(other)).for_pictures()
