"""TensorRT by stand-ins: what is asked of it, and what is said where it is not."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from common.errors import UserError
from export.description import Description
from export.to_tensorrt import build_engine, builder, engine_run, need_tensorrt, shapes
from models.heads import AnchoredSpec

FIXED = Description(("a",), (AnchoredSpec(((8.0, 8.0),), 8, 1),), (64, 96), stride=32)
FREE = Description(("a",), (AnchoredSpec(((8.0, 8.0),), 8, 1),), (64, 96), any_size=True, batch=0, stride=32)


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Neither package nor program; a folder that is the whole PATH."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def program(folder: Path, body: str) -> None:
    path = folder / "trtexec"
    start = "import sys\nsaved = [word.split('=')[1] for word in sys.argv if 'saveEngine' in word]\n"
    path.write_text(f"#!{sys.executable}\n{start}{body}\n")
    os.chmod(path, 0o755)


def test_without_it_the_error_says_how_to_get_an_engine(nobody):
    assert builder() == ""
    with pytest.raises(UserError, match="trtexec --onnx"):
        need_tensorrt()
    with pytest.raises(UserError, match="not installed"):
        engine_run("net.engine")


def test_trtexec_is_asked_for_the_engine(nobody, tmp_path):
    program(nobody, "open(saved[0], 'w').write(' '.join(sys.argv[1:]))")
    build_engine("net.onnx", tmp_path / "net.engine", FREE, half=True)
    asked = (tmp_path / "net.engine").read_text()
    for word in ("--onnx=net.onnx", "--fp16", "--minShapes=images:1x3x64x64", "--optShapes=images:1x3x64x96"):
        assert word in asked
    build_engine("net.onnx", tmp_path / "net.engine", FIXED)
    assert "Shapes" not in (tmp_path / "net.engine").read_text()


def test_what_trtexec_refuses_is_told_in_its_words(nobody, tmp_path):
    program(nobody, "print('[E] no such layer'); sys.exit(1)")
    with pytest.raises(UserError, match="no such layer"):
        build_engine("net.onnx", tmp_path / "net.engine", FIXED)
    assert not (tmp_path / "net.engine").exists()


def test_the_package_gets_the_file_the_precision_and_the_shapes(monkeypatch, tmp_path):
    said: list = []

    class Profile:
        def set_shape(self, *shape):
            said.append(shape)

    class Config:
        set_flag = said.append
        add_optimization_profile = said.append

    class Builder:
        def __init__(self, _):
            pass

        create_network = staticmethod(lambda flags: said.append(flags))
        create_builder_config = staticmethod(Config)
        create_optimization_profile = staticmethod(Profile)
        build_serialized_network = staticmethod(lambda network, config: b"engine")

    class Parser:
        num_errors = 0

        def __init__(self, *_):
            pass

        parse = staticmethod(lambda content: said.append(content) or True)

    class Logger:
        ERROR = 1

        def __init__(self, _):
            pass

    stand_in = types.SimpleNamespace(
        Logger=Logger,
        Builder=Builder,
        OnnxParser=Parser,
        BuilderFlag=types.SimpleNamespace(FP16="half"),
        NetworkDefinitionCreationFlag=types.SimpleNamespace(EXPLICIT_BATCH=0),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in)
    (tmp_path / "net.onnx").write_bytes(b"graph")
    build_engine(tmp_path / "net.onnx", tmp_path / "net.engine", FREE, half=True)
    assert (tmp_path / "net.engine").read_bytes() == b"engine"
    assert said[:3] == [1, b"graph", "half"]
    assert ("images", *(shapes(FREE) or ())) in said


def test_operators_tensorrt_does_not_take_are_named():
    onnx = pytest.importorskip("onnx")
    from export.onnx_graph import unknown_to_tensorrt

    nodes = [onnx.helper.make_node(kind, ["a"], ["b"]) for kind in ("Conv", "Unique")]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    assert unknown_to_tensorrt(onnx.helper.make_model(graph)) == ["Unique"]
