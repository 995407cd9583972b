"""A network whose `[timm]` sections are written out as Darknet sections, where every operator has a Darknet word.

torch.fx writes down what the backbone calls; each call becomes a section, or an error that names it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import UserError
from models.cfg import Cfg, Section
from models.layers import BN_EPS
from models.network import Network
from models.timm_section import Backbone

_LEAVES = (
    nn.Conv2d,
    _BatchNorm,
    nn.ReLU,
    nn.ReLU6,
    nn.SiLU,
    nn.Mish,
    nn.Sigmoid,
    nn.Tanh,
    nn.LeakyReLU,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Identity,
    nn.Dropout,
    nn.Upsample,
    nn.GELU,
    nn.ELU,
    nn.SELU,
)


def lowered(net: Network) -> Network:
    """The same network in Darknet's own sections; `net` itself where it has no `[timm]`.

    BatchNorm: Darknet's eps is 1e-6, timm's mostly 1e-5; the difference is added to the running variance, which leaves
    the output as it was. Its lineage is empty: no `.weights` file carries one.

    Raises:
        UserError: an operator that no section stands for, by name and place.
    """
    if not any(isinstance(layer, Backbone) for layer in net.layers):
        return net
    twins: dict[Section, Section] = {}
    cfg = net.cfg.copy(twins)
    layers: list[Section] = []
    made: dict[Section, _Lowering] = {}
    for section, layer in zip(cfg.layers, net.layers):
        if isinstance(layer, Backbone):
            made[section] = _Lowering(layer, section).run()
            layers += made[section].sections
        else:
            layers.append(section)
    for section in layers:
        section.inputs = [_map_read(section, source, made) for source in section.inputs]
        section.options.pop("feature", None)
    plain = Network(Cfg(cfg.net, layers, cfg.source), net.names)
    _fill(plain, net, twins, made)
    plain.meta = dict(net.meta)
    return plain.train(net.training)


def _map_read(reader: Section, source: Section, made: dict[Section, _Lowering]) -> Section:
    if source not in made:
        return source
    backbone = made[source]
    return backbone.maps[backbone.layer.place(reader.int("feature", 0))]


@torch.no_grad()
def _fill(plain: Network, net: Network, twins: dict[Section, Section], made: dict[Section, _Lowering]) -> None:
    """Copy every tensor of `net` to its place in `plain`."""
    number = plain.cfg.index()
    state = net.state_dict()
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    plain.to(dtype)
    own = plain.state_dict()
    for old, section in enumerate(net.cfg.layers):
        if (twin := twins[section]) in number:
            start = f"layers.{old}."
            for name in state:
                if name.startswith(start):
                    own[f"layers.{number[twin]}.{name.removeprefix(start)}"].copy_(state[name])
    for lowering in made.values():
        for section, (conv, norm) in lowering.tensors.items():
            for name, tensor in _conv_tensors(conv, norm).items():
                own[f"layers.{number[section]}.{name}"].copy_(tensor)


def _conv_tensors(conv: nn.Conv2d, norm: _BatchNorm | None) -> dict[str, Tensor]:
    """The state of a `[convolutional]` layer that does what convolution and BatchNorm do."""
    bias = torch.zeros(conv.out_channels, dtype=conv.weight.dtype) if conv.bias is None else conv.bias
    if norm is None:
        return {"conv.weight": conv.weight, "conv.bias": bias}
    assert norm.running_mean is not None
    assert norm.running_var is not None
    one = torch.ones_like(norm.running_mean)
    return {
        "conv.weight": conv.weight,
        "bn.weight": norm.weight if norm.affine else one,
        "bn.bias": norm.bias if norm.affine else 0 * one,
        "bn.running_mean": norm.running_mean - bias.to(one),
        "bn.running_var": norm.running_var + (norm.eps - BN_EPS),
    }


@dataclass
class _Lowering:
    """Turns one backbone into sections.

    Attributes:
        sections: in the order of execution; their inputs are sections, the first one's that of the `[timm]`.
        maps: the section of each feature.
        tensors: convolutional section -> its convolution and BatchNorm.
        pooled: sections of 1 x 1 maps.
    """

    layer: Backbone
    origin: Section
    sections: list[Section] = field(default_factory=list)
    maps: list[Section] = field(default_factory=list)
    tensors: dict[Section, tuple[nn.Conv2d, _BatchNorm | None]] = field(default_factory=dict)
    pooled: set[Section] = field(default_factory=set)
    value: dict[fx.Node, Any] = field(default_factory=dict)

    def run(self) -> _Lowering:
        model = self.layer.model
        self.modules = dict(model.named_modules())
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            graph = _Tracer().trace(model)
        except Exception as error:
            raise self.origin.error(
                f"model={self.origin.str('model')} cannot be written as Darknet sections: {error}",
                "model",
                todo=_ELSEWHERE,
            ) from error
        finally:
            for module, mode in modes:
                module.training = mode
        for node in reversed(list(graph.nodes)):
            if not node.users and node.op not in ("placeholder", "output"):  # such as a check of a shape
                graph.erase_node(node)
        for node in graph.nodes:
            if node.op == "placeholder":
                self.value[node] = self.origin.inputs[0]
            elif node.op == "output":
                self.maps = [self.section(item) for item in _flat(node.args[0])]
            else:
                self.value[node] = self.visit(node)
        return self

    # -- small things ------------------------------------------------------------------------------------------------

    def refuse(self, node: fx.Node, what: str) -> UserError:
        return self.origin.error(
            f"model={self.origin.str('model')}: Darknet has no section for {what} "
            f"(at {node.target if node.op == 'call_module' else node.name})",
            "model",
            todo=_ELSEWHERE,
        )

    def section(self, node: Any) -> Section:
        found = self.value.get(node) if isinstance(node, fx.Node) else None
        assert isinstance(found, Section), node
        return found

    def add(self, kind: str, options: dict[str, Any], inputs: list[Section]) -> Section:
        section = Section(kind, {}, source=self.origin.source, inputs=inputs, relative=[True])
        for key, value in options.items():
            section.set(key, value)
        self.sections.append(section)
        return section

    # -- nodes -------------------------------------------------------------------------------------------------------

    def visit(self, node: fx.Node) -> Any:
        inputs = [item for item in _flat([node.args, node.kwargs]) if isinstance(item, fx.Node)]
        if node.op == "call_module":
            return self.module(node, self.modules[str(node.target)], inputs)
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
        name = str(name).removesuffix("_")
        if node.op == "get_attr" or not all(isinstance(self.value.get(item), Section) for item in inputs):
            raise self.refuse(node, f"'{name}'")
        sources = [self.section(item) for item in inputs]
        if name in ("add", "iadd") and len(sources) == 2 and len(_flat(node.args)) == 2:
            if sources[1] is self.sections[-1]:  # the sum is the same, and saves a [route]
                sources.reverse()
            return self.add("shortcut", {"from": "", "activation": "linear"}, sources)
        if name in ("mul", "imul") and len(sources) == 2:
            return self.gate(*sources)
        if name in ("cat", "concat") and (node.args[1:] or (node.kwargs.get("dim"),))[0] == 1:
            return self.add("route", {"layers": ""}, sources)
        if name == "mean" and set(_flat([node.args[1:], node.kwargs.get("dim", ())])) >= {2, 3}:
            return self.average(sources[0])
        if name in ("contiguous", "dropout"):
            return sources[0]
        if name in _FUNCTIONS and len(sources) == 1 and len(_flat(node.args)) == 1:
            return self.activated(node, inputs[0], _FUNCTIONS[name])
        raise self.refuse(node, f"'{name}'")

    def module(self, node: fx.Node, module: nn.Module, inputs: list[fx.Node]) -> Section:
        source = self.section(inputs[0])
        if isinstance(module, (nn.Identity, nn.Dropout)):
            return source
        if isinstance(module, nn.Conv2d):
            return self.conv(node, module, source)
        if isinstance(module, _BatchNorm):
            return self.norm(node, module, inputs[0], source)
        if isinstance(module, nn.MaxPool2d):
            return self.pool(node, module, source)
        if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
            return self.average(source)
        if isinstance(module, nn.Upsample) and module.mode == "nearest" and module.scale_factor is not None:
            factor = module.scale_factor[0] if isinstance(module.scale_factor, tuple) else module.scale_factor
            if factor == int(factor):
                return self.add("upsample", {"stride": int(factor)}, [source])
        return self.activated(node, inputs[0], activation_word(module))

    def conv(self, node: fx.Node, module: nn.Conv2d, source: Section) -> Section:
        (size, across), (stride, other), (dilation, far) = module.kernel_size, module.stride, module.dilation
        padding = module.padding
        if (
            isinstance(padding, str)
            or len({size, across}) > 1
            or stride != other
            or dilation != far
            or padding[0] != padding[1]
            or padding[0] % dilation
            or module.padding_mode != "zeros"
        ):
            raise self.refuse(
                node,
                f"a convolution of size {module.kernel_size}, stride {module.stride}, "
                f"padding {module.padding}, dilation {module.dilation}",
            )
        options: dict[str, Any] = {"filters": module.out_channels, "size": size, "stride": stride}
        step = padding[0] // dilation
        options |= {"pad": 1} if step == size // 2 else {"padding": step}
        if module.groups > 1:
            options["groups"] = module.groups
        if dilation > 1:
            options["dilation"] = dilation
        section = self.add("convolutional", {**options, "activation": "linear"}, [source])
        self.tensors[section] = (module, None)
        if source in self.pooled:
            self.pooled.add(section)
        return section

    def norm(self, node: fx.Node, module: _BatchNorm, before: fx.Node, source: Section) -> Section:
        conv, norm = self.tensors.get(source, (None, None))
        if conv is None or norm is not None or len(before.users) > 1 or source.str("activation") != "linear":
            raise self.refuse(node, "a BatchNorm that does not directly follow a convolution of its own")
        if module.running_mean is None:
            raise self.refuse(node, "a BatchNorm without running statistics")
        self.tensors[source] = (conv, module)
        source.options = {"batch_normalize": "1", **source.options}
        act = getattr(module, "act", None)  # timm's BatchNorm has its activation inside
        if act is not None and not isinstance(act, nn.Identity):
            word = activation_word(act)
            if word is None:
                raise self.refuse(node, f"the activation {type(act).__name__}")
            source.set("activation", word)
        return source

    def activated(self, node: fx.Node, before: fx.Node, word: str | None) -> Section:
        source = self.section(before)
        if word is None:
            what = self.modules[str(node.target)] if node.op == "call_module" else node.name
            raise self.refuse(node, type(what).__name__ if isinstance(what, nn.Module) else f"'{what}'")
        if (
            source not in self.sections
            or "activation" not in source.options
            or source.str("activation") != "linear"
            or len(before.users) > 1
        ):
            raise self.refuse(node, f"activation={word} on its own, where others read the map before it")
        source.set("activation", word)
        return source

    def pool(self, node: fx.Node, module: nn.MaxPool2d, source: Section) -> Section:
        size, stride, padding = (
            value[0] if isinstance(value, tuple) else value
            for value in (module.kernel_size, module.stride, module.padding)
        )
        squares = all(
            not isinstance(value, tuple) or value[0] == value[1]
            for value in (module.kernel_size, module.stride, module.padding)
        )
        if module.ceil_mode or module.dilation not in (1, (1, 1)) or not squares:
            raise self.refuse(node, str(module))
        return self.add("maxpool", {"size": size, "stride": stride, "padding": 2 * padding}, [source])

    def average(self, source: Section) -> Section:
        section = self.add("avgpool", {}, [source])
        self.pooled.add(section)
        return section

    def gate(self, a: Section, b: Section) -> Section:
        if (a in self.pooled) == (b in self.pooled):
            return self.add("sam", {"from": "", "activation": "linear"}, [a, b])
        gate, scaled = (a, b) if a in self.pooled else (b, a)
        return self.add("scale_channels", {"from": "", "scale_wh": 0, "activation": "linear"}, [gate, scaled])


_ELSEWHERE = "keep the .pt, or export to ONNX; resnet18 and mobilenetv4_conv_small can be written as Darknet files"

_FUNCTIONS = {"relu": "relu", "relu6": "relu6", "silu": "swish", "mish": "mish", "sigmoid": "logistic", "tanh": "tanh"}


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Conv2d):
            return type(m).forward is nn.Conv2d.forward
        return isinstance(m, _LEAVES) or super().is_leaf_module(m, module_qualified_name)


def activation_word(module: nn.Module) -> str | None:
    """Darknet's name of an activation module; None where it has none."""
    words = {
        nn.ReLU: "relu",
        nn.ReLU6: "relu6",
        nn.SiLU: "swish",
        nn.Mish: "mish",
        nn.Sigmoid: "logistic",
        nn.Tanh: "tanh",
        nn.SELU: "selu",
        nn.Identity: "linear",
    }
    if isinstance(module, nn.LeakyReLU):
        return "leaky" if math.isclose(module.negative_slope, 0.1) else None
    if type(module) in words:
        return words[type(module)]
    return words.get(_TIMM_TWINS.get(type(module).__name__, nn.Module))


# timm's own modules for activations that torch has too.
_TIMM_TWINS: dict[str, type[nn.Module]] = {"Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "Swish": nn.SiLU, "Mish": nn.Mish}


def _flat(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for item in tree for leaf in _flat(item)] if isinstance(tree, (tuple, list)) else [tree]
