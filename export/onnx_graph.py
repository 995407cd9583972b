"""What is done to an ONNX graph after torch has written it: decoding and NMS behind the heads, metadata, tidying."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from export.description import Description
from export.to_onnx import exported
from models.heads import HeadSpec, decode_heads

# Operators TensorRT's ONNX parser takes (TensorRT 10), of those that networks here can contain.
_TENSORRT = (
    "Abs Add ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv "
    "DepthToSpace DequantizeLinear Div Dropout Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements "
    "GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Identity "
    "LeakyRelu Less LessOrEqual Log MatMul Max MaxPool Min Mish Mul Neg NonMaxSuppression NonZero Not Or Pad Pow "
    "QuantizeLinear Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Selu Shape "
    "Sigmoid Size Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose "
    "Unsqueeze Upsample Where And "
)
TENSORRT_OPERATORS = frozenset(_TENSORRT.split())
_FLOAT = 1  # onnx.TensorProto.FLOAT
_Node = Callable[..., None]


def model_of(content: bytes) -> Any:
    """The `onnx.ModelProto` of a serialised model."""
    import onnx

    return onnx.load_from_string(content)


def finished(trunk: Any, description: Description) -> Any:
    """A trunk (images -> heads) with what `description` asks for behind its heads, tidied and described."""
    model = trunk
    if description.outputs != "heads":
        model = _with_decode(model, description)
    if description.outputs == "boxes":
        assert description.nms is not None
        if description.spec.one_to_one:
            _append_best(model, int(description.nms["max_det"]))
        else:
            _append_nms(model, description.nms, description.spec.has_objectness)
    tidy(model)
    describe_model(model, description.metadata())
    import onnx

    onnx.checker.check_model(model)
    return model


def describe_model(model: Any, metadata: Mapping[str, str]) -> None:
    """Write `metadata` into the model, in place."""
    import onnx

    model.producer_name = "thinyolo"
    onnx.helper.set_model_props(model, dict(metadata))


def tidy(model: Any) -> None:
    """Remove what torch notes on every node (stack traces with the paths of this machine), and name free dimensions."""
    graph = model.graph
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        part.metadata_props.clear()
    words = {0: "batch", 2: "height", 3: "width"}
    for place, dim in enumerate(graph.input[0].type.tensor_type.shape.dim):
        if dim.dim_param and place in words:
            dim.dim_param = words[place]


class _Decode(nn.Module):
    """Heads -> `(B, N, 5 + C)`, as `Network.decode`."""

    def __init__(self, specs: Sequence[HeadSpec]):
        super().__init__()
        self.specs = tuple(specs)

    def forward(self, *heads: Tensor) -> Tensor:
        return decode_heads(heads, self.specs)


def _with_decode(trunk: Any, description: Description) -> Any:
    import onnx

    height, width = description.size
    batch = description.batch or 2
    heads = [
        torch.zeros(batch, spec.places, height // spec.stride, width // spec.stride, spec.channels)
        for spec in description.specs
    ]
    free: dict[int, Any] = {} if description.batch else {0: Dim.DYNAMIC}
    if description.any_size:
        free |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        heads = [
            head.new_zeros(batch, head.shape[1], 2 + place, 3 + place, head.shape[4])
            for place, head in enumerate(heads)
        ]
    names = [f"head{number}" for number in range(len(heads))]
    shapes = (tuple(dict(free) for _ in heads),) if free else None
    opset = next(each.version for each in trunk.opset_import if not each.domain)
    decode = _Decode(description.specs).eval()
    decoder = model_of(exported(decode, tuple(heads), names, ["decoded"], shapes, opset))
    decoder = onnx.compose.add_prefix(decoder, "decode/")
    trunk.ir_version = decoder.ir_version = max(trunk.ir_version, decoder.ir_version)
    for model in (trunk, decoder):  # shapes of parts that were exported apart: each has its own words for them
        model.graph.value_info.clear()
    merged = onnx.compose.merge_models(trunk, decoder, io_map=[(name, f"decode/{name}") for name in names])
    domains = {each.domain: each.version for each in merged.opset_import}  # each of the two had its own
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_operatorsetid(*each) for each in domains.items())
    _rename(merged.graph, "decode/decoded", "decoded")
    return merged


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
    for value in graph.output:
        if value.name == old:
            value.name = new


def _append_nms(model: Any, thresholds: Mapping[str, float], has_objectness: bool) -> None:
    """Put NMS behind ``decoded`` (B, N, 5 + C), or (B, N, 4 + C) without objectness, in place.

    The output becomes ``detections`` (K, 7). A row: picture, x1, y1, x2, y2, confidence, class. Every class of a box
    above the confidence counts, as in evaluation; ONNX's operator works class by class, so `max_det` is per picture
    and class.
    """
    constants = {f"[{number}]": np.array([number], np.int64) for number in (0, 1, 2, 4, 5)} | {
        "[0,2]": np.array([0, 2], np.int64),
        "end": np.array([2**62], np.int64),
        "half": np.array(0.5, np.float32),
        "most": np.array([int(thresholds["max_det"])], np.int64),
        "iou": np.array([thresholds["iou"]], np.float32),
        "conf": np.array([thresholds["conf"]], np.float32),
    }
    node = _nodes(model, "nms", constants)
    node("Slice", "decoded [0] [4] [2]", "boxes")  # (B, N, 4) cx, cy, w, h: starts, ends, axes
    if has_objectness:
        node("Slice", "decoded [4] [5] [2]", "objectness")  # (B, N, 1)
        node("Slice", "decoded [5] end [2]", "classes")  # (B, N, C)
        node("Mul", "objectness classes", "confidence")
    else:
        node("Slice", "decoded [4] end [2]", "confidence")
    node("Transpose", "confidence", "scores", perm=[0, 2, 1])  # (B, C, N)
    node("NonMaxSuppression", "boxes scores most iou conf", "chosen", center_point_box=1)  # (K, 3) picture, class, box
    node("Gather", "chosen [0,2]", "where", axis=1)
    node("GatherND", "boxes where", "kept")  # (K, 4)
    node("GatherND", "scores chosen", "kept_scores")  # (K,)
    node("Unsqueeze", "kept_scores [1]", "score_column")
    node("Slice", "kept [0] [2] [1]", "centre")
    node("Slice", "kept [2] [4] [1]", "extent")
    node("Mul", "extent half", "reach")
    node("Sub", "centre reach", "low")
    node("Add", "centre reach", "high")
    node("Cast", "chosen", "numbers", to=_FLOAT)
    node("Slice", "numbers [0] [1] [1]", "picture")
    node("Slice", "numbers [1] [2] [1]", "label")
    node("Concat", "picture low high score_column label", "detections", axis=1)
    _put_out(model, ["detections", 7])


def _append_best(model: Any, most: int) -> None:
    """Put the choice of the `most` best boxes behind ``decoded`` (B, N, 4 + C) of one-to-one heads, in place.

    The output becomes ``detections`` (B, K, 6). A row: x1, y1, x2, y2, confidence, class; the most confident first, K
    the least of `most` and N x C. Every class of a box counts, as in evaluation. Of the places only the `most` best are
    looked at class by class: no other can have a pair of place and class among the best.
    """
    constants = {f"[{number}]": np.array([number], np.int64) for number in (-1, 0, 1, 2, 4)} | {
        "end": np.array([2**62], np.int64),
        "half": np.array(0.5, np.float32),
        "most": np.array([most], np.int64),
        "rows": np.array([0, -1], np.int64),
    }
    node = _nodes(model, "best", constants)
    node("Slice", "decoded [4] end [2]", "scores")  # (B, N, C)
    node("ReduceMax", "scores [2]", "best_scores", keepdims=0)  # (B, N)
    _top(node, "best_scores", "best_places")
    node("Unsqueeze", "best_places [2]", "best_indices")
    node("GatherND", "decoded best_indices", "kept", batch_dims=1)  # (B, M, 4 + C)
    node("Slice", "kept [4] end [2]", "kept_scores")  # (B, M, C)
    node("Reshape", "kept_scores rows", "pairs")  # (B, M x C)
    _top(node, "pairs", "number")
    node("Shape", "kept_scores", "classes", start=2)
    node("Div", "number classes", "place")
    node("Mul", "place classes", "before")
    node("Sub", "number before", "class")
    node("Unsqueeze", "place [2]", "places")
    node("GatherND", "kept places", "chosen", batch_dims=1)  # (B, K, 4 + C)
    node("Slice", "chosen [0] [2] [2]", "centre")
    node("Slice", "chosen [2] [4] [2]", "extent")
    node("Mul", "extent half", "reach")
    node("Sub", "centre reach", "low")
    node("Add", "centre reach", "high")
    node("Unsqueeze", "number_values [2]", "confidence")
    node("Cast", "class", "class_number", to=_FLOAT)
    node("Unsqueeze", "class_number [2]", "label")
    node("Concat", "low high confidence label", "detections", axis=2)
    decoded = model.graph.output[0].type.tensor_type.shape.dim
    fixed = all(decoded[axis].dim_value for axis in (1, 2))
    count = min(most, decoded[1].dim_value * (decoded[2].dim_value - 4)) if fixed else "detections"
    _put_out(model, [decoded[0].dim_value or "batch", count, 6])


def _top(node: _Node, values: str, output: str) -> None:
    """Where the `most` largest of each row of `values` ``(B, n)`` are; all n where they are fewer."""
    node("Shape", values, f"{output}_there", start=1)
    node("Min", f"most {output}_there", f"{output}_count")
    node("TopK", f"{values} {output}_count", f"{output}_values {output}", axis=1)


def _nodes(model: Any, prefix: str, constants: Mapping[str, np.ndarray]) -> _Node:
    """A function that appends nodes to a model; what they read and make is called ``prefix/name``.

    Of `constants` those are written that a node reads: ONNX Runtime warns of others whenever it opens the file.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    waiting = dict(constants)

    def names(text: str) -> list[str]:
        return [name if name in ("decoded", "detections") else f"{prefix}/{name}" for name in text.split()]

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> None:
        for each in inputs.split():
            if each in waiting:
                graph.initializer.append(numpy_helper.from_array(waiting.pop(each), f"{prefix}/{each}"))
        name = f"{prefix}/{kind}_{output.split()[-1]}"
        graph.node.append(helper.make_node(kind, names(inputs), names(output), name=name, **attributes))

    return node


def _put_out(model: Any, shape: Sequence[int | str]) -> None:
    """Make ``detections`` of this shape the output."""
    from onnx import helper

    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("detections", _FLOAT, shape))


def packed_stem(model: Any) -> Any:
    """A trunk whose first convolution reads two by two pixels at a time, where that says the same; else the model.

    A 6x6 convolution of stride 2 over H x W pixels of 3 channels, as YOLOv5 begins with, is a 3x3 one of stride 1 over
    H/2 x W/2 blocks of 12. Integer convolutions gather what they read in runs of a pixel's channels: with 3 of them
    gathering takes longer than multiplying. (For a 3x3 stem, which would need a row of zeros, nothing is won.)
    """
    import onnx
    from onnx import helper, numpy_helper

    packed = onnx.ModelProto()
    packed.CopyFrom(model)
    graph = packed.graph
    place, conv = next((place, node) for place, node in enumerate(graph.node) if node.op_type == "Conv")
    kernels = [value for value in graph.initializer if value.name == conv.input[1]]
    attributes = {each.name: helper.get_attribute_value(each) for each in conv.attribute}
    wanted = {"strides": [2, 2], "group": 1, "dilations": [1, 1], "auto_pad": b"NOTSET"}
    usual = {**wanted, "strides": [1, 1]}  # ONNX's defaults
    if conv.input[0] != graph.input[0].name or not kernels or not wanted.items() <= {**usual, **attributes}.items():
        return model
    kernel = numpy_helper.to_array(kernels[0])
    filters, channels, size, width = kernel.shape
    pads = attributes.get("pads", [0, 0, 0, 0])
    # Pairs have to start where blocks do, and half as many rows have to come out as go in.
    if width != size or set(pads) != {(size - 2) // 2} or size % 4 != 2:
        return model
    pairs = size // 2
    # ONNX's SpaceToDepth puts the row in its block first, then the column, then the channel.
    kernel = kernel.reshape(filters, channels, pairs, 2, pairs, 2).transpose(0, 3, 5, 1, 2, 4)
    kernel = kernel.reshape(filters, 4 * channels, pairs, pairs)
    kernels[0].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernel), kernels[0].name))
    del conv.attribute[:]
    shape = {"kernel_shape": [pairs] * 2, "strides": [1, 1], "pads": [pairs // 2] * 4}
    conv.attribute.extend(helper.make_attribute(name, value) for name, value in shape.items())
    blocks = f"{conv.input[0]}/blocks"
    graph.node.insert(place, helper.make_node("SpaceToDepth", [conv.input[0]], [blocks], name=blocks, blocksize=2))
    conv.input[0] = blocks
    graph.value_info.clear()  # the kernel's old shape is among them
    return packed


def unknown_to_tensorrt(model: Any) -> list[str]:
    """The operators of a model that TensorRT's parser does not take."""
    return sorted({node.op_type for node in model.graph.node} - TENSORRT_OPERATORS)


def head_convolutions(model: Any) -> list[str]:
    """Names of the nodes that compute a trunk's heads: the last convolutions before each output."""
    maker = {output: node for node in model.graph.node for output in node.output}
    found: dict[str, None] = {}
    waiting = [maker[value.name] for value in reversed(model.graph.output)]
    while waiting:
        node = waiting.pop()
        if node.op_type == "Conv":
            found[node.name] = None
        else:
            read = node.input if node.op_type == "Concat" else node.input[:1]
            waiting.extend(maker[name] for name in reversed(read))
    return list(found)
