"""Whether what a program is to run is a network as it is exported here: looked at before the program gets it.

A file is data, and what runs it was not made for files that mean harm: a graph can name files elsewhere, loop for
ever, or ask for any amount of memory; and ncnn ends the process where a file is not what it says.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.reading import read_text
from export.description import Description
from models.limits import LARGEST, MOST_SIDE, MOST_WEIGHTS

TODO = "use only files that thinyolo export wrote, from a source you trust; or export the network anew"
MOST_NODES = 20_000
"""Operations of a graph: the largest network has 2,000, and each is quantised by three more."""
MOST_VALUES = 256
"""A tensor may be so many times as large as the pictures: the first layers of networks have 10 to 40 times as many."""
FEWEST_VALUES = 2**24
MOST_FILE = 2 * 4 * MOST_WEIGHTS
GROWING = {"Expand", "Tile", "ConstantOfShape", "Range", "Pad", "Resize", "Upsample", "OneHot", "EyeLike"}
GROWING |= {"ConvTranspose", "RandomNormal", "RandomUniform", "MaxUnpool", "AffineGrid", "GridSample", "Col2Im"}
"""Operations that can make much of little: of these the size of what comes out has to be known."""
LIBRARIES = ("", "ai.onnx", "com.microsoft")
PADDINGS = {"Padding": "0 1 2 3", "Convolution": "4 14 15 16", "Pooling": "3 13 14 15"}
PADDINGS["ConvolutionDepthWise"] = PADDINGS["Convolution"]
"""Where layers of ncnn say by how much a map grows at its edges."""
MOST_PADDING, MOST_GROWTH = 64, 64
_NCNN_WORD = re.compile(r"-?\d+=[-+\w.,]*")


def need_bounded(path: str | Path) -> None:
    """Refuse a file larger than any network's."""
    if os.path.getsize(path) > MOST_FILE:
        raise UserError(f"is larger than {MOST_FILE / 1e9:.0f} GB, as no network is", where=path, todo=TODO)


def check_onnx(path: str | Path) -> dict[str, str]:
    """What an ONNX file says about itself, if a program may be given it.

    Raises:
        UserError: it is no ONNX file or none of ours, names other files or libraries, holds graphs in its graph, or
            makes something far larger than its pictures.
    """
    import onnx
    from google.protobuf.message import DecodeError

    need_bounded(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"the onnx package cannot read it: it is no ONNX file, or damaged ({str(error)[:80]})",
            where=path,
            todo=TODO,
        ) from None
    metadata = {each.key: each.value for each in model.metadata_props}
    description = Description.from_metadata(metadata, path)
    graph = model.graph
    if len(graph.node) > MOST_NODES:
        raise _refused(path, f"{len(graph.node):,} operations, and no network here has more than {MOST_NODES:,}")
    if model.functions or graph.sparse_initializer:
        raise _refused(path, "functions or sparse constants of its own")
    tensors = [*graph.initializer]
    for node in graph.node:
        if node.domain not in LIBRARIES:
            raise _refused(path, f"the operation {node.op_type} of the library {node.domain[:40]!r}")
        for attribute in node.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise _refused(path, f"a graph inside its graph ({node.op_type})")
            tensors += [attribute.t] if attribute.HasField("t") else []
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise _refused(path, f"values that lie in another file ({tensor.name[:40]})")
        if any(side < 0 or side > LARGEST for side in tensor.dims) or math.prod(tensor.dims) > MOST_WEIGHTS:
            raise _refused(path, f"a constant of {list(tensor.dims)[:8]} values")
    _check_sizes(path, model, description)
    return metadata


def _check_sizes(path: str | Path, model: Any, about: Description) -> None:
    """Refuse a graph that makes tensors far larger than its pictures; open sizes are those of the description."""
    import onnx

    found = onnx.ModelProto()
    found.CopyFrom(model)
    del found.graph.value_info[:]
    pictures = (about.batch or 1, 3, *about.size)
    for each in found.graph.input[:1]:
        for side, size in zip(each.type.tensor_type.shape.dim, pictures, strict=False):
            if not side.HasField("dim_value"):
                side.dim_value = size
    given = [math.prod(_sides(each)) for each in found.graph.input]
    most = max(MOST_VALUES * math.prod(pictures), FEWEST_VALUES)
    if len(given) != 1 or not 0 < given[0] <= most:
        raise _refused(path, f"{len(given)} inputs, of {given[:4]} values")
    try:
        found = onnx.shape_inference.infer_shapes(found, data_prop=True)
    except Exception as error:  # it has a class of its own for each kind
        raise _refused(path, f"a graph that does not fit together ({str(error)[:80]!r})") from None
    made = {name: node for node in found.graph.node for name in node.output}
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in found.graph.initializer}
    values = [*found.graph.value_info, *found.graph.output]
    sizes = {each.name: _sides(each) for each in values if each.type.tensor_type.HasField("shape")}
    grown = 1.0
    for node in found.graph.node:
        if node.op_type == "Resize" and len(node.input) > 2 and node.input[2] in constants:
            grown *= max(1.0, *constants[node.input[2]].flat)
        for name in filter(None, node.output):
            sides = sizes.get(name)
            if math.prod(sides or [0]) > most:
                raise _refused(path, f"{node.op_type} makes {sides} values of {math.prod(pictures):,}")
            open_size = about.any_size and grown <= MOST_GROWTH and _follows_pictures(node, made, constants)
            if node.op_type in GROWING and (sides is None or 0 in sides) and not open_size:
                raise _refused(path, f"nothing tells how much {node.op_type} makes")


def _follows_pictures(node: Any, made: Mapping[str, Any], constants: Mapping[str, Any]) -> bool:
    """Whether what an operation makes is as large as other maps, though shape inference cannot follow them.

    A Resize by constants is (how many times in all is bounded); a Range where it counts up to a side of a map by ones;
    an Expand to the sides of maps.
    """
    if node.op_type == "Resize":
        return len(node.input) == 3 and node.input[2] in constants
    if node.op_type == "Range":
        first, last, step = node.input
        return constants.get(first) == 0 and constants.get(step) == 1 and _is_of_sides(last, made, constants)
    return node.op_type == "Expand" and _is_of_sides(node.input[1], made, constants)


def _is_of_sides(name: str, made: Mapping[str, Any], constants: Mapping[str, Any]) -> bool:
    """Whether numbers are the sides of maps as they are, or constants up to 1."""
    if name in constants:
        return bool((constants[name] <= 1).all())
    node = made.get(name)
    if node is None or node.op_type == "Shape":
        return node is not None
    return node.op_type in ("Cast", "Squeeze", "Concat") and all(
        _is_of_sides(each, made, constants) for each in node.input[: None if node.op_type == "Concat" else 1]
    )


def _sides(value: Any) -> list[int]:
    """The sides of a tensor, 0 where they are not known."""
    return [int(side.dim_value) for side in value.type.tensor_type.shape.dim]


def check_openvino(path: str | Path, model: Any, about: Description) -> None:
    """Refuse a model of OpenVINO, read and not yet compiled, that makes something far larger than its pictures."""
    most = max(MOST_VALUES * 3 * math.prod(about.size) * max(1, about.batch), FEWEST_VALUES)
    operations = model.get_ops()
    if len(operations) > 10 * MOST_NODES:
        raise _refused(path, f"{len(operations):,} operations")
    for each in operations:
        if each.get_type_name() in ("Loop", "TensorIterator", "If"):
            raise _refused(path, f"a graph inside its graph ({each.get_type_name()})")
        for output in each.outputs():
            shape = output.get_partial_shape()
            known = [side.get_length() for side in shape if side.is_static] if shape.rank.is_static else []
            if math.prod(known) > (MOST_WEIGHTS if each.get_type_name() == "Constant" else most):
                raise _refused(path, f"{each.get_type_name()} makes {known} values")


def check_ncnn(path: Path, about: Description) -> None:
    """Refuse a `.param` that ncnn would stumble over: it trusts every number in it.

    Raises:
        UserError: naming the line.
    """
    for file in (path, path.with_suffix(".bin")):
        need_bounded(file)
    lines = [(number, line.split()) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip()]
    head = [words for _, words in lines[:2]]
    if len(head) < 2 or head[0] != ["7767517"] or len(head[1]) != 2 or not all(map(str.isdecimal, head[1])):
        raise _refused(path, "no network of ncnn: it begins otherwise")
    made: set[str] = set()
    grown = 1.0
    for number, words in lines[2:]:
        counts = words[2:4]
        if len(counts) != 2 or not all(map(str.isdecimal, counts)) or len(words) < 4 + sum(map(int, counts)):
            raise _refused(path, "a layer without its inputs and outputs", number)
        ins = words[4 : 4 + int(counts[0])]
        outs = words[4 + int(counts[0]) : 4 + sum(map(int, counts))]
        if unknown := [name for name in ins if name not in made]:
            raise _refused(path, f"a layer that reads {unknown[0][:40]!r}, which no layer before it makes", number)
        made.update(outs)
        if any(len(word) > 256 for word in words[:4]):
            raise _refused(path, "a name that is too long", number)
        for word in words[4 + sum(map(int, counts)) :]:
            if not _NCNN_WORD.fullmatch(word) or not all(map(_is_bounded, re.split("[=,]", word))):
                raise _refused(path, f"a layer with {word[:40]!r}", number)
        grown *= _grown(words[0], dict(word.split("=") for word in words[4 + sum(map(int, counts)) :]))
        if grown > MOST_GROWTH:
            raise _refused(path, f"a layer ({words[0][:40]}) that makes too much of little", number)
    blobs = sum(int(words[3]) for _, words in lines[2:])
    if head[1] != [str(len(lines) - 2), str(blobs)]:
        raise _refused(path, f"{' '.join(head[1])[:40]} layers and blobs in its head, and {len(lines) - 2} {blobs}", 2)
    if absent := [name for name in ("in0", *(f"out{n}" for n in range(len(about.specs)))) if name not in made]:
        raise _refused(path, f"no {absent[0]}, though it says that it has {len(about.specs)} heads")


def _grown(kind: str, options: Mapping[str, str]) -> float:
    """How many times as large a side becomes by a layer of ncnn; beyond all bounds where that is no network's."""
    if kind.startswith(("Deconvolution", "Tile")):
        return math.inf
    padding = [float(options.get(key) or 0) for key in PADDINGS.get(kind, "").split()]
    sides = [float(options.get(key) or 0) for key in ("3", "4") if kind == "Interp"]
    if max([0.0, *padding]) > MOST_PADDING or max([0.0, *sides]) > MOST_SIDE:
        return math.inf
    return max([1.0, *(float(options.get(key) or 1) for key in ("1", "2") if kind == "Interp")])


def _is_bounded(text: str) -> bool:
    try:
        return abs(float(text or 0)) <= LARGEST or "e+38" in text
    except ValueError:
        return False


def _refused(path: str | Path, what: str, line: int | None = None) -> UserError:
    return UserError(f"has {what}; it was not run", where=path, line=line, todo=TODO)
