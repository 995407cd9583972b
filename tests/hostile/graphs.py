"""Hostile files of networks for other programs: ONNX, OpenVINO's .xml, ncnn's .param."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.hostile.others import ENTITIES

Make = Callable[[Path, Path], object]
Nodes = Callable[[Any], list[Any]]
SIZE = 64


def _about(path: Path) -> dict[str, str]:
    """What the sound network says about itself."""
    return dict(json.loads((path.parent / "about.json").read_text()))


def forged_onnx(path: Path, said: Mapping[str, str], net: Any = None) -> None:
    """The sound network as ONNX, with other words about itself."""
    import onnx

    if net is not None:
        from export.description import describe
        from export.onnx_graph import finished, model_of
        from export.to_onnx import onnx_model

        model = finished(model_of(onnx_model(net, (SIZE, SIZE))), describe(net))
        path.write_bytes(model.SerializeToString())
        return
    model = onnx.load(str(path.parent / "ok.onnx"))
    _say(model, _about(path) | said)
    path.write_bytes(model.SerializeToString())


def _say(model: Any, said: Mapping[str, str]) -> None:
    del model.metadata_props[:]
    for key, value in said.items():
        model.metadata_props.add(key=key, value=value)


def _graph(nodes: Nodes, initializers: Callable[[Any, Path], list[Any]] = lambda onnx, marker: []) -> Make:
    """A graph of `nodes` from "images" to "out", which says it is a network of ours."""

    def make(path: Path, marker: Path) -> None:
        import onnx
        from onnx import helper

        shapes = {"images": [1, 3, SIZE, SIZE], "out": None}
        ends = [helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, shape) for each, shape in shapes.items()]
        graph = helper.make_graph(nodes(helper), "g", ends[:1], ends[1:], initializers(onnx, marker))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        _say(model, _about(path))
        path.write_bytes(model.SerializeToString())

    return make


def _outside(location: Callable[[Path], str], dims: tuple[int, ...] = (1,), length: int = 4) -> Make:
    """A constant whose values lie in another file."""

    def tensors(onnx: Any, marker: Path) -> list[Any]:
        found = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=dims)
        found.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location(marker)), ("offset", "0"), ("length", str(length))):
            found.external_data.add(key=key, value=value)
        return [found]

    return _graph(lambda helper: [helper.make_node("Add", ["images", "c"], ["out"])], tensors)


def _sized(dims: tuple[int, ...]) -> Make:
    """A constant that says it is larger than it is."""

    def tensors(onnx: Any, _: Path) -> list[Any]:
        return [onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=dims, raw_data=b"1234")]

    return _graph(lambda helper: [helper.make_node("Add", ["images", "c"], ["out"])], tensors)


def _grown(op: str, values: list[int], **attributes: Any) -> Make:
    """A node that makes something huge of little."""

    def tensors(onnx: Any, _: Path) -> list[Any]:
        return [onnx.helper.make_tensor("c", onnx.TensorProto.INT64, [len(values)], values)]

    source = [] if op == "ConstantOfShape" else ["images"]

    def nodes(helper: Any) -> list[Any]:
        big = helper.make_node(op, [*source, "c"], ["big"], **attributes)
        return [big, helper.make_node("ReduceMax", ["big"], ["out"])]

    return _graph(nodes, tensors)


def _loop(path: Path, marker: Path) -> None:
    """A loop of 2^62 turns."""
    from onnx import TensorProto, helper

    kinds = {"i": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "x": (TensorProto.FLOAT, None)}
    kinds |= {"go2": (TensorProto.BOOL, []), "y": (TensorProto.FLOAT, None)}
    values = [helper.make_tensor_value_info(name, *kind) for name, kind in kinds.items()]
    inner = [helper.make_node("Identity", ["go"], ["go2"]), helper.make_node("Add", ["x", "x"], ["y"])]
    body = helper.make_graph(inner, "b", values[:3], values[3:])
    _graph(
        lambda _: [helper.make_node("Loop", ["n", "", "images"], ["out"], body=body)],
        lambda onnx, _: [helper.make_tensor("n", TensorProto.INT64, [], [2**62])],
    )(path, marker)


def _chain(*links: tuple[str, ...], op: str = "Relu", domain: str = "") -> Make:
    """Nodes, each (what it makes, what it reads ...)."""

    def nodes(helper: Any) -> list[Any]:
        return [helper.make_node("Add" if reads[1:] else op, reads, [out], domain=domain) for out, *reads in links]

    return _graph(nodes)


def _empty(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with open(path, "wb") as handle:
            handle.truncate(size)

    return make


ONNX: dict[str, Make] = {
    "values in ../": _outside(lambda marker: "../../secret"),
    "values in /etc/passwd": _outside(lambda marker: "/etc/passwd"),
    "values in /dev/zero": _outside(lambda marker: "/dev/zero", (2**30,), 2**32),
    "values in a file beside": _outside(lambda marker: "ok.pt"),
    "a constant of 2^40": _sized((2**40,)),
    "a constant of 2^62 x 2^62": _sized((2**62, 2**62)),
    "a constant below zero": _sized((-5,)),
    "ConstantOfShape 2^34": _grown("ConstantOfShape", [2**17, 2**17]),
    "Expand 2^34": _grown("Expand", [2**20, 3, SIZE, SIZE]),
    "Tile 2^34": _grown("Tile", [2**20, 1, 1, 1]),
    "Pad 2^34": _grown("Pad", [0, 0, 2**16, 2**16, 0, 0, 2**16, 2**16]),
    "a loop without end": _loop,
    "an operator of another library": _chain(("out", "images"), op="Run", domain="evil"),
    "an operator that is none": _chain(("out", "images"), op="PyOp"),
    "a graph that goes round": _chain(("a", "images", "b"), ("b", "a"), ("out", "b")),
    "a graph of 100,000 nodes": _chain(
        ("1", "images"), *((str(n + 1), str(n)) for n in range(1, 100_000)), ("out", "9")
    ),
    "outputs of another number": _chain(("out", "images")),
    "a length that lies": lambda path, _: path.write_bytes(b"\x08\x08\x3a\xff\xff\xff\xff\x7f"),
    "100 GB of zeros": lambda path, _: _empty(100 * 2**30)(path),
}

_CONST = (
    '<layer id="{id}" name="c{id}" type="Const" version="opset1"><data element_type="f32" shape="{shape}" '
    'offset="{offset}" size="{size}"/><output><port id="0" precision="FP32">{dims}</port></output></layer>'
)


def _ir(layers: str, edges: str = "", about: str = "", head: str = "") -> Callable[[Path, Path], None]:
    def make(path: Path, _: Path) -> None:
        said = "".join(f'<{key} value="{_escaped(value)}"/>' for key, value in _about(path).items())
        path.write_text(
            f'<?xml version="1.0"?>{head}<net name="n" version="11"><layers>'
            '<layer id="0" name="images" type="Parameter" version="opset1"><data shape="1,3,64,64" element_type="f32"/>'
            f'<output><port id="0" precision="FP32" names="images">{_dims(1, 3, 64, 64)}</port></output></layer>'
            f"{layers}</layers><edges>{edges}</edges><rt_info><thinyolo>{about or said}</thinyolo></rt_info></net>"
        )
        path.with_suffix(".bin").write_bytes(struct.pack("<4f", 1, 2, 3, 4))

    return make


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def _dims(*sizes: int) -> str:
    return "".join(f"<dim>{size}</dim>" for size in sizes)


def _result(source: int, last: int, dims: str) -> str:
    port = f'<input><port id="0" precision="FP32">{dims}</port></input>'
    return f'<layer id="{last}" name="r" type="Result" version="opset1">{port}</layer>'


def _constant(shape: str, dims: str, offset: int, size: int) -> Callable[[Path, Path], None]:
    layer = _CONST.format(id=1, shape=shape, offset=offset, size=size, dims=dims)
    return _ir(layer + _result(1, 2, dims), '<edge from-layer="1" from-port="0" to-layer="2" to-port="0"/>')


def forged_openvino(path: Path, said: Mapping[str, str]) -> None:
    """The sound network as OpenVINO's .xml, with other words about itself."""
    import onnx

    from export.to_openvino import save_ir

    save_ir(onnx.load(str(path.parent / "ok.onnx")), path, _about(path) | said)


_EVIL = (
    '<layer id="1" name="x" type="Evil" version="extension"><output><port id="0" precision="FP32"><dim>1</dim></port>'
    "</output></layer>"
)
OPENVINO: dict[str, Make] = {
    "a constant behind the end of the .bin": _constant("4", _dims(4), 2**40, 16),
    "a constant of 2^40": _constant(str(2**40), _dims(2**40), 0, 2**42),
    "a constant of 2^62 x 2^62": _constant(f"{2**62},{2**62}", _dims(2**62, 2**62), 0, 16),
    "a constant below zero": _constant("-4", _dims(-4), 0, 16),
    "entities of entities": _ir("", "", "<names value='&j;'/>", ENTITIES),
    "an entity of a file": _ir(
        "", "", "<names value='&x;'/>", '<!DOCTYPE n [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    ),
    "nested 100,000 deep": lambda path, _: path.write_text('<?xml version="1.0"?>' + "<a>" * 100_000),
    "an extension's layer": _ir(_EVIL),
    "no .bin": lambda path, marker: (OPENVINO["a constant of 2^40"](path, marker), path.with_suffix(".bin").unlink()),
    "a .bin of 100 GB": lambda path, marker: (_ir(_EVIL)(path, marker), _empty(100 * 2**30)(path.with_suffix(".bin"))),
    "no network": lambda path, _: path.write_text("<net/>"),
}


def forged_ncnn(path: Path, said: Mapping[str, str]) -> None:
    """A network of ncnn of one layer, with other words about itself."""
    _param("Input in0 0 1 in0\nReLU r 1 1 in0 out0\n", 2, 2, said)(path, path)


def _param(text: str, layers: int, blobs: int, said: Mapping[str, str] = {}, weights: bytes = b"") -> Make:
    def make(path: Path, _: Path) -> None:
        path.write_text(f"7767517\n{layers} {blobs}\n{text}")
        path.with_suffix(".bin").write_bytes(weights)
        path.with_suffix(".json").write_text(json.dumps(_about(path) | dict(said)))

    return make


_TWO = "Input in0 0 1 in0\n{} 1 1 in0 out0{}\n"
NCNN: dict[str, Make] = {
    "10^9 layers": _param(_TWO.format("ReLU r", ""), 10**9, 10**9),
    "layers below zero": _param(_TWO.format("ReLU r", ""), -1, -1),
    "fewer blobs than are named": _param(_TWO.format("ReLU r", ""), 2, 0),
    "a layer of 2^31 inputs": _param("Input in0 0 1 in0\nReLU r 2147483647 1 in0 out0\n", 2, 2),
    "a layer that is none": _param(_TWO.format("Evil r", ""), 2, 2),
    "a convolution of 10^9 weights": _param(_TWO.format("Convolution c", " 0=1000000 1=1 6=1000000000"), 2, 2),
    "a convolution of more weights than the .bin": _param(
        _TWO.format("Convolution c", " 0=8 1=3 6=216"), 2, 2, {}, bytes(8)
    ),
    "a convolution of weights below zero": _param(
        _TWO.format("Convolution c", " 0=-8 1=-3 6=-216"), 2, 2, {}, bytes(64)
    ),
    "padding of 10^6": _param(_TWO.format("Padding p", " 0=1000000 1=1000000 2=1000000 3=1000000"), 2, 2),
    "an upsampling of 10^5": _param(_TWO.format("Interp u", " 0=1 1=100000 2=100000"), 2, 2),
    "parameters of number 2^31": _param(_TWO.format("ReLU r", " 2147483647=1 -2147483648=1 99=1"), 2, 2),
    "an array of 10^9": _param(_TWO.format("Reshape r", " -23303=1000000000,1"), 2, 2),
    "a name of a million letters": _param(_TWO.format("ReLU " + "r" * 10**6, ""), 2, 2),
    "no text": lambda path, marker: (_param("", 0, 0)(path, marker), path.write_bytes(b"\0\xff" * 1000)),
    "no outputs": _param("Input in0 0 1 in0\n", 1, 1),
    "a graph that goes round": _param("Input in0 0 1 in0\nReLU a 1 1 b c\nReLU d 1 1 c b\n", 3, 3),
}
