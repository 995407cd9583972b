"""`thinyolo export` on a tiny network: every file computes what the network does, and says so."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import models
from common.errors import UserError
from common.log import log
from data import Dataset, load_spec
from data.labels import scan
from engine.evaluate import evaluate
from engine.postprocess import postprocess
from export.checks import compare_outputs, noise, pictures_of
from export.description import describe
from export.onnx_files import open_onnx
from export.onnx_graph import finished, model_of, unknown_to_tensorrt
from export.opening import in_classes_of, open_model
from export.runtimes import Runtime
from export.to_onnx import onnx_model
from models.network import Network, adapt_classes
from tests import nets
from tests.alive import alive
from tests.cli.material import NAMES, make_set
from tests.opencv import needs_opencv_4
from thinyolo.export import EXPORT as COMMAND

openvino = pytest.importorskip("openvino", reason="needs the extra openvino")


def tiny(text: str = nets.YOLOV5, names: tuple[str, ...] = ("red", "blue", "green")) -> Network:
    return alive(Network(models.parse_cfg(text), list(names))).eval()


class Exported:
    """One call of the command, and what it left."""

    def __init__(self, folder: Path, capsys_text: str, status: int, net: Network, data: Path):
        self.folder, self.text, self.status, self.net, self.data = folder, capsys_text, status, net, data


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    data = make_set(folder / "set") / "data.yaml"
    cfg = models.parse_cfg(nets.YOLOV5)
    adapt_classes(cfg, 2)
    net = alive(Network(cfg, list(NAMES))).eval()
    net.meta["teacher"] = {"source": "/some/where/fat.pt", "sha256": "ab" * 32}
    run = folder / "run" / "student"
    models.save(net, run / "weights" / "best.pt", extra={"kind": "student", "epoch": 3, "metrics": {"val/mAP50": 0.5}})
    (folder / "run" / "args.yaml").write_text("data: some/where/set/data.yaml\nkd: hinton,bounded\nimgsz: '64'\n")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = COMMAND.main(
            [
                "--weights",
                str(run / "weights" / "best.pt"),
                "--data",
                str(data),
                "--calibrate",
                "99",
                "--threads",
                "1",
                "--to",
                "onnx,int8,openvino,darknet,tensorrt",
            ]
        )
    log.handlers.clear()
    return Exported(run / "export", out.getvalue() + err.getvalue(), status, net, data)


def test_files_are_in_the_run_named_after_it_each_with_its_cards(exported: Exported) -> None:
    there = {path.name for path in exported.folder.iterdir()}
    files = {"student.onnx", "student-int8.onnx", "student.xml", "student.cfg"}
    assert there == files | {f"{name}.card.{kind}" for name in files for kind in ("md", "json")} | {
        "student.bin",
        "student.weights",
        "student.names",
    }


def test_what_cannot_be_made_is_said_at_the_end_and_ends_with_2(exported: Exported) -> None:
    assert exported.status == 2
    assert "tensorrt was not made" in exported.text
    assert "trtexec --onnx" in exported.text


def test_the_table_has_a_row_a_file(exported: Exported) -> None:
    for word in ("PyTorch", "ONNX", "ONNX, INT8", "OpenVINO", "Darknet", "mAP50-95", "latency ms"):
        assert word in exported.text


@pytest.mark.parametrize(
    "file, runtime",
    [
        ("student.onnx", "onnxruntime"),
        ("student.onnx", "openvino"),
        pytest.param("student.onnx", "opencv", marks=needs_opencv_4),
        ("student.xml", "openvino"),
        ("student.cfg", "torch"),
        pytest.param("student.cfg", "opencv", marks=needs_opencv_4),
    ],
)
def test_every_file_in_every_runtime_gives_the_heads_and_names_of_the_network(
    exported: Exported, file: str, runtime: str
) -> None:
    opened = open_model(exported.folder / file, runtime=runtime, threads=1, device="cpu")
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = exported.net(images), opened(images)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.shape == other.shape
            assert (mine - other).abs().max() < 1e-4 * mine.abs().max()
        assert (exported.net.decode(ours) - opened.decode(theirs)).abs().max() < 1e-2
    assert opened.names == list(NAMES)
    assert opened.image_size == (64, 64)


def test_a_file_is_scored_like_the_network(exported: Exported) -> None:
    opened = open_model(exported.folder / "student.onnx", threads=1)
    mine, theirs = (evaluate(net, exported.data, "val") for net in (exported.net, opened))
    assert theirs.map50_95 == pytest.approx(mine.map50_95, abs=1e-6)


def test_int8_is_smaller_and_near_the_network(exported: Exported) -> None:
    sizes = [(exported.folder / name).stat().st_size for name in ("student.onnx", "student-int8.onnx")]
    assert sizes[1] < sizes[0], "a network so small is mostly names"
    opened = open_model(exported.folder / "student-int8.onnx", threads=1)
    assert isinstance(opened, Runtime)
    assert opened.description.precision == "int8"
    images = torch.stack([sample.image for sample in Dataset(exported.data, "train", (64, 64))]).float() / 255
    with torch.no_grad():
        for mine, other in zip(exported.net(images), opened(images), strict=True):
            assert 0 < (mine - other).abs().mean() < 0.1 * mine.abs().max()


def test_the_card_tells_what_is_known_and_what_is_not(exported: Exported) -> None:
    record = json.loads((exported.folder / "student-int8.onnx.card.json").read_text())
    text = (exported.folder / "student-int8.onnx.card.md").read_text()
    assert record["data"]["set"] == "set/data.yaml"
    assert record["source"]["kind"] == "student"
    assert record["lineage"]["kd"] == "hinton,bounded"
    assert record["network"]["parameters"] == models.parameters(exported.net)
    assert record["file"]["int8"]["candidate"] in text
    assert record["file"]["int8"]["pictures"] == 8, "as many as there are, not as many as were asked for"
    assert "8 training pictures of set/data.yaml" in text
    assert record["file"]["files"][0]["sha256"] in text
    assert "teacher: fat.pt" in text
    for card in exported.folder.glob("*.card.*"):
        content = card.read_text()
        for path in ("/some/where", str(exported.data.parent.parent)):
            assert path not in content, "the way to a file on this machine is nobody else's business"
    assert "no ancestor is recorded" in text
    assert "mAP50 0.5000" in text


def test_exported_files_hold_no_paths_of_this_machine(exported: Exported) -> None:
    for path in exported.folder.iterdir():
        assert str(Path(models.__file__).parent).encode() not in path.read_bytes(), path.name
        assert b"torch/nn" not in path.read_bytes(), path.name


def test_a_wrong_file_is_refused(tmp_path, monkeypatch, capsys) -> None:
    from export import job

    models.save(tiny(nets.RESIDUAL), tmp_path / "net.pt")
    other = onnx_model(alive(Network(models.parse_cfg(nets.RESIDUAL)), seed=1).eval(), (64, 64))
    monkeypatch.setattr(job, "onnx_model", lambda *_: other)
    (tmp_path / "export").mkdir()
    for name in ("net.onnx", "net.onnx.card.md", "net.onnx.card.json"):
        (tmp_path / "export" / name).write_text("an earlier export's")
    assert COMMAND.main(["--weights", str(tmp_path / "net.pt"), "--no-latency"]) == 2
    assert "are not PyTorch's" in capsys.readouterr().err
    assert list((tmp_path / "export").iterdir()) == [], "a wrong file, or a card that speaks of another one"


def test_a_comparison_says_what_it_was_made_on(exported: Exported) -> None:
    two = pictures_of(Dataset(exported.data, "test", (64, 64)))
    assert len(two.images) == 2
    assert compare_outputs(exported.net, exported.net, two).where == "on 2 pictures"
    assert compare_outputs(exported.net, exported.net, noise((64, 64))).where == "on noise"


def test_other_classes_of_the_same_number_are_pointed_out(exported: Exported, caplog) -> None:
    spec = load_spec(exported.data)
    assert in_classes_of(exported.net, spec) is spec
    assert caplog.text == ""
    other = dataclasses.replace(spec, names=("cat", "dog"))
    assert in_classes_of(exported.net, other) is other
    assert "cat, dog" in caplog.text
    assert "red, blue" in caplog.text


def test_the_same_classes_in_another_order_are_scored_by_name(exported: Exported, tmp_path: Path) -> None:
    right = load_spec(exported.data)
    other = tmp_path / "other.yaml"
    shutil.copytree(exported.data.parent, tmp_path / "set")
    for path in (tmp_path / "set").rglob("labels/**/*.txt"):
        rows = [line.split(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{1 - int(number)} {rest}\n" for number, rest in rows))
    other.write_text("path: set\ntrain: images/train\nval: images/val\ntest: images/test\nnames: [blue, red]\n")
    swapped = in_classes_of(exported.net, load_spec(other))
    assert swapped.names == ("red", "blue")
    found = [evaluate(exported.net, each, split="test", size=(64, 64)) for each in (right, swapped)]
    assert found[0].as_dict(classes=True) == found[1].as_dict(classes=True)
    classes = [{row for labels in scan(each, "test").labels for row in labels[:, 0]} for each in (right, swapped)]
    assert classes[0] == classes[1] == {0, 1}


def test_some_of_a_networks_classes_are_scored_by_name(exported: Exported, tmp_path: Path) -> None:
    """As if its other classes had no box."""
    shutil.copytree(exported.data.parent, tmp_path / "set")
    rest = tmp_path / "rest"
    shutil.copytree(exported.data.parent, rest)
    for path in (tmp_path / "set").rglob("labels/**/*.txt"):
        blue = [line.split(" ", 1)[1] for line in path.read_text().splitlines() if line.startswith("1 ")]
        path.write_text("".join(f"0 {row}\n" for row in blue))
        (rest / path.relative_to(tmp_path / "set")).write_text("".join(f"1 {row}\n" for row in blue))
    text = "path: set\ntrain: images/train\nval: images/val\ntest: images/test\nnames: [BLUE]\n"
    (tmp_path / "blue.yaml").write_text(text)
    spec = in_classes_of(exported.net, load_spec(tmp_path / "blue.yaml"))
    assert spec.names == ("red", "BLUE")
    found = evaluate(exported.net, spec, split="test", size=(64, 64))
    same = evaluate(exported.net, load_spec(rest / exported.data.name), split="test", size=(64, 64))
    assert (found.boxes, found.map50, found.map50_95) == (same.boxes, same.map50, same.map50_95)


@functools.cache
def trunk(text: str, batch: int, free: bool) -> bytes:
    return onnx_model(tiny(text), (64, 96), batch, free)


@pytest.mark.parametrize("outputs", ["decoded", "boxes"])
@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("text", [nets.YOLOV5, nets.detect()], ids=["anchored", "anchor-free"])
def test_decoding_and_nms_inside_the_graph_equal_those_outside(tmp_path, text: str, outputs: str, free: bool) -> None:
    net = tiny(text)
    nms = {"conf": 0.2, "iou": 0.5, "max_det": 1000} if outputs == "boxes" else None
    batch = 0 if free else 1
    description = describe(net, (64, 96), outputs=outputs, nms=nms, batch=batch, any_size=free)
    model = finished(model_of(trunk(text, batch, free)), description)
    assert unknown_to_tensorrt(model) == []
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    opened = open_onnx(tmp_path / "net.onnx", threads=1)
    for size in [(64, 96), (96, 32)] if free else [(64, 96)]:
        images = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            ours, theirs = net.decode(net(images)), opened.decode(opened(images))
        if outputs == "decoded":
            assert (ours - theirs).abs().max() < 1e-4 * ours.abs().max()
            continue
        found = [postprocess(each, net.specs[0], 0.2, 0.5, 1000) for each in (ours, theirs)]
        assert sum(map(len, found[0])) > 10
        for mine, other in zip(*found, strict=True):
            assert len(mine) == len(other)
            apart = torch.cdist(mine, other, p=float("inf"))  # equally confident boxes may change places
            assert max(apart.amin(0).max(), apart.amin(1).max()) < 1e-2


@pytest.mark.parametrize("wrong, fits", [(slice(0, 0), True), (slice(4, 5), False), (slice(0, 1), True)])
def test_scores_of_a_file_that_decodes_are_not_judged_by_the_size_of_boxes(wrong: slice, fits: bool) -> None:
    """An error of .01 is nothing beside boxes of hundreds of pixels, and much for a score."""
    net = tiny()
    description = describe(net, (64, 96), outputs="decoded", batch=0)

    def run(images: Any) -> list:
        with torch.no_grad():
            decoded = net.decode(net(torch.from_numpy(images)))
        decoded[..., wrong] += 0.01
        return [decoded.numpy()]

    with torch.no_grad():
        assert net.decode(net(noise((64, 96)).images))[..., :4].max() > 200
    assert compare_outputs(net, Runtime(description, run, "onnxruntime", "net.onnx"), noise((64, 96))).fits is fits


def test_what_is_exported_is_not_written_over(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    models.save_darknet(tiny(nets.RESIDUAL), Path("net.cfg"), Path("net.weights"))
    before = Path("net.cfg").read_bytes(), Path("net.weights").read_bytes()
    assert COMMAND.main(["--cfg", "net.cfg", "--weights", "net.weights", "--to", "darknet", "--out", "."]) == 2
    assert "is what is exported" in capsys.readouterr().err
    assert (Path("net.cfg").read_bytes(), Path("net.weights").read_bytes()) == before


def test_card_of_an_earlier_file_does_not_outlive_it(tmp_path, monkeypatch) -> None:
    """Stopped before the new cards are written, a folder holds no card that speaks of another file."""
    monkeypatch.chdir(tmp_path)
    models.save(tiny(nets.RESIDUAL), "net.pt")
    chosen = ["--weights", "net.pt", "--to", "onnx", "--threads", "1", "--no-latency"]
    assert COMMAND.main(chosen) == 0
    assert Path("export/net.onnx.card.json").is_file()
    monkeypatch.setattr("pipeline.exporting.Exporter._judge", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        COMMAND.main(chosen)
    assert {path.name for path in Path("export").iterdir()} == {"net.onnx"}


def test_data_without_val_are_enough_where_nothing_is_quantised(exported: Exported, tmp_path, capsys) -> None:
    folder = exported.data.parent
    yaml = tmp_path / "data.yaml"
    yaml.write_text(f"path: {folder}\ntrain: images/train\ntest: images/test\nnames: {list(NAMES)}\n")
    weights = str(exported.folder.parent / "weights" / "best.pt")
    chosen = [
        "--weights",
        weights,
        "--data",
        str(yaml),
        "--split",
        "test",
        "--out",
        str(tmp_path / "out"),
        "--threads",
        "1",
        "--no-latency",
    ]
    assert COMMAND.main([*chosen, "--to", "onnx"]) == 0
    assert COMMAND.main([*chosen, "--to", "onnx,int8"]) == 2
    assert "'val'" in capsys.readouterr().err


def test_a_file_of_one_size_refuses_others_and_a_batch_is_filled_up(tmp_path) -> None:
    net = tiny(nets.RESIDUAL)
    description = describe(net, (64, 96), batch=2)
    model = finished(model_of(onnx_model(net, (64, 96), 2)), description)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    opened = open_onnx(tmp_path / "net.onnx", threads=1)
    images = torch.rand(3, 3, 64, 96)
    with torch.no_grad():
        pairs = zip(net(images), opened(images), strict=True)
        assert all(a.shape == b.shape and (a - b).abs().max() < 1e-4 * a.abs().max() for a, b in pairs)
    with pytest.raises(UserError, match="96x64"):
        opened(torch.rand(1, 3, 64, 64))


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--to", "onx"], "did you mean onnx"),
        (["--to", "int8"], "add --data"),
        (["--max-drop", "0.01"], "names no INT8"),
        (["--half"], "names neither"),
        (["--name", "a/b"], "not the name of a file"),
        (["--out", "net.pt"], "nothing can be written into net.pt"),
        (["--to", "tensorrt", "--outputs", "nms"], "is not for tensorrt"),
        (["--batch", "0"], "--dynamic batch"),
        (["--conf", "2"], "not between 0 and 1"),
        (["--imgsz", "0"], "is no picture size"),
        (["--weights", "absent.pt"], "does not exist"),
        (["--weights", "net.onnx"], "only a network of PyTorch"),
    ],
)
def test_mistakes_end_with_2_and_say_what_to_do(tmp_path, monkeypatch, capsys, arguments, said) -> None:
    monkeypatch.chdir(tmp_path)
    models.save(tiny(nets.RESIDUAL), "net.pt")
    Path("net.onnx").touch()
    assert COMMAND.main(["--weights", "net.pt", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "->" in error
    assert not Path("export").exists()
