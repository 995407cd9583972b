import contextlib
import os
import pickle
import random
import subprocess
import sys

import pytest
import torch

import models
from common.errors import UserError
from models.lineage import identity_lineage
from models.load_report import LoadReport
from models.network import adapt_classes
from tests.alive import alive
from tests.nets import TINY


def tiny(name: str = "residual", names=("red", "green", "blue")) -> models.Network:
    return models.Network(models.parse_cfg(TINY[name]), names)


@pytest.mark.parametrize("name", TINY)
def test_a_saved_network_comes_back_bit_for_bit(name, tmp_path):
    net = alive(tiny(name))
    net.lineage = models.descend(net, "baseline", models.identity_step(net))
    net.meta["seen"] = 12
    models.save(net, tmp_path / "net.pt", extra={"epoch": 3, "buffer": torch.ones(2)})
    again = models.load(tmp_path / "net.pt").eval()
    images = torch.rand(1, 3, 64, 64)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net(images), again(images)))
    assert (again.names, again.lineage, again.meta) == (net.names, net.lineage, net.meta)
    assert again.cfg.text() == net.cfg.text()
    assert models.fingerprint(again) == models.fingerprint(net)
    assert models.read_checkpoint(tmp_path / "net.pt")["extra"]["epoch"] == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_saved_in_another_precision_runs_in_fp32(dtype, tmp_path):
    net = alive(tiny()).to(dtype)
    models.save(net, tmp_path / "net.pt")
    again = models.load(tmp_path / "net.pt").eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(net.float()(images)[0], again(images)[0])
    filled = models.load(tmp_path / "net.pt", weights=tmp_path / "net.pt").eval()
    assert torch.equal(filled(images)[0], again(images)[0])


def _emptied(net, part):
    heads = set(net.head_convolutions)
    for number, layer in net.convolutions.items():
        if part == "all" or (part == "heads" and number in heads) or (part == "one" and number == 2):
            layer.conv.weight.data.zero_()
        if part == "gammas" and layer.bn is not None:
            layer.bn.weight.data.zero_()
        if part == "gammas" and layer.bn is None:
            layer.conv.weight.data.zero_()
    return net


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("all", "every convolution are 0"),
        ("gammas", "every convolution are 0"),
        ("heads", "every convolution of its heads are 0"),
        ("one", ""),
        ("none", ""),
    ],
)
def test_weights_that_say_the_same_of_every_picture_are_told(part, said, tmp_path, caplog):
    models.save(_emptied(alive(tiny()), part), tmp_path / "net.pt")
    with caplog.at_level("WARNING", "thinyolo"):
        models.load(tmp_path / "net.pt")
    assert said in caplog.text
    assert caplog.text.count("says the same of every picture") == bool(said)


def test_a_checkpoint_holds_plain_data_and_tensors_only(tmp_path):
    models.save(tiny(), tmp_path / "net.pt")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    assert set(content) == {"format", "cfg", "source", "names", "state", "lineage", "meta", "extra"}


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    for write in (
        lambda path: torch.save({"format": Hostile()}, path),
        lambda path: path.write_bytes(pickle.dumps(Hostile(), protocol=2)),
    ):
        write(tmp_path / "hostile.pt")
        for read in (models.read_checkpoint, models.load):
            with pytest.raises(UserError):
                read(tmp_path / "hostile.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [{"model": 1}, [1, 2], {"format": "other/1"}])
def test_a_pt_of_another_kind_is_a_user_error(content, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no ThinYOLO checkpoint"):
        models.read_checkpoint(tmp_path / "other.pt")


def test_a_damaged_checkpoint_is_a_user_error(tmp_path):
    models.save(tiny(), tmp_path / "net.pt")
    raw = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError):
        models.load(tmp_path / "net.pt")


def test_a_checkpoint_whose_tensors_do_not_belong_to_its_cfg_is_a_user_error():
    content = {
        "format": "thinyolo/1",
        "cfg": TINY["csp"],
        "names": ["a", "b", "c"],
        "state": tiny().state_dict(),
        "lineage": [],
        "meta": {},
    }
    with pytest.raises(UserError, match="do not belong to its cfg"):
        models.from_checkpoint(content, "mixed.pt")


def test_other_classes_give_a_checkpoint_new_heads_and_keep_the_rest(tmp_path, caplog):
    net = alive(tiny())
    models.save(net, tmp_path / "net.pt")
    with caplog.at_level("INFO", "thinyolo"):
        again = models.load(tmp_path / "net.pt", classes=5)
    assert again.classes == 5
    assert torch.equal(again.layers[14].conv.weight, net.layers[14].conv.weight)
    assert {name.split(".")[1] for name in again.load_report.unfit} == {"15", "22"}
    assert caplog.text.endswith("3 -> 5 classes: 2 heads start anew (layers 15, 22)\n")
    assert {record.levelname for record in caplog.records} == {"INFO"}, "nothing is wrong"


@pytest.mark.parametrize("name", ["yolov5n", "yolov8n", "yolo26n", "yolov4-tiny"])
def test_new_classes_are_said_in_one_line_for_every_family_of_heads(name, caplog):
    cfg = models.read_cfg(models.cfg_path(name))
    net = models.Network(cfg)
    wanted = adapt_classes(cfg.copy(), 7)
    report = LoadReport("file")
    for layer in wanted:
        for kind, tensor in net.layers[layer].conv.state_dict().items():
            fewer = tensor.shape[0] - tensor.shape[0] // 85 * 73 if "v5" in name or "v4" in name else 7
            report.refuse(f"layers.{layer}.conv.{kind}", (fewer, *tensor.shape[1:]), tensor.shape)
    with caplog.at_level("INFO", "thinyolo"):
        report.log(cfg)
    assert f"7 -> 80 classes: {len(wanted)} heads start anew" in caplog.text
    assert "not loaded" not in caplog.text


def test_what_does_not_fit_is_summed_up_and_not_listed_without_end(caplog):
    report = LoadReport("file", missing=[f"layers.{n}.bn.bias" for n in (3, 4, 5, 9)])
    for number in range(40):
        report.refuse(f"layers.{number}.conv.weight", (3,), (4,))
    report.log(tiny().cfg)
    assert "layers.4.conv.weight ([3] in the file, [4] here)" in caplog.text
    assert "35 more tensors, of layers 5 to 39" in caplog.text
    assert "left at their initial values: layers 3 to 5, 9" in caplog.text
    assert len(caplog.text.splitlines()) < 10


def test_names_alone_decide_the_classes(tmp_path):
    models.save(tiny(), tmp_path / "net.pt")
    assert models.load(tmp_path / "net.pt", names=["a", "b", "c"]).names == ["a", "b", "c"]
    assert models.load(tmp_path / "net.pt", names=["a", "b"]).classes == 2


def test_weights_from_a_checkpoint_fill_a_cfg(tmp_path):
    net = alive(tiny())
    net.lineage = models.descend(net, "baseline", models.identity_step(net))
    models.save(net, tmp_path / "net.pt")
    (tmp_path / "net.cfg").write_text(TINY["residual"])
    again = models.load(tmp_path / "net.cfg", weights=tmp_path / "net.pt")
    assert models.fingerprint(again) == models.fingerprint(net)
    assert (again.lineage, again.names) == (net.lineage, net.names)


def test_anchors_come_with_the_weights_that_were_trained_with_them(tmp_path):
    net = alive(tiny())
    fitted = [((31.0, 32.0), (33.0, 34.0), (35.0, 36.0)), ((4.5, 5.0), (6.0, 7.0), (8.0, 9.0))]
    net.with_anchors(fitted)
    models.save(net, tmp_path / "net.pt")
    (tmp_path / "net.cfg").write_text(TINY["residual"])
    again = models.load(tmp_path / "net.cfg", weights=tmp_path / "net.pt")
    assert [spec.anchors for spec in again.specs] == fitted
    own = [[(1.0, 2.0)] * 3] * 2
    chosen = models.load(tmp_path / "net.cfg", weights=tmp_path / "net.pt", anchors=own)
    assert [list(spec.anchors) for spec in chosen.specs] == own


def test_new_heads_have_no_ancestors(tmp_path):
    net = tiny()
    net.lineage = models.descend(net, "baseline", models.identity_step(net))
    models.save(net, tmp_path / "net.pt")
    rows = models.load(tmp_path / "net.pt", classes=5).lineage[0]["layers"]
    assert set(rows) == {str(number) for number in net.convolutions} - {"15", "22"}


def test_tensors_that_do_not_fit_are_listed(tmp_path, caplog):
    models.save(alive(tiny()), tmp_path / "net.pt")
    (tmp_path / "thin.cfg").write_text(TINY["residual"].replace("filters=6", "filters=5"))
    net = models.load(tmp_path / "thin.cfg", weights=tmp_path / "net.pt")
    assert {name.split(".")[1] for name in net.load_report.unfit} == {"2", "3", "5", "6"}
    assert net.load_report.unfit["layers.3.conv.weight"] == "[12, 6, 3, 3] in the file, [12, 5, 3, 3] here"
    assert "not loaded: layers.2.bn.running_var ([6] in the file, [5] here)" in caplog.text
    assert "7 more tensors, of layers" in caplog.text


def test_weights_none_of_which_fits_are_refused(tmp_path):
    models.save(alive(tiny("gated")), tmp_path / "net.pt")
    cfg = TINY["residual"]
    for old in ("filters=8\n", "filters=16\n", "filters=24\nsize=3", "filters=12\n", "filters=6\n"):
        cfg = cfg.replace(old, old.replace("filters=", "filters=7"))
    (tmp_path / "other.cfg").write_text(cfg)
    with pytest.raises(UserError, match="no convolution of it fits"):
        models.load(tmp_path / "other.cfg", weights=tmp_path / "net.pt")


def test_weights_alone_are_a_user_error_that_says_what_to_add():
    with pytest.raises(UserError, match="no structure") as caught:
        models.load("yolov3.weights")
    assert "weights='yolov3.weights'" in str(caught.value)


@pytest.mark.parametrize("weights", ["none.weights", "none.pt"])
def test_missing_weights_are_a_user_error(weights, tmp_path):
    (tmp_path / "net.cfg").write_text(TINY["csp"])
    with pytest.raises(UserError, match="does not exist"):
        models.load(tmp_path / "net.cfg", weights=tmp_path / weights)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov3-tiny.cfg", "cfg/yolov3-tiny.cfg"])
def test_cfgs_of_the_package_are_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert models.cfg_path(name).name == "yolov3-tiny.cfg"


def test_an_own_file_goes_before_the_packages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "yolov3-tiny.cfg").write_text(TINY["csp"])
    assert models.cfg_path("yolov3-tiny.cfg").resolve() == tmp_path / "yolov3-tiny.cfg"


@pytest.mark.parametrize("name", ["yolov9", "else/yolov3.cfg"])
def test_an_unknown_network_lists_the_known_ones(name):
    with pytest.raises(UserError, match="does not exist") as caught:
        models.load(name)
    assert "yolov3.cfg" in str(caught.value)


def test_a_missing_pt_is_a_missing_file_and_no_cfg_stands_for_it():
    with pytest.raises(UserError, match=r"gone\.pt: does not exist") as caught:
        models.load("else/gone.pt")
    assert "yolov3.cfg" not in str(caught.value)


def test_anchors_can_be_given_on_loading(tmp_path):
    (tmp_path / "net.cfg").write_text(TINY["csp"])
    wanted = [[(i + 1.0, i + 2.5) for i in range(6)]]
    assert models.load(tmp_path / "net.cfg", anchors=wanted).specs[0].anchors == tuple(wanted[0])


@pytest.fixture
def sound(tmp_path):
    """A file of ours, and its content."""
    net = alive(models.Network(models.parse_cfg(TINY["residual"])))
    net.lineage = [identity_lineage(net, "baseline")]
    models.save(net, tmp_path / "sound.pt")
    return tmp_path / "sound.pt", torch.load(tmp_path / "sound.pt", weights_only=True)


@pytest.mark.parametrize("part", ["cfg", "names", "state", "lineage", "meta", "extra"])
@pytest.mark.parametrize("value", ["absent", None, 5])
def test_an_incomplete_checkpoint_says_which_part_it_lacks(sound, part, value):
    path, content = sound
    content.pop(part)
    torch.save(content if value == "absent" else {**content, part: value}, path)
    with pytest.raises(UserError, match=f"{path}: is (incomplete|damaged).*'{part}'"):
        models.load(path)


@pytest.mark.parametrize(
    "lineage",
    [[5], [{}], [{"sha256": "", "kind": "baseline", "layers": {"0": {"layer": 0, "kept": [0, "1"]}}}]],
)
def test_a_lineage_that_is_none_is_told(sound, lineage):
    path, content = sound
    torch.save({**content, "lineage": lineage}, path)
    with pytest.raises(UserError, match="lineage"):
        models.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_refused_by_name(sound, value):
    path, content = sound
    content["state"]["layers.1.conv.weight"][0, 0] = value
    torch.save(content, path)
    with pytest.raises(UserError, match=r"9 of the \d+ values of layers\.1\.conv\.weight are not finite"):
        models.load(path)


def test_variances_below_zero_and_values_that_are_no_fractions_are_refused_by_name(sound):
    path, content = sound
    for name, tensor, said in (
        ("layers.1.bn.running_var", -content["state"]["layers.1.bn.running_var"], "are below 0, which no variance is"),
        ("layers.1.conv.weight", content["state"]["layers.1.conv.weight"].bool(), "weight holds bool values"),
    ):
        damaged = {**content, "state": {**content["state"], name: tensor}}
        torch.save(damaged, path)
        with pytest.raises(UserError, match=said):
            models.load(path)


def test_every_flipped_byte_of_the_data_is_noticed(sound):
    path, content = sound
    raw, rng, seen = path.read_bytes(), random.Random(0), 0
    for _ in range(20):
        place = rng.randrange(len(raw))
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1 << rng.randrange(8)]) + raw[place + 1 :])
        state = {}
        with contextlib.suppress(UserError):  # what fills up the archive to whole pages means nothing
            state = models.load(path).state_dict()
        seen += not state
        if state:
            assert all(torch.equal(tensor, content["state"][name]) for name, tensor in state.items())
    assert seen > 10


def test_what_is_no_ordinary_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    with open(tmp_path / "huge.pt", "wb") as handle:
        handle.truncate(10**11)
    for name in ("pipe", "folder", "zero", "huge"):
        with pytest.raises(UserError, match=f"{name}.pt"):
            models.load(tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match="5000 characters"):
        models.load("a" * 5000)


def test_a_runs_folder_stands_for_the_network_it_has_left(sound):
    path, _ = sound
    run = path.parent / "runs/train/exp"
    (run / "weights").mkdir(parents=True)
    (run / "args.yaml").touch()
    path.rename(run / "weights/best.pt")
    assert models.load(run).load_report is None
    cfg = models.load(run).cfg.text()
    (path.parent / "net.cfg").write_text(cfg)
    assert models.load(path.parent / "net.cfg", weights=run).load_report.missing == []


def test_tensors_that_do_not_fit_are_counted_and_the_first_of_each_named(sound):
    path, content = sound
    names = [name for name in content["state"] if name.endswith("conv.weight")]
    state = dict(content["state"])
    del state[names[0]], state[names[1]]
    state[names[2]] = state[names[2]][:1]
    state["layers.99.conv.weight"] = torch.zeros(3)
    torch.save({**content, "state": state}, path)
    with pytest.raises(UserError) as refused:
        models.load(path)
    said = refused.value.problem
    assert f"2 of its {len(content['state'])} tensors are missing, the first {names[0]}" in said
    assert "1 tensors are in it that the network does not have, the first 'layers.99.conv.weight'" in said
    assert f"1 tensors are of another shape, the first {names[2]}: [1, " in said
    assert refused.value.todo
    assert "load_state_dict" not in said
    assert "size mismatch" not in said


def test_a_weight_that_overflows_is_refused(sound):
    path, content = sound
    name = next(name for name in content["state"] if name.endswith("conv.weight"))
    content["state"][name].view(-1)[0] = 1e38
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"1 of the \d+ values of {name} are beyond 1e\+12"):
        models.load(path)


@pytest.mark.parametrize("there", [(), ("a.onnx", "a-int8.onnx", "a.onnx.card.md")])
@pytest.mark.parametrize("way", ["network", "weights"])
def test_a_folder_in_the_place_of_a_network_names_the_networks_in_it(there, way, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in there:
        (folder / name).touch()
    said = "in it are a-int8.onnx, a.onnx" if there else "no network is in it"
    with pytest.raises(UserError, match=said):
        models.load("yolov3-tiny", weights=folder) if way == "weights" else models.load(folder)


def test_the_range_of_deep_pixels_is_two_numbers(sound):
    path, content = sound
    for wrong in ([1], ["0", "1"], [5, 1], [float("nan"), 1], "x"):
        torch.save({**content, "meta": {**content["meta"], "pixel_range": wrong}}, path)
        with pytest.raises(UserError, match="'pixel_range'"):
            models.load(path)


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.engine", "net-ncnn.param", "net.tflite"])
def test_an_exported_file_is_no_network_to_train(name, tmp_path):
    (tmp_path / name).write_bytes(b"graph")
    for given in ({"source": tmp_path / name}, {"source": "yolov3-tiny", "weights": tmp_path / name}):
        with pytest.raises(UserError, match="is an exported file") as refused:
            models.load(**given)
        assert refused.value.todo == "give the .pt that it was made of"


@pytest.mark.parametrize("text", ["hello", "<net/>", "0 .5 .5 .2 .2", "{}"])
def test_what_is_no_cfg_at_all_is_asked_for(text, tmp_path):
    (tmp_path / "x.cfg").write_text(text)
    with pytest.raises(UserError, match=r"is it a Darknet cfg\? One begins with \[net\]"):
        models.load(tmp_path / "x.cfg")


def test_what_is_loaded_is_held_once(tmp_path):
    models.save(models.Network(models.read_cfg(models.cfg_path("yolov3-tiny"))), tmp_path / "net.pt")
    program = f"""
import re, torch, models, models.checkpoint, models.unpickle, models.yolov5, models.ultralytics
def now(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
models.Network(models.parse_cfg({TINY["csp"]!r}))
before = now("VmRSS")
net = models.load({str(tmp_path / "net.pt")!r})
tensors = sum(each.numel() * each.element_size() for each in net.state_dict().values())
print((now("VmHWM") - before) / tensors)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.1, "1, and 25 MB of what is no tensor; read, copied and checked at once it takes 3"


def test_the_content_of_a_checkpoint_stays_its_owners(tmp_path):
    net = alive(tiny())
    models.save(net, tmp_path / "net.pt")
    content = models.read_checkpoint(tmp_path / "net.pt")
    again = models.from_checkpoint(content)
    with torch.no_grad():
        again.layers[0].conv.weight.zero_()
    assert content["state"]["layers.0.conv.weight"].abs().sum() > 0
