"""Hostile `.tflite` files, put together by the schema that comes with LiteRT (the extra `litert`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Make = Callable[[Path, Path], object]
Node = tuple[str, tuple[int, ...], tuple[int, ...]]
"""An operation's name in the schema, its inputs and its outputs, as places of tensors."""
FLOAT, INT = 0, 2
PICTURE = (1, 3, 64, 64)


def _model(
    shapes: list[tuple[int, ...]],
    nodes: list[Node],
    constants: Mapping[int, list[int]] = {},
    outputs: tuple[int, ...] = (1,),
    options: Callable[[Any, Any], object] = lambda model, schema: None,
    said: Mapping[str, str] = {},
) -> Make:
    """A graph whose tensors have these shapes; the first is the pictures, `constants` (int32) are given values."""

    def make(path: Path, _: Path) -> None:
        import flatbuffers
        from ai_edge_litert import schema_py_generated as schema

        model = schema.ModelT()
        model.version, model.description = 3, "hostile"
        model.buffers = [schema.BufferT()]
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = [], []
        for place, shape in enumerate(shapes):
            tensor = schema.TensorT()
            tensor.name, tensor.shape, tensor.buffer = f"t{place}", list(shape), 0
            tensor.type = INT if place in constants else FLOAT
            if place in constants:
                tensor.buffer = len(model.buffers)
                buffer = schema.BufferT()
                buffer.data = np.frombuffer(np.array(constants[place], np.int32).tobytes(), np.uint8)
                model.buffers.append(buffer)
            graph.tensors.append(tensor)
        model.operatorCodes = []
        for name, ins, outs in nodes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
            if name == "CUSTOM":
                code.customCode = "Evil"
            node = schema.OperatorT()
            node.opcodeIndex = len(model.operatorCodes)
            node.inputs, node.outputs = list(ins), list(outs)
            model.operatorCodes.append(code)
            graph.operators.append(node)
        graph.inputs, graph.outputs = [0], list(outputs)
        model.subgraphs = [graph]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs, signature.outputs = (
            [_named(schema, "args_0", 0)],
            [_named(schema, f"output_{number}", place) for number, place in enumerate(outputs)],
        )
        model.signatureDefs = [signature]
        options(model, schema)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        _describe(path, said)

    return make


def _named(schema: Any, name: str, place: int) -> Any:
    found = schema.TensorMapT()
    found.name, found.tensorIndex = name, place
    return found


def _describe(path: Path, said: Mapping[str, str]) -> None:
    about = json.loads((path.parent / "about.json").read_text()) | dict(said)
    path.with_name(f"{path.name}.json").write_text(json.dumps(about))


def _bytes(content: Callable[[bytes], bytes]) -> Make:
    """A sound graph's bytes, changed."""

    def make(path: Path, marker: Path) -> None:
        _PLAIN(path, marker)
        path.write_bytes(content(path.read_bytes()))

    return make


def _for_ever(model: Any, schema: Any) -> None:
    """A WHILE whose condition and body are graphs that give back what they get: a value that stays true."""
    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex = loop.bodySubgraphIndex = 1
    node = model.subgraphs[0].operators[0]
    node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.WhileOptions, loop
    again = schema.SubGraphT()
    truth = schema.TensorT()
    truth.name, truth.shape, truth.type, truth.buffer = "go", [1], schema.TensorType.BOOL, 1
    given = schema.TensorT()
    given.name, given.shape, given.type, given.buffer = "x", list(PICTURE), FLOAT, 0
    again.tensors, again.operators, again.inputs, again.outputs = [given, truth], [], [0], [1]
    body = schema.SubGraphT()
    body.tensors, body.operators, body.inputs, body.outputs = [given], [], [0], [0]
    loop.bodySubgraphIndex = 2
    buffer = schema.BufferT()
    buffer.data = np.array([1], np.uint8)
    model.buffers.append(buffer)
    model.subgraphs += [again, body]


def _elsewhere(model: Any, schema: Any) -> None:
    group = schema.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    values = schema.ExternalBufferT()
    values.id, values.group, values.offset, values.length, values.packing = 1, 0, 0, 64, "raw"
    model.externalBufferGroups, model.externalBuffers = [group], [values]
    model.subgraphs[0].tensors[1].externalBuffer = 1


_PLAIN = _model([PICTURE, PICTURE], [("RELU", (0,), (1,))])
LITERT: dict[str, Make] = {
    "another output": _PLAIN,
    "no operation": _model([PICTURE], [], outputs=(0,)),
    "a FILL of 2^40": _model([PICTURE, (8,), (2,), ()], [("FILL", (2, 3), (1,))], {2: [2**20, 2**20], 3: [0]}),
    "a FILL below zero": _model([PICTURE, (8,), (2,), ()], [("FILL", (2, 3), (1,))], {2: [-1, 5], 3: [0]}),
    "tiles of tiles": _model(
        [PICTURE, PICTURE, (4,), PICTURE],
        [("TILE", (0, 2), (3,)), ("TILE", (3, 2), (1,))],
        {2: [100, 100, 100, 100]},
    ),
    "pictures of 2^31": _model([(2**15, 2**15, 3, 4), PICTURE], [("RELU", (0,), (1,))]),
    "a loop without end": _model([PICTURE, PICTURE], [("WHILE", (0,), (1,))], options=_for_ever),
    "an operation of somebody's": _model([PICTURE, PICTURE], [("CUSTOM", (0,), (1,))]),
    "a tensor that is not there": _model([PICTURE, PICTURE], [("RELU", (77,), (1,))]),
    "an output that is not there": _model([PICTURE, PICTURE], [("RELU", (0,), (1,))], outputs=(2**30,)),
    "an input below zero": _model([PICTURE, PICTURE], [("RELU", (-5,), (1,))]),
    "values of another file": _model([PICTURE, PICTURE], [("RELU", (0,), (1,))], options=_elsewhere),
    "half of it": _bytes(lambda raw: raw[: len(raw) // 2]),
    "its first offset wild": _bytes(lambda raw: b"\xff\xff\xff\x7f" + raw[4:]),
    "every eighth byte wild": _bytes(lambda raw: bytes(b if n % 8 or n < 8 else 255 for n, b in enumerate(raw))),
    "no bytes": _bytes(lambda raw: b""),
}


def forged_litert(path: Path, said: Mapping[str, str]) -> None:
    """A graph of one operation, with other words about itself."""
    _model([PICTURE, PICTURE], [("RELU", (0,), (1,))], said=said)(path, path)
