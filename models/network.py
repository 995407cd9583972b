"""A cfg as a module: `Network`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, fx, nn

from common.errors import UserError
from models.cfg import Cfg, Section
from models.heads import HeadSpec, decode_heads, decode_heads_above, spec_class
from models.heads.anchored import with_anchors
from models.keys import ConvKey
from models.kinds import KINDS
from models.layers import Conv, Head, Layer, Size
from models.limits import check_stride, check_weights, pixels
from models.resize import resize_of
from models.timm_section import Backbone

RGB = 3


class Network(nn.Module):
    """The network a cfg describes.

    Args:
        cfg: taken over, not copied; where Darknet needs a `[route]` for an implied input, it is inserted.
        names: class names; numbers if not given.

    Attributes:
        cfg: the sections; `layers[i]` is the module of `cfg.layers[i]`, Darknet's layer i.
        specs: one `HeadSpec` per head, in file order.
        strides: per layer, pixels of the network input per pixel of its output; None below a global pool; of a
            backbone the largest.
        max_stride: height and width of the pictures have to be multiples of it.
        image_size: (H, W) of `[net]`.
        lineage: the network's ancestors (see models.lineage).
        meta: plain data that travels with the checkpoint (`seen`: pictures seen, as Darknet counts them).

    Raises:
        UserError: naming the file and line of a section that cannot be built.
    """

    def __init__(self, cfg: Cfg, names: Sequence[str] | None = None):
        super().__init__()
        self.cfg = cfg.legalise()
        self.lineage: list[dict[str, Any]] = []
        self.meta: dict[str, Any] = {"seen": 0}
        self.load_report: Any = None
        self.image_size: Size = (pixels(cfg.net, "height", 416), pixels(cfg.net, "width", 416))
        self.in_channels = pixels(cfg.net, "channels", 3)
        number = cfg.index()
        self._inputs = [[number[source] for source in section.inputs] for section in cfg.layers]
        self.layers = nn.ModuleList()
        self.strides: list[Fraction | None] = []
        specs: list[HeadSpec] = []
        self._weights = 0
        for place, section in enumerate(cfg.layers):
            layer, stride, spec = self._build(place, section)
            self.layers.append(layer)
            self.strides.append(stride)
            if spec is not None:
                specs.append(spec)
        if not specs:
            kinds = " or ".join(f"[{name}]" for name, kind in KINDS.items() if kind.head)
            raise UserError(f"has no {kinds} section, so it detects nothing", where=cfg.source)
        if len({spec.family for spec in specs}) > 1:
            raise UserError(f"its heads are of different families: {[spec.family for spec in specs]}", where=cfg.source)
        if len({spec.classes for spec in specs}) > 1:
            raise UserError(f"its heads differ in classes: {[spec.classes for spec in specs]}", where=cfg.source)
        self.specs = tuple(specs)
        self.classes = specs[0].classes
        self.names = _names(names, self.classes)
        resize_of(cfg.net)  # refuses what is no number
        self.max_stride = math.lcm(*(stride.numerator for stride in self.strides if stride))
        self._mark_logit_heads()
        self._frees = self._last_uses()
        self._stops = self._gradient_stops()
        self._reads_map = {
            place: backbone.place(feature)
            for place, section in enumerate(cfg.layers)
            if (feature := self._feature(place, section))
            for backbone in [self.layers[self._inputs[place][0]]]
            if isinstance(backbone, Backbone)
        }
        height, width = (-(-max(length, 1) // self.max_stride) * self.max_stride for length in self.image_size)
        self.layer_sizes((height, width))

    @property
    def resize(self) -> str:
        """How pictures are brought to `image_size`: one of `models.resize.RESIZE`."""
        return resize_of(self.cfg.net)

    def _build(self, place: int, section: Section) -> tuple[Layer, Fraction | None, HeadSpec | None]:
        sources = self._inputs[place]
        feature = self._feature(place, section)
        channels = [self._channels(number, feature) for number in sources]
        strides = [self._stride(number, feature) for number in sources]
        if any(source.facts.head for source in section.inputs):
            raise section.error(
                "reads a detection head, which is an end of the network",
                todo="put a [route] to an earlier layer before this section",
            )
        stride = strides[section.facts.main_input]
        if section.facts.head:
            if stride is None or stride.denominator != 1:
                covers = "the whole input" if stride is None else f"{stride} pixels of the input"
                raise section.error(f"a cell of this head covers {covers}; it has to be a whole number of pixels")
            spec = spec_class(section).read(section, int(stride))
            return section.facts.layer()(section, channels, spec), stride, spec
        if section.facts.layer() is Conv:
            self._weights += Conv.weights(section, channels[0])
            check_weights(section, self._weights)
        layer = section.facts.layer()(section, channels)
        stride = stride / layer.scale if stride is not None and layer.scale else None
        check_stride(section, stride)
        return layer, stride, None

    def _feature(self, place: int, section: Section) -> int:
        """The stride of the backbone map that a section reads; 0: the largest, which is all that most layers have."""
        if "feature" not in section.options:
            return 0
        feature = section.int("feature")
        layer = self.layers[self._inputs[place][0]]
        if len(section.inputs) > 1 or not isinstance(layer, Backbone):
            raise section.error(
                f"feature={feature} asks for a map of a [timm] section, but layers={section.str('layers')} is not one",
                "feature",
                todo="give each map a [route] of its own, and join them in another",
            )
        if feature not in layer.features:
            raise section.error(
                f"feature={feature} is not among the backbone's features={section.inputs[0].str('features')}", "feature"
            )
        return feature

    def _channels(self, number: int, feature: int = 0) -> int:
        if number < 0:
            return self.in_channels
        layer = self.layer(number)
        return layer.channels[layer.place(feature)] if isinstance(layer, Backbone) else layer.out_channels

    def _stride(self, number: int, feature: int) -> Fraction | None:
        if number < 0:
            return Fraction(1)
        layer, stride = self.layers[number], self.strides[number]
        if feature and stride is not None and isinstance(layer, Backbone):
            return stride * layer.scale * feature
        return stride

    def _mark_logit_heads(self) -> None:
        """The activation of head convolutions is not applied where it belongs to the decoding of their family."""
        readers = self.cfg.readers()
        for head, numbers in zip(self.cfg.heads, self.convolutions_by_head):
            feeders = [self.cfg.layers[number] for number in numbers]
            if spec_class(head).logits_only(head, feeders, readers):
                for number in numbers:
                    self.convolutions[number].logits_only = True

    def _last_uses(self) -> list[list[int]]:
        """Per layer, the layers whose output nobody needs after it."""
        last = list(range(len(self.layers)))
        for place, sources in enumerate(self._inputs):
            for number in sources:
                if number >= 0:
                    last[number] = place
        frees: list[list[int]] = [[] for _ in self.layers]
        for number, place in enumerate(last):
            frees[place].append(number)
        return frees

    def _gradient_stops(self) -> frozenset[tuple[int, int]]:
        """(layer, its input) where that part begins which only one-to-one heads read, if there are other heads too.

        What comes before it is trained by the others alone: one place an object teaches features too little (YOLOv10,
        Wang et al., NeurIPS 2024, and YOLO26 stop the gradient there).
        """
        one_to_one = [head for head, spec in zip(self.cfg.heads, self.specs) if spec.one_to_one]
        if len(one_to_one) == len(self.specs):
            return frozenset()
        readers = self.cfg.readers()
        apart = set(one_to_one)
        for section in reversed(self.cfg.layers):
            if readers[section] and apart.issuperset(readers[section]):
                apart.add(section)
        number = self.cfg.index()
        edges = ((section, source) for section in apart for source in section.inputs if source not in apart)
        return frozenset((number[section], number[source]) for section, source in edges)

    def layer(self, number: int) -> Layer:
        """Darknet's layer of this number, from 0."""
        layer = self.layers[number]
        assert isinstance(layer, Layer)
        return layer

    def each_layer(self) -> Iterator[Layer]:
        """The layers in order."""
        return (self.layer(number) for number in range(len(self.layers)))

    @property
    def convolutions(self) -> dict[int, Conv]:
        """Layer number -> `[convolutional]`."""
        return {number: layer for number, layer in enumerate(self.layers) if isinstance(layer, Conv)}

    @property
    def conv_modules(self) -> dict[ConvKey, nn.Conv2d]:
        """Every convolution, those inside backbones included, in the order of the layers.

        The key is the layer's number; inside a backbone "0.model.layer1.0.conv1".
        """
        found: dict[ConvKey, nn.Conv2d] = {}
        for number, layer in enumerate(self.layers):
            inside = {name: module for name, module in layer.named_modules() if isinstance(module, nn.Conv2d)}
            found |= {_conv_key(number, layer, name): module for name, module in inside.items()}
        return found

    @property
    def backbones(self) -> dict[int, Backbone]:
        """Layer number -> `[timm]`."""
        return {number: layer for number, layer in enumerate(self.layers) if isinstance(layer, Backbone)}

    @property
    def convolutions_by_head(self) -> list[list[int]]:
        """The numbers of the convolutions that feed each head, one for each of its inputs."""
        number = self.cfg.index()
        return [[number[feeder] for feeder in head_feeders(head)] for head in self.cfg.heads]

    @property
    def head_convolutions(self) -> list[int]:
        """The numbers of all convolutions that feed heads."""
        return [number for numbers in self.convolutions_by_head for number in numbers]

    def for_pictures(self) -> Network:
        """This network, if it reads what pictures are decoded to.

        Raises:
            UserError: it has another number of channels than RGB.
        """
        if self.in_channels != RGB:
            problem = f"channels={self.in_channels}: pictures come as RGB, grey ones too (three equal channels)"
            raise self.cfg.net.error(problem, "channels", "write channels=3")
        return self

    def output_channels(self, layer: int) -> int:
        """Channels of a layer's output; -1 is the picture."""
        return self._channels(layer)

    def input_channels(self, layer: int) -> list[int]:
        """Channels of each of a layer's inputs."""
        feature = self._feature(layer, self.cfg.layers[layer])
        return [self._channels(number, feature) for number in self._inputs[layer]]

    def layer_sizes(self, size: Size) -> list[Size]:
        """(H, W) of every layer's output for pictures of `size` (H, W); raises `UserError` where inputs do not fit."""
        sizes: list[Size] = []
        entering: list[Size] = []  # the size of each layer's first input
        for place, (section, layer, sources) in enumerate(zip(self.cfg.layers, self.each_layer(), self._inputs)):
            found = [sizes[number] if number >= 0 else size for number in sources]
            if feature := self._feature(place, section):
                found = [Backbone.feature_size(feature, entering[sources[0]])]
            entering.append(found[0])
            if not layer.fits(*found):
                shown = ", ".join(f"{h}x{w}" for h, w in found)
                raise section.error(f"joins maps of different size at input {size[0]}x{size[1]} (HxW): {shown}")
            sizes.append(layer.out_size(*found))
            if min(sizes[-1]) < 1:
                raise section.error(f"nothing is left of an input of {size[0]}x{size[1]} (HxW) here")
        return sizes

    def conv_sizes(self, size: Size) -> dict[ConvKey, Size]:
        """(H, W) of what every convolution puts out for pictures of `size` (H, W)."""
        sizes = self.layer_sizes(size)
        found: dict[ConvKey, Size] = {}
        for number, layer in enumerate(self.each_layer()):
            inside = layer.conv_sizes(*(sizes[source] if source >= 0 else size for source in self._inputs[number]))
            found |= {_conv_key(number, layer, name): shape for name, shape in inside.items()}
        return found

    def forward(self, images: Tensor) -> list[Tensor]:
        """Pictures `(B, 3, H, W)` in 0..1 -> one `(B, A, H_i, W_i, K)` tensor of logits per head (see `HeadSpec`)."""
        return self._run(images, frozenset())[0]

    def forward_features(self, images: Tensor, layers: Iterable[int]) -> tuple[list[Tensor], dict[int, Tensor]]:
        """As `forward`, and the outputs `(B, C, h, w)` of the layers asked for (Darknet layer numbers).

        A backbone's output is the map of the largest stride; the others are those of the `[route]`s that read them.
        """
        wanted = frozenset(layers)
        outside = sorted(number for number in wanted if not 0 <= number < len(self.layers))
        if outside:
            raise UserError(
                f"no layer {outside}: the network has layers 0..{len(self.layers) - 1}", where=self.cfg.source
            )
        return self._run(images, wanted)

    def _run(self, images: Tensor, wanted: frozenset[int]) -> tuple[list[Tensor], dict[int, Tensor]]:
        self._check_size(images)
        outputs: dict[int, Tensor] = {-1: images}
        maps: dict[int, list[Tensor]] = {}
        heads, features = [], {}
        for place, layer in enumerate(self.layers):
            source = self._inputs[place][0]
            stops = self._stops if self.training else ()
            if place in self._reads_map:
                out = maps[source][self._reads_map[place]]
                out = out.detach() if (place, source) in stops else out
            else:
                inputs = ((number, outputs[number]) for number in self._inputs[place])
                out = layer(*(each.detach() if (place, number) in stops else each for number, each in inputs))
            if isinstance(layer, Backbone):
                maps[place] = list(out)
                out = maps[place][-1]
            if isinstance(layer, Head):
                heads.append(out)
            outputs[place] = out
            if place in wanted:
                features[place] = out
            for number in self._frees[place]:
                del outputs[number]
                maps.pop(number, None)
        return heads, features

    def _check_size(self, images: Tensor) -> None:
        if isinstance(images, fx.Proxy) or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return
        if images.dim() != 4 or images.shape[1] != self.in_channels:
            raise UserError(
                f"expects pictures (B, {self.in_channels}, H, W), not {tuple(images.shape)}", where=self.cfg.source
            )
        height, width = images.shape[-2:]
        step = self.max_stride
        if height % step or width % step or not height or not width:
            near = [f"{max(step, n // step * step)} or {n // step * step + step}" for n in (height, width)]
            raise UserError(
                f"pictures of {height}x{width} (HxW) do not divide into cells of {step} pixels",
                where=self.cfg.source,
                todo=f"height {near[0]}, width {near[1]}",
            )

    def decode(self, heads: Sequence[Tensor]) -> Tensor:
        """Logits -> `(B, N, 5+C)`: cx, cy, w, h in pixels of the network input, objectness, class probabilities;
        `(B, N, 4+C)` where the family of heads has no objectness."""
        return decode_heads(heads, self.specs)

    def decode_above(self, heads: Sequence[Tensor], least: float) -> list[Tensor]:
        """As `decode`, of each picture only the rows in which some confidence may be above `least`: what
        `engine.postprocess` finds in them is the same, and sooner."""
        return decode_heads_above(heads, self.specs, least)

    def with_image_size(self, size: Size) -> Network:
        """Set the (H, W) of `[net]`: the input for which nobody says otherwise. In place; returns self."""
        self.cfg.net.set("height", size[0])
        self.cfg.net.set("width", size[1])
        self.image_size = (int(size[0]), int(size[1]))
        return self

    def with_anchors(self, anchors: Sequence[Sequence[tuple[float, float]]]) -> Network:
        """Set each head's anchors (pixels of the network input), in the cfg and the specs. In place; returns self."""
        if [len(head) for head in anchors] != [len(spec.anchors) for spec in self.specs]:
            raise UserError(
                f"{[len(head) for head in anchors]} anchors for heads with "
                f"{[len(spec.anchors) for spec in self.specs]}",
                where=self.cfg.source,
            )
        if any(anchors):
            self.specs = with_anchors(self.cfg, self.specs, anchors)
        return self


def _conv_key(number: int, layer: nn.Module, name: str) -> ConvKey:
    """What the convolution `name` of layer `number` is called: there is only one in a `[convolutional]`."""
    return number if isinstance(layer, Conv) else f"{number}.{name}"


def head_feeders(head: Section) -> list[Section]:
    """The convolutions whose outputs a detection head reads (through nothing but dropout or a plain route)."""
    return [_feeder(head, source) for source in head.inputs]


def _feeder(head: Section, section: Section) -> Section:
    while section.facts.unchanged(section):
        section = section.inputs[0]
    if section.kind != "convolutional":
        raise head.error(f"reads a [{section.kind}], but it has to read a [convolutional]")
    return section


def adapt_classes(cfg: Cfg, classes: int) -> list[int]:
    """Give every head `classes` classes, in place; returns the numbers of the convolutions whose width changed."""
    number = cfg.index()
    changed = []
    for head in cfg.heads:
        wanted = spec_class(head).widths(head, classes)
        head.set("classes", classes)
        for feeder, filters in zip(head_feeders(head), wanted.values()):
            if feeder.int("filters", 1) != filters:
                feeder.set("filters", filters)
                changed.append(number[feeder])
    return changed


def _names(names: Sequence[str] | None, classes: int) -> list[str]:
    if names is None:
        return [str(number) for number in range(classes)]
    if len(names) != classes:
        raise UserError(
            f"{len(names)} class names for a network of {classes} classes", todo=f"load it with classes={len(names)}"
        )
    return [str(name) for name in names]
