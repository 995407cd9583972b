"""The modules of the cfg sections; `models.kinds` says which kind has which.

Channel counts and paddings are fixed at construction; no control flow looks at a shape.

Every layer has

- `out_channels`: channels of its output;
- `forward(*inputs)`: the inputs in the order of `Section.inputs`, each `(B, C, H, W)`;
- `fits(*sizes)`: can it join inputs of these (H, W)?
- `out_size(*sizes)`: (H, W) of the output for the (H, W) of the inputs;
- `conv_sizes(*sizes)`: (H, W) of what every convolution inside puts out, by its name in the layer;
- `scale`: output pixels per input pixel, as a `Fraction`, 0 for a global pool;
- `set_width(section, tensors)`: writes into its section how wide it would be with these tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.activations import ACTIVATIONS
from models.cfg import Section
from models.heads.spec import HeadSpec
from models.limits import positive

# OpenCV's value, and thus that of whoever reads our files; 1e-5 differs by 0.35 % after 20 layers.
BN_EPS = 1e-6
BN_MOMENTUM = 0.03

Size = tuple[int, int]


class Layer(nn.Module):
    """What all layers share; see the module's docstring."""

    out_channels: int
    scale: Fraction = Fraction(1)
    keeps_counts = False
    """Does its forward hold channel counts of its own, which no option of its section changes?"""
    traced_whole = False
    """Does `prune.trace` take it as one step, instead of what its forward calls? Then none of its channels can be
    dropped, neither before nor behind it (but for `Shortcut` and `Attention`, whose rules the walk has)."""

    def fits(self, *sizes: Size) -> bool:
        return len(set(sizes)) == 1

    def out_size(self, *sizes: Size) -> Size:
        return sizes[0]

    def conv_sizes(self, *sizes: Size) -> dict[str, Size]:
        return {}

    def set_width(self, section: Section, tensors: Mapping[str, Tensor]) -> None:
        """Write the widths of `tensors` (the layer's state, pruned) into `section`; most layers have none."""


def activation(section: Section, default: str) -> nn.Module:
    """The module of a section's `activation=`."""
    name = section.str("activation", default)
    if name not in ACTIVATIONS:
        raise section.error(
            f"activation={name} is not one of Darknet's", "activation", todo=f"known: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]()


def _strides(section: Section) -> Size:
    stride = positive(section, "stride", 1)
    return positive(section, "stride_y", stride), positive(section, "stride_x", stride)


def _common_scale(section: Section, strides: Size) -> Fraction:
    if strides[0] != strides[1]:
        raise section.error(
            f"stride_y={strides[0]} and stride_x={strides[1]} differ; boxes need square cells",
            "stride_x",
            todo="use one stride",
        )
    return Fraction(1, strides[0])


class Conv(Layer):
    """`[convolutional]`: convolution, BatchNorm (or a bias), activation.

    Attributes:
        conv: has a bias only where there is no BatchNorm.
        bn: None without `batch_normalize`.
        act: the activation.
        logits_only: set by the network on a head whose activation belongs to the decoding (`new_coords`): the
            activation is kept for the file but not applied.
    """

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        filters, size = positive(section, "filters", 1), positive(section, "size", 1)
        strides = _strides(section)
        groups = positive(section, "groups", 1)
        dilation = positive(section, "dilation", 1) if size > 1 else 1
        padding = size // 2 if section.int("pad", 0) else section.int("padding", 0)
        if padding < 0 or padding >= max(2, size):
            raise section.error(f"padding={padding} does not fit size={size}", "padding")
        if channels[0] % groups or filters % groups:
            raise section.error(
                f"groups={groups} divides not both the {channels[0]} channels that come in and filters={filters}",
                "groups",
                todo="choose filters and groups that divide",
            )
        normalise = section.int("batch_normalize", 0)
        self.padding = padding * dilation
        self.conv = nn.Conv2d(channels[0], filters, size, strides, self.padding, dilation, groups, bias=not normalise)
        self.bn = nn.BatchNorm2d(filters, eps=BN_EPS, momentum=BN_MOMENTUM) if normalise else None
        self.act = activation(section, "logistic")
        self.logits_only = False
        self.out_channels = filters
        self.scale = _common_scale(section, strides)

    @staticmethod
    def weights(section: Section, channels: int) -> int:
        """How many numbers its kernels have."""
        kernel = positive(section, "size", 1) ** 2
        return positive(section, "filters", 1) * kernel * channels // positive(section, "groups", 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.bn is not None:
            x = self.bn(x)
        return x if self.logits_only else self.act(x)

    def set_width(self, section: Section, tensors: Mapping[str, Tensor]) -> None:
        filters = len(tensors["conv.weight"])
        if 1 < self.conv.groups == self.conv.in_channels:  # depthwise: as many groups as channels come in
            section.set("groups", filters * self.conv.in_channels // self.conv.out_channels)
        section.set("filters", filters)

    def out_size(self, *sizes: Size) -> Size:
        reach = self.conv.dilation[0] * (self.conv.kernel_size[0] - 1) + 1 - 2 * self.padding
        height, width = ((length - reach) // stride + 1 for length, stride in zip(sizes[0], self.conv.stride))
        return height, width

    def conv_sizes(self, *sizes: Size) -> dict[str, Size]:
        return {"conv": self.out_size(*sizes)}


class MaxPool(Layer):
    """`[maxpool]`: Darknet pads size - 1 pixels in all, the smaller half on the left and top, with -inf.

    Output = (H + padding - size) // stride + 1.
    """

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        self.strides = _strides(section)
        self.size = positive(section, "size", max(self.strides))
        padding = section.int("padding", self.size - 1)
        if not 0 <= padding < 2 * self.size:
            raise section.error(f"padding={padding} does not fit size={self.size}", "padding")
        self.before, self.after = padding // 2, padding - padding // 2
        self.out_channels = channels[0]
        self.scale = _common_scale(section, self.strides)

    def forward(self, x: Tensor) -> Tensor:
        if self.before == self.after and 2 * self.before <= self.size:
            return F.max_pool2d(x, self.size, self.strides, self.before)
        x = F.pad(x, (self.before, self.after, self.before, self.after), value=float("-inf"))
        return F.max_pool2d(x, self.size, self.strides)

    def out_size(self, *sizes: Size) -> Size:
        padding = self.before + self.after
        height, width = ((n + padding - self.size) // s + 1 for n, s in zip(sizes[0], self.strides))
        return height, width


class AvgPool(Layer):
    """`[avgpool]`: the mean over all pixels, 1 x 1."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        self.out_channels = channels[0]
        self.scale = Fraction(0)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)

    def out_size(self, *sizes: Size) -> Size:
        return 1, 1


class Upsample(Layer):
    """`[upsample]`: nearest neighbour by a whole factor."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        self.factor = positive(section, "stride", 2)
        self.out_channels = channels[0]
        self.scale = Fraction(self.factor)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self.factor, mode="nearest")

    def out_size(self, *sizes: Size) -> Size:
        return sizes[0][0] * self.factor, sizes[0][1] * self.factor


class Reorg(Layer):
    """`[reorg]`: space to depth as Darknet does it, which reads its input as a map of C / s^2 channels and s-fold size.

    That mixes channels and places; networks trained with it depend on it. `reverse=1` is plain depth to space.
    """

    traced_whole = True

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        self.stride = positive(section, "stride", 1)
        self.reverse = bool(section.int("reverse", 0))
        squared = self.stride**2
        if channels[0] % squared:
            raise section.error(
                f"stride={self.stride} needs a multiple of {squared} channels, not {channels[0]}", "stride"
            )
        self.in_channels = channels[0]
        self.out_channels = channels[0] // squared if self.reverse else channels[0] * squared
        self.scale = Fraction(self.stride) if self.reverse else Fraction(1, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        s = self.stride
        few = channels // s**2
        if self.reverse:  # (B, s, s, C/s^2, H, W) -> (B, C/s^2, H, s, W, s)
            x = x.reshape(batch, s, s, few, height, width).permute(0, 3, 4, 1, 5, 2)
            return x.reshape(batch, few, height * s, width * s)
        x = x.reshape(batch, few, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(batch, channels * s**2, height // s, width // s)

    def out_size(self, *sizes: Size) -> Size:
        height, width = sizes[0]
        if self.reverse:
            return height * self.stride, width * self.stride
        return height // self.stride, width // self.stride


class Route(Layer):
    """`[route]`: the inputs one after the other along the channels; with `groups`, only part `group_id` of each."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        groups, part = positive(section, "groups", 1), section.int("group_id", 0)
        if not 0 <= part < groups:
            raise section.error(f"group_id={part} has to be in 0..{groups - 1}", "group_id")
        for count in channels:
            if count % groups:
                raise section.error(f"groups={groups} does not divide the {count} channels of an input", "groups")
        self.groups = groups
        self.slices = [(count // groups * part, count // groups * (part + 1)) for count in channels]
        self.out_channels = sum(channels) // groups

    def forward(self, *inputs: Tensor) -> Tensor:
        parts = list(inputs)
        if self.groups > 1:
            parts = [x[:, first:last] for x, (first, last) in zip(parts, self.slices)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Shortcut(Layer):
    """`[shortcut]`: the section before plus the referenced ones.

    Where channels differ only the leading ones are added; the output keeps the width of the section before.
    """

    traced_whole = True

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        self.channels = list(channels)
        self.out_channels = channels[0]
        self.act = activation(section, "linear")

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        total, width = first, self.out_channels
        for other, count in zip(others, self.channels[1:]):
            if count == width:
                total = total + other
            elif count > width:
                total = total + other[:, :width]
            else:
                total = torch.cat([total[:, :count] + other, total[:, count:]], 1)
        return self.act(total)


class Gate(Layer):
    """`[sam]`: the referenced map times the section before, both `(B, C, H, W)`."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        if len(channels) != 2:
            raise section.error(f"from={section.str('from')} has to name exactly one layer", "from")
        self.by_place = bool(section.int("scale_wh", 0))
        wanted = 1 if self.by_place else channels[1]
        if channels[0] != wanted:
            raise section.error(f"the gate has {channels[0]} channels, the layer it scales asks for {wanted}", "from")
        self.out_channels = channels[1]
        self.act = activation(section, "linear")

    def forward(self, gate: Tensor, scaled: Tensor) -> Tensor:
        return self.act(scaled * gate)

    def out_size(self, *sizes: Size) -> Size:
        return sizes[1]


class ScaleChannels(Gate):
    """`[scale_channels]`: the section before is `(B, C, 1, 1)` (squeeze and excitation), or, with `scale_wh=1`,
    `(B, 1, H, W)`."""

    def fits(self, *sizes: Size) -> bool:
        return super().fits(*sizes) or (not self.by_place and sizes[0] == (1, 1))


class Attention(Layer):
    """`[attention]`: every place is the mean of all places' values, weighted by the softmax of ``scale * query . key``
    (Vaswani et al., 2017), in each of `heads` slices of the channels for itself.

    Reads queries, keys and values, each `(B, C, H, W)`, from layers of their own: the convolutions around it are
    ordinary ones, and channel i of its output is made of channel i of the values alone.
    """

    traced_whole = True

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        if len(channels) != 3:
            raise section.error(f"reads {len(channels)} layers; it has to read queries, keys and values", "layers")
        self.heads = positive(section, "heads")
        # Written down, for it does not change where channels are cut.
        self.scale_of_products = section.float("scale")
        queries, keys, values = channels
        if queries != keys:
            raise section.error(f"has {queries} channels of queries, but {keys} of keys", "layers")
        if queries % self.heads or values % self.heads:
            raise section.error(
                f"heads={self.heads} divides not both the {queries} channels of the queries and the {values} of the "
                "values",
                "heads",
            )
        self.out_channels = values

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = (x.flatten(2).unflatten(1, (self.heads, -1)) for x in (queries, keys, values))  # (B, heads, d, N)
        weights = (q.transpose(-2, -1) @ k * self.scale_of_products).softmax(-1)
        return (v @ weights.transpose(-2, -1)).reshape(values.shape)


class Dropout(Layer):
    """`[dropout]`: identity in eval mode."""

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        probability = section.float("probability", 0.5)
        if not 0 <= probability < 1:
            raise section.error(f"probability={probability:g} has to be in 0..1", "probability")
        self.drop = nn.Dropout(probability)
        self.out_channels = channels[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x)


class Head(Layer):
    """A head: only the reshape of its inputs, joined, `(B, A * K, H, W)` -> `(B, A, H, W, K)`, still logits."""

    def __init__(self, section: Section, channels: list[int], spec: HeadSpec):
        super().__init__()
        self.places, self.numbers = spec.places, spec.channels
        self.out_channels = sum(channels)
        wanted = spec.widths(section, spec.classes)
        if len(channels) != len(wanted):
            raise section.error(
                f"reads {len(channels)} layers, but it has to read {len(wanted)}: one each for {', '.join(wanted)}",
                section.facts.reference,
            )
        for (what, width), count in zip(wanted.items(), channels):
            if count != width:
                raise section.error(
                    f"{what} need {width} channels, but {count} come in",
                    "classes",
                    todo=f"set filters={width} in the [convolutional] before it",
                )

    def forward(self, *inputs: Tensor) -> Tensor:
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, 1)
        batch, _, height, width = x.shape
        return x.view(batch, self.places, self.numbers, height, width).permute(0, 1, 3, 4, 2)
