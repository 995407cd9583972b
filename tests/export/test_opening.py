"""Files of every format in `thinyolo predict`, `val` and `latency`; and what is said of files nobody knows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import models
from common.errors import UserError
from export.description import Description, describe
from export.files import parts
from export.onnx_graph import finished, model_of
from export.opencv import open_opencv
from export.opening import open_model
from export.to_onnx import onnx_model
from models.network import Network
from reporting.tables import short_names
from tests.engine.test_evaluate import write_set
from tests.opencv import needs_opencv_4
from tests.reporting.test_predict import ONE_CELL
from thinyolo.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one cell that always finds a disc in the middle, as `.pt` and `.onnx`."""
    folder = tmp_path_factory.mktemp("files")
    net = Network(models.parse_cfg(ONE_CELL), ["square", "disc"]).eval()
    conv = net.convolutions[0].conv
    assert conv.bias is not None
    conv.weight.data.zero_()
    conv.bias.data[:] = conv.bias.new_tensor([0.0, 0, 0, 0, 10, -10, 0.5])
    models.save(net, folder / "net.pt")
    model = finished(model_of(onnx_model(net, (32, 32))), describe(net))
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    (folder / "other").mkdir()
    (folder / "other" / "net.onnx").write_bytes(model.SerializeToString())
    cv2.imwrite(str(folder / "one.png"), np.full((64, 128, 3), 120, np.uint8))
    return folder


def test_the_description_comes_back_from_its_metadata(files):
    net = models.load(files / "net.pt")
    nms = {"conf": 0.25, "iou": 0.45, "max_det": 300}
    whole = describe(net, (64, 96), any_size=True, batch=0, outputs="boxes", precision="int8", nms=nms)
    assert Description.from_metadata(whole.metadata(), "net.onnx") == whole
    assert "family" not in whole.as_dict()["heads"][0], "as files that name no family have it"


def test_predict_finds_the_same_with_every_file(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("net.pt", "net.onnx"):
        arguments = ["--model", str(files / name), "--source", str(files / "one.png"), "--device", "cpu"]
        assert main(["predict", *arguments, "--name", name]) == 0
    found = [json.loads(Path(f"runs/predict/{name}/predictions.json").read_text()) for name in ("net.pt", "net.onnx")]
    assert found[0] == found[1]
    assert found[0][0]["detections"][0]["name"] == "disc"


def test_compare_draws_networks_side_by_side(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--compare", str(files / "net.pt"), str(files / "other/net.onnx"), "--source", str(files / "one.png")]
    assert main(["predict", *arguments]) == 0
    assert "net.pt:" in capsys.readouterr().out
    drawn = cv2.imread("runs/predict/exp/one.png")
    assert drawn.shape[1] > 2 * 2 * 360, "two pictures of 128 x 64, enlarged, beside each other"
    record = json.loads(Path("runs/predict/exp/predictions.json").read_text())
    assert list(record) == ["net.pt", "net.onnx"]
    assert Path("runs/predict/exp/labels/net.onnx/one.txt").read_text().startswith("1 ")


BOTH = ["--model", "net.pt", "--compare", "net.pt", "net.onnx"]


@pytest.mark.parametrize("given", [[], ["--compare", "net.pt"], BOTH])
def test_one_network_or_several_to_compare(files, monkeypatch, capsys, given):
    monkeypatch.chdir(files)
    assert main(["predict", *given, "--source", "one.png"]) == 2
    assert "--compare fat.pt thin.pt" in capsys.readouterr().err


def test_val_scores_an_onnx_file(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    yaml = write_set(tmp_path / "set", [["1 .5 .5 .5 .25"], ["1 .5 .5 .5 .25"]])
    for name in ("net.pt", "net.onnx"):
        arguments = ["--model", str(files / name), "--data", str(yaml), "--no-plots", "--name", name, "--device", "cpu"]
        assert main(["val", *arguments]) == 0
    scores = [json.loads(Path(f"runs/val/{name}/score.json").read_text()) for name in ("net.pt", "net.onnx")]
    assert scores[0]["mAP50-95"] == scores[1]["mAP50-95"] > 0.3


def test_latency_has_a_row_a_file_and_runtime(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    arguments = ["net.pt", "net.onnx", "--runtime", "torch,onnxruntime", "--rounds", "3", "--no-memory"]
    assert main(["latency", *arguments, "--threads", "1", "--json", str(tmp_path / "out.json")]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [(row["name"], row["runtime"]) for row in rows] == [
        ("net.pt", "torch"),
        ("net.pt", "onnxruntime"),
        ("net.onnx", "onnxruntime"),
    ]
    assert rows[0]["latency"]["ratio_to_first"] == 1
    assert "1 thread" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is told by Linux only")
def test_memory_is_measured_in_a_process_of_its_own(files):
    from export.memory import peak_memory

    used = peak_memory(files / "net.onnx")
    assert used is not None
    assert 0 < used < 300


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["latency", "absent.onnx"], "does not exist"),
        (["latency", "net.pt", "--runtime", "fast"], "none of auto"),
        (["latency", "net.onnx", "--imgsz", "64"], "takes 32x32"),
        (["latency", "net.pt", "--rounds", "0"], "--rounds 0 is not between 1 and 100000"),
        (["latency", "net.pt", "--threads", "-1"], "is not between 0 and 1024"),
        (["latency", "net.pt", "--json", "net.pt/out.json"], "nothing can be written into net.pt"),
        (["latency", "net.pt", "--json", "."], "is a folder"),
        (["predict", "--model", "net.pt", "--source", "one.png", "--data", "latin.names"], "save it as UTF-8"),
        (["predict", "--model", "net.onnx", "--runtime", "torch", "--source", "one.png"], "does not run"),
        (["predict", "--model", "one.png", "--source", "one.png"], "nobody here can run"),
        (["predict", "--model", "broken.onnx", "--source", "one.png"], "cannot read it"),
        (["predict", "--model", "net.engine", "--source", "one.png"], "needs its model card"),
        (["predict", "--model", "card.engine", "--source", "one.png"], "needs its model card"),
        (["predict", "--model", "half.onnx", "--source", "one.png"], "metadata are damaged"),
        (["predict", "--model", "foreign.onnx", "--source", "one.png"], "not exported by ThinYOLO"),
    ],
)
def test_mistakes_end_with_status_2_and_what_to_do(files, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(files)
    Path("broken.onnx").write_bytes(b"no model")
    Path("latin.names").write_bytes("Stra\xdfe\n".encode("latin-1"))
    Path("net.engine").touch()
    Path("card.engine").touch()
    Path("card.engine.card.json").write_text('{"file": 3}')
    foreign = model_of(Path("net.onnx").read_bytes())
    (heads,) = [each for each in foreign.metadata_props if each.key == "heads"]
    heads.value = "["
    Path("half.onnx").write_bytes(foreign.SerializeToString())
    foreign.metadata_props.clear()
    Path("foreign.onnx").write_bytes(foreign.SerializeToString())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "->" in error


def test_metadata_of_other_programs_are_no_hindrance(files, tmp_path):
    model = model_of((files / "net.onnx").read_bytes())
    model.metadata_props.add(key="simplified", value="by somebody")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert open_model(tmp_path / "net.onnx").names == ["square", "disc"]


def test_a_size_is_rounded_up_before_a_network_is_exported_on_the_fly(files):
    assert open_model(files / "net.pt", runtime="onnxruntime", size=(33, 64)).image_size == (64, 64)


@needs_opencv_4
def test_opencv_is_not_given_weights_of_another_cfg(files, tmp_path):
    models.save_darknet(models.load(files / "net.pt"), tmp_path / "net.cfg", tmp_path / "net.weights")
    assert open_model(tmp_path / "net.cfg", runtime="opencv").classes == 2
    whole = (tmp_path / "net.weights").read_bytes()
    (tmp_path / "net.weights").write_bytes(whole[:-4])
    with pytest.raises(UserError, match="does not belong to"):
        open_model(tmp_path / "net.cfg", runtime="opencv")


@needs_opencv_4
def test_opencv_has_the_threads_it_was_given(files, tmp_path):
    models.save_darknet(models.load(files / "net.pt"), tmp_path / "net.cfg", tmp_path / "net.weights")
    before = cv2.getNumThreads()
    try:
        for threads in (2, 1):
            open_opencv(tmp_path / "net.cfg", threads, tmp_path / "net.weights", ["square", "disc"])
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)


def test_a_package_that_is_not_installed_is_named_with_its_extra(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"\[openvino\]"):
        open_model(files / "net.onnx", runtime="openvino")


def test_names_tell_files_apart_and_a_network_may_be_two_files(tmp_path):
    assert short_names(["a/b/best.pt", "a/c/best.pt", "x.onnx"]) == ["b/best.pt", "c/best.pt", "x.onnx"]
    for name in ("net.xml", "net.bin", "net.onnx"):
        (tmp_path / name).touch()
    assert [path.name for path in parts(tmp_path / "net.xml")] == ["net.xml", "net.bin"]
    assert [path.name for path in parts(tmp_path / "net.onnx")] == ["net.onnx"]


def test_the_command_has_export_and_latency(capsys):
    assert main([]) == 0
    text = capsys.readouterr().out
    assert "    export " in text
    assert "    latency " in text


def test_openvino_reports_nothing_to_its_makers():
    pytest.importorskip("openvino_telemetry", reason="needs the extra openvino")
    code = (
        "import sys\n"
        "from export.to_openvino import need_openvino\n"
        "need_openvino()\n"
        "print([name for name in sys.modules if name.startswith('openvino_telemetry')])\n"
    )
    line, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_a_process_lives_on_when_files_of_openvino_are_dropped(files):
    """On a CPU with AMX the next signal that is handled ended it."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    code = (
        "import gc, os, signal\n"
        "from export.to_openvino import compiled\n"
        "first, second = (compiled('net.onnx', 1) for _ in range(2))\n"
        "del first; gc.collect(); del second; gc.collect()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('heard'))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=files, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr
