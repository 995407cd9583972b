"""Checkpoints of YOLOv8, 11 and 26: read from their own tree of modules, in every form they come in, or refused."""

from __future__ import annotations

import contextlib
import copy
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import engine
import models
from common.errors import UserError
from models.content import size_text
from models.foreign import Mismatch, parts
from models.heads import FreeSpec
from models.ultralytics import READERS, _network, is_ultralytics, load_ultralytics
from models.ultralytics_scales import SCALES, graph, text
from models.unpickle import Record, read_torch_file
from tests.models import ultralytics_program as program
from tests.models.test_unpickle import HOSTILE as HOSTILE_PICKLES
from tests.shared import shared

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


def made(family: int = 8, **options: object) -> program.DetectionModel:
    torch.manual_seed(family)
    return program.DetectionModel(family, **options)  # type: ignore[arg-type]


@torch.no_grad()
def check(model: program.DetectionModel, net: models.Network, tolerance: float = 1e-4) -> None:
    """The raw heads agree."""
    pictures = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    theirs, ours = model(pictures), net(pictures)
    assert len(theirs) == len(ours)
    for their, our in zip(theirs, ours):
        assert (our.squeeze(1).permute(0, 3, 1, 2) - their).abs().max() < tolerance * their.abs().max()


@pytest.mark.parametrize("family", [8, 11, 26])
def test_a_checkpoint_says_what_the_original_says(family: int, tmp_path: Path) -> None:
    model = made(family)
    net = models.load(program.checkpoint(model, tmp_path / "best.pt"))
    check(model, net)
    assert not net.training
    assert next(net.parameters()).dtype == torch.float32
    assert net.names == ["class 0", "class 1", "class 2"]
    assert net.image_size == (320, 320)
    towers = [FreeSpec(stride, 3, 1 if family == 26 else 16) for stride in (8, 16, 32)]
    ones = [FreeSpec(stride, 3, 1, one_to_one=True) for stride in (8, 16, 32)]
    assert list(net.specs) == towers + (ones if family == 26 else [])


@pytest.mark.parametrize("family", [3, 5])
def test_u_models_have_these_heads_on_older_blocks(family: int, tmp_path: Path) -> None:
    model = made(family)
    net = models.load(program.checkpoint(model, tmp_path / "yolov5nu.pt"))
    check(model, net)
    assert {spec.family for spec in net.specs} == {"free"}


@pytest.mark.parametrize("family, width", [(8, 24), (11, 32), (26, 32)])
def test_widths_are_those_of_the_tensors(family: int, width: int, tmp_path: Path) -> None:
    model = made(family, width=width)
    net = models.load(program.checkpoint(model, tmp_path / "best.pt"))
    check(model, net)
    assert net.output_channels(1) == width


@pytest.mark.parametrize("heads, classes", [(2, 1), (4, 7)])
def test_heads_and_classes_are_counted_in_the_file(heads: int, classes: int, tmp_path: Path) -> None:
    model = made(11, heads=heads, nc=classes)
    net = models.load(program.checkpoint(model, tmp_path / "best.pt"))
    check(model, net)
    assert len(net.specs) == heads
    assert net.classes == classes


@pytest.mark.parametrize(
    "own, beside, size",
    [
        ({"imgsz": 256}, {"imgsz": 320}, (256, 256)),
        ({}, {"imgsz": 320}, (320, 320)),
        ({"imgsz": [384, 640]}, {}, (384, 640)),
        ({"imgsz": 100}, {}, (128, 128)),
        ({"imgsz": 10**12}, {"imgsz": "x"}, (640, 640)),
        ({}, {}, (640, 640)),
    ],
)
def test_names_and_picture_size_come_from_the_file(
    own: object, beside: object, size: tuple[int, int], tmp_path: Path
) -> None:
    model = made(8)
    model.names, model.args = ["a", "b", 7], own  # type: ignore[assignment]
    net = models.load(program.checkpoint(model, tmp_path / "best.pt", train_args=beside))
    assert net.names == ["a", "b", "7"]
    assert net.image_size == size
    assert net.meta.get("trained_at") == (size_text(size) if size != (640, 640) else None)


def test_a_bare_network_and_what_a_training_leaves_beside_it_are_read(tmp_path: Path) -> None:
    model = made(8)
    check(model, models.load(program.save(model, tmp_path / "bare.pt")))
    optimizer = torch.optim.AdamW(model.parameters())
    model(IMAGES)[0].sum().backward()
    optimizer.step()
    more = {"optimizer": optimizer.state_dict(), "best_fitness": np.float64(0.5), "train_results": {"epoch": [1, 2]}}
    check(model, models.load(program.checkpoint(model, tmp_path / "last.pt", **more)))


def test_ema_is_preferred_to_the_live_model(tmp_path: Path) -> None:
    model, ema = made(8), made(8)
    nn.init.normal_(ema.model[0].conv.weight)
    net = models.load(program.checkpoint(model, tmp_path / "last.pt", ema=copy.deepcopy(ema).half()))
    check(ema.half().float(), net)


def test_older_module_paths_are_read(tmp_path: Path) -> None:
    model = made(8)
    path = program.checkpoint(model, tmp_path / "old.pt", program.OLD_HOMES)
    assert b"ultralytics.nn.modules.conv" not in path.read_bytes()
    check(model, models.load(path))


def test_a_fused_file_detects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = made(11).fuse()
    net = models.load(program.checkpoint(model, tmp_path / "fused.pt"))
    check(model.float(), net, 1e-3)
    assert all(layer.bn is None for layer in net.convolutions.values())
    assert "fused" in caplog.text


@pytest.mark.parametrize(
    "block",
    [
        lambda: program.C2f_v2(16, 16, [program.Bottleneck(5, 5, hidden=3)], past=7, through=5),
        lambda: program.C2f(16, 16, [program.Bottleneck(5, 5, hidden=3)], 5),
    ],
    ids=["split", "whole"],
)
def test_a_file_that_another_program_pruned_reads_with_its_widths(block: Callable, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = made(8, block=block())
    net = models.load(program.checkpoint(model, tmp_path / "pruned.pt"))
    check(model, net)
    assert 3 in {net.output_channels(number) for number in net.convolutions}


@pytest.mark.parametrize("act", [nn.ReLU(), nn.LeakyReLU(0.1), nn.Mish()])
def test_other_activations_are_read(act: nn.Module, tmp_path: Path) -> None:
    model = made(8)
    for module in model.modules():
        if isinstance(module, program.Conv):
            module.act = act
    check(model, models.load(program.checkpoint(model, tmp_path / "best.pt")))


def test_it_survives_our_own_checkpoint_and_adapts_to_other_classes(tmp_path: Path) -> None:
    net = models.load(program.checkpoint(made(26), tmp_path / "best.pt"))
    models.save(net, tmp_path / "ours.pt")
    again = models.load(tmp_path / "ours.pt").eval()
    assert torch.equal(again.decode(again(IMAGES)), net.decode(net(IMAGES)))
    assert models.load(tmp_path / "best.pt", classes=5).classes == 5


def test_places_of_one_to_one_towers_are_not_decoded_beside_the_others(tmp_path: Path) -> None:
    net = models.load(program.checkpoint(made(26), tmp_path / "best.pt"))
    heads = net(IMAGES)
    assert torch.equal(net.decode(heads), models.heads.decode_heads(heads[:3], net.specs[:3]))
    ones = models.heads.decode_heads(heads[3:], net.specs[3:])
    assert ones.shape == net.decode(heads).shape
    assert not torch.equal(ones, net.decode(heads))


def test_one_to_one_towers_alone_are_decoded(tmp_path: Path) -> None:
    """A fused YOLO26 has no others."""
    model = made(26)
    del model.model[-1].cv2, model.model[-1].cv3
    net = models.load(program.checkpoint(model, tmp_path / "fused.pt"))
    assert [spec.one_to_one for spec in net.specs] == [True] * 3
    assert net.decode(net(IMAGES)).shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 4 + 3)


def _kind(name: str) -> Callable[[program.DetectionModel], None]:
    """Its head is of this class."""
    return _class("ultralytics.nn.modules.head", name, lambda model: model.model[-1])


def _task(name: str) -> Callable[[program.DetectionModel], None]:
    """The network itself is."""
    return _class("ultralytics.nn.tasks", name, lambda model: model)


def _class(
    home: str, name: str, at: Callable[[program.DetectionModel], nn.Module]
) -> Callable[[program.DetectionModel], None]:
    def change(model: program.DetectionModel) -> None:
        kind = type(name, (type(at(model)),), {"__module__": home})
        program.HOMES[home].append(kind)
        at(model).__class__ = kind

    return change


def _set(at: str, key: str, value: object) -> Callable[[program.DetectionModel], None]:
    return lambda model: setattr(model.get_submodule(at), key, value)


def _ghost(model: program.DetectionModel) -> None:
    model.model[1] = nn.Sequential(model.model[1], nn.Hardtanh())
    model.model[1].f = -1


def _tiny(model: program.DetectionModel) -> None:
    """yolov3-tinyu pools where others have strides."""
    model.model[1] = nn.Sequential(model.model[1], nn.MaxPool2d(2, 2))
    model.model[1].f = -1


def _not_finite(model: program.DetectionModel) -> None:
    model.model[0].conv.weight.data[0] = float("nan")


def _one_channel(model: program.DetectionModel) -> None:
    model.model[0] = program.Conv(1, 8, 3, 2)
    model.model[0].f = -1


def _wide(model: program.DetectionModel) -> None:
    """Weights of a shape that the layer before does not feed."""
    model.model[1].conv.weight = nn.Parameter(torch.zeros(16, 8000, 3, 3))


@pytest.mark.parametrize(
    "change, told",
    [
        (_kind("Segment"), "is a network for segmentation"),
        (_kind("Pose"), "is a network for pose estimation"),
        (_kind("OBB"), "is a network for oriented boxes"),
        (_kind("Classify"), "is a network for classification"),
        (_kind("RTDETRDecoder"), "is a network for detection with RT-DETR"),
        (_kind("v10Detect"), "is a network for detection with YOLOv10's head"),
        (_kind("Segment26"), "is a network for segmentation"),
        (_task("SegmentationModel"), "is a network for segmentation"),
        (_task("ClassificationModel"), "is a network for classification"),
        (_task("WorldModel"), "is a network for open-vocabulary detection"),
        (_kind("Detect2"), "ends in a Detect2, not in a Detect"),
        (_set("model.3", "act", nn.Hardswish()), "model.3 has the activation Hardswish; known: SiLU"),
        (_tiny, "model.1.1 is a torch.nn.modules.pooling.MaxPool2d, which is not known here"),
        (_ghost, "model.1.1 is a torch.nn.modules.activation.Hardtanh, which is not known here"),
        (_not_finite, "values that are not finite"),
        (_one_channel, "takes pictures of 1 channel; only colour pictures"),
        (_wide, r"the shape \[16, 8000, 3, 3\]"),
        (_set("model.3", "f", 7), r"reads f=7; only modules before it"),
        (_set("model.3", "f", "x"), r"reads f=x"),
        (_set("model.9", "d", 2), "joins along dimension 2"),
        (_set("model.8", "mode", "bilinear"), "only nearest by 2"),
        (_set("model.3.conv", "stride", (10**9, 10**9)), "stride="),
        (_set("model.3.conv", "padding", (10**9, 10**9)), "padding="),
        (_set("model.3.conv", "dilation", (2, 2)), "dilation="),
        (_set("model.3.conv", "groups", 3), "groups"),
        (_set("model.6.m", "kernel_size", 10**9), "kernel_size="),
        (_set("model.7.m.0.attn", "num_heads", 3), "not 3 x"),
        (_set("model.7.m.0.attn", "scale", float("nan")), "scale=nan"),
        (_set("model.13", "nc", 10**12), "nc="),
        (_set("model.13", "nc", 4), "3 readable class names for 4 classes"),
        (_set("model.13", "reg_max", 8), "does not weigh 8 bins"),
        (_set("model.13", "stride", torch.tensor([4.0, 8.0, 16.0])), "at the strides"),
        (lambda model: setattr(model, "names", ["a"]), "1 readable class names for 3 classes"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(
    change: Callable[[program.DetectionModel], None], told: str, tmp_path: Path
) -> None:
    model = made(11)
    change(model)
    try:
        path = program.checkpoint(model, tmp_path / "best.pt")
    finally:
        for home in ("ultralytics.nn.modules.head", "ultralytics.nn.tasks"):
            del program.HOMES[home][1:]
    with pytest.raises(UserError, match=told) as error:
        models.load(path)
    assert "\n" not in error.value.problem


@pytest.mark.parametrize("attack", HOSTILE_PICKLES)
def test_code_hidden_in_a_sound_checkpoint_is_refused_and_not_run(attack: Callable, tmp_path: Path) -> None:
    """That each attack works is shown in test_unpickle.py."""
    path = program.checkpoint(made(8), tmp_path / "best.pt", train_args={"imgsz": attack(tmp_path / "ran")})
    assert is_ultralytics(path)
    with pytest.raises(UserError, match="nothing in it was run"):
        models.load(path)
    assert not (tmp_path / "ran").exists()


def test_a_module_inside_itself_is_refused(tmp_path: Path) -> None:
    model = made(8)
    model.model[1] = inner = nn.Sequential()
    inner._modules["0"], inner.f = inner, -1  # type: ignore[assignment]
    with pytest.raises(UserError, match="more than 12 inside each other"):
        models.load(program.save({"model": model}, tmp_path / "best.pt"))


def test_one_tensor_is_no_hundred_convolutions(tmp_path: Path) -> None:
    model = made(8)
    again = program.Conv(16, 16, 3)
    model.model[1] = nn.Sequential(model.model[1], *[again] * 100)
    model.model[1].f = -1
    with pytest.raises(UserError, match="uses its tensors several times"):
        models.load(program.checkpoint(model, tmp_path / "best.pt"))


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_damage_anywhere_gives_a_network_or_a_user_error(data: st.DataObject, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pt"
    if not whole.exists():
        program.checkpoint(made(26), whole)
    damaged = tmp_path / "damaged.pt"
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(damaged, "w") as new:
        for entry in old.namelist():
            content = bytearray(old.read(entry))
            if entry.endswith("data.pkl"):
                for _ in range(data.draw(st.integers(1, 6))):
                    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            new.writestr(entry, bytes(content))
    with contextlib.suppress(UserError):
        load_ultralytics(damaged)


HOSTILE = (
    *(None, True, -1, 0, 1, 2, 7, 10**12, -(2**70), 0.5, float("nan"), float("inf"), "", "x" * 1000, b"x"),
    *([], [-1, -1], [[[]]] * 3, (), (1, 2), (10**9, 10**9), {}, {0: "a"}, {"0": None}, {"imgsz": [0, 1, 2]}),
    *(
        torch.zeros(0),
        torch.tensor(3.0),
        torch.full((3,), float("nan")),
        torch.zeros(16, 16, 1, 1),
        torch.ones(3).bool(),
    ),
    torch.zeros(1).expand(1 << 20, 1 << 20),
)


def _records(record: Record, found: dict[int, Record]) -> dict[int, Record]:
    """All modules of a tree."""
    if id(record) not in found:
        found[id(record)] = record
        for inner in parts(record).values():
            _records(inner, found)
    return found


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_a_module_says_of_itself_gives_a_network_or_a_sentence(data: st.DataObject, tmp_path: Path) -> None:
    """Sound pickles with attributes, parameters and parts that no program would have written."""
    family = data.draw(st.sampled_from((8, 11, 26)))
    path = tmp_path / f"{family}.pt"
    if not path.exists():
        program.checkpoint(made(family), path)
    content = read_torch_file(path)
    records = list(_records(content["model"], {}).values())
    for _ in range(data.draw(st.integers(1, 3))):
        record = data.draw(st.sampled_from(records))
        stores = [each for each in (record.state, *record.state.values()) if type(each) is dict and each]
        store = data.draw(st.sampled_from(stores))
        key = data.draw(st.sampled_from(sorted(store, key=str)))
        what = data.draw(st.sampled_from(("value", "value", "gone", "another", "kind")))
        if what == "gone":
            del store[key]
        elif what == "kind":
            record.path = "ultralytics.nn.modules.block." + data.draw(st.sampled_from(sorted(READERS)))
        else:
            store[key] = data.draw(st.sampled_from(records if what == "another" else HOSTILE))
    with contextlib.suppress(Mismatch, UserError), torch.no_grad():
        assert _network(content, path)(torch.zeros(1, 3, 64, 64))


def test_files_of_others_are_told_apart(tmp_path: Path) -> None:
    model = made(8)
    torch.save({"state": model.state_dict()}, tmp_path / "tensors.pt")
    assert not is_ultralytics(tmp_path / "tensors.pt")
    assert not is_ultralytics(tmp_path / "absent.pt")
    assert is_ultralytics(program.checkpoint(model, tmp_path / "best.pt"))


def test_darknet_has_no_words_for_it(tmp_path: Path) -> None:
    net = models.load(program.checkpoint(made(11), tmp_path / "best.pt"))
    with pytest.raises(UserError, match=r"\[attention\] has no Darknet word(.|\n)*ONNX"):
        models.save_darknet(net, tmp_path / "net.cfg", tmp_path / "net.weights")


# -- the cfgs, and files of the program itself ---------------------------------------------------------------------


@pytest.mark.parametrize("name", SCALES)
def test_shipped_cfgs_are_what_their_multiples_say(name: str) -> None:
    assert models.cfg_path(name).read_text() == text(name)


@pytest.mark.parametrize("name", SCALES)
def test_cfgs_cost_what_is_published(name: str) -> None:
    facts = json.loads(shared("pretrained/ultralytics/facts.json").read_text())[name]
    with torch.device("meta"):
        net = models.Network(models.read_cfg(models.cfg_path(name)))
    fixed, places = (16, 4 * 16 * 8400) if facts["reg_max"] > 1 else (0, 0)  # the distribution's own convolution
    assert models.parameters(net) == facts["params"] - fixed
    assert (models.macs(net, (640, 640)) + places) / 1e9 == pytest.approx(facts["conv_gmacs_640"], abs=5.1e-4)


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_trained_structure_is_that_of_the_cfg_and_answers_are_the_programs_own(name: str) -> None:
    net = models.load(shared(f"pretrained/ultralytics/{name}_alive.pt"))
    assert net.cfg.structure() == models.Network(graph(name).cfg()[0]).cfg.structure()
    told = np.load(shared(f"pretrained/ultralytics/{name}_alive_expected.npz"))
    images = torch.from_numpy(np.random.default_rng(0).random((1, 3, 96, 128), dtype=np.float32))
    with torch.no_grad():
        heads = net(images)
        found = net.decode(heads).transpose(1, 2)
    prefixes = ["one2many__", "one2one__"] if name == "yolo26n" else [""]
    for place, prefix in enumerate(prefixes):
        raw = torch.cat([head.flatten(1, 3) for head in heads[3 * place : 3 * place + 3]], 1).transpose(1, 2)
        sides = 4 * net.specs[0].bins  # type: ignore[attr-defined]
        _near(raw[:, :sides], told[f"{prefix}boxes"])
        _near(raw[:, sides:], told[f"{prefix}scores"])
    _near(found[:, :4], told["prediction"][:, :4])
    _near(found[:, 4:], told["prediction"][:, 4:])


def _near(found: Tensor, told: np.ndarray) -> None:
    assert (found - torch.from_numpy(told)).abs().max() < 1e-4 * np.abs(told).max()


@pytest.mark.parametrize("name", ["yolov8n_hands.pt", "yolo11n_hands.pt"])
def test_trained_networks_find_what_the_program_finds(name: str) -> None:
    net = models.load(shared(f"pretrained/ultralytics/{name}"))
    assert net.names == ["hand"]
    assert net.image_size == (160, 160)
    expected = json.loads(shared("pretrained/ultralytics/expected.json").read_text())[name]
    for picture, told in expected["detections_xyxy_conf_class"].items():
        image = cv2.imread(str(shared(f"datasets/hand_gesture/images/test/{picture}")))
        assert image.shape[:2] == (224, 224)
        fitted = cv2.resize(image, (160, 160), interpolation=cv2.INTER_LINEAR)
        batch = torch.from_numpy(fitted[:, :, ::-1].copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            found = engine.postprocess(net.decode(net(batch)), net.specs[0], 0.25, 0.45, multi_label=False)[0]
        found[:, :4] *= 224 / 160
        assert found[:, :4].numpy() == pytest.approx(np.array(told)[:, :4], abs=1)
        assert found[:, 4:].numpy() == pytest.approx(np.array(told)[:, 4:], abs=0.01)
