"""`[timm]`: a timm backbone inside a cfg, narrowed where it was pruned.

::

    [timm]
    model=resnet18          # any BatchNorm network of timm with `features_only`
    features=8,16,32        # strides of the maps it gives
    pretrained=1            # optional: timm's own weights (1), or a file of them; only a fresh network reads them

    [route]
    layers=0
    feature=16              # the map of stride 16; a section that says no feature reads the map of the largest stride

`widths=` holds what a pruned backbone differs in, as ``conv1:48/3,bn1:48``: a convolution's output and input channels,
a BatchNorm's channels; ``/bias`` where folding gave a convolution a bias. `version=` is the timm it was made with.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from common.errors import closest
from models.cfg import Section
from models.layers import BN_MOMENTUM, Layer, Size

# Output channels, input channels, has a bias of its own since folding. A BatchNorm: (channels, channels, False).
Width = tuple[int, int, bool]


class Backbone(Layer):
    """A timm network cut off after the largest stride asked for, as one layer with several maps.

    Its BatchNorms keep timm's eps (1e-5 mostly), which its pretrained weights were trained with; `models.lowered`
    turns it into Darknet's. Their momentum is the cfg layers'. The weights are timm's own random initialisation;
    nothing is fetched here.

    Attributes:
        model: timm's feature extractor; pictures ``(B, C, H, W)`` in, a list of maps out.
        features: strides of the maps relative to the layer's input, rising.
        channels: channels of each map.
        widths: what differs from timm's network, as `widths=` says.
    """

    keeps_counts = True

    def __init__(self, section: Section, channels: list[int]):
        super().__init__()
        name = section.str("model")
        strides = feature_strides(name, section)
        self.features = sorted(set(section.ints("features")))
        if not self.features:
            raise section.error("has no features=", todo=f"name strides among {', '.join(map(str, strides))}")
        if unknown := [stride for stride in self.features if stride not in strides]:
            raise section.error(
                f"features={section.str('features')}: {name} has no map of stride {unknown[0]}",
                "features",
                todo=f"it has strides {', '.join(map(str, strides))}",
            )
        self.in_channels = channels[0]
        self.model = _create(
            name, section, out_indices=[strides[stride] for stride in self.features], in_chans=self.in_channels
        )
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = BN_MOMENTUM
        self.widths = read_widths(section)
        narrow(self.model, self.widths, section)
        self._sizes: dict[Size, dict[str, Size]] = {}
        info: Any = self.model.feature_info
        self.channels = list(info.channels())
        if self.widths:
            self.channels = self._measured_channels(section)
        if _without_data():
            _drop_data(self.model)
        self.out_channels = self.channels[-1]
        self.scale = Fraction(1, self.features[-1])
        import timm

        section.options.setdefault("version", timm.__version__)

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.model(x))

    def out_size(self, *sizes: Size) -> Size:
        return self.feature_size(self.features[-1], sizes[0])

    def place(self, stride: int) -> int:
        """Which of the maps has this stride; 0 means the last one. Raises `ValueError`."""
        return len(self.features) - 1 if stride == 0 else self.features.index(stride)

    @staticmethod
    def feature_size(stride: int, size: Size) -> Size:
        """(H, W) of the map of a stride, for an input whose sides it divides."""
        return size[0] // stride, size[1] // stride

    def conv_sizes(self, *sizes: Size) -> dict[str, Size]:
        """Found by one pass of tensors without data. A convolution called twice counts with the sum of its rows."""
        (size,) = sizes
        if size not in self._sizes:
            self._sizes[size] = self._pass(size)
        return self._sizes[size]

    def set_width(self, section: Section, tensors: Mapping[str, Tensor]) -> None:
        widths = dict(self.widths)
        for name, module in self.model.named_modules():
            weight = tensors.get(f"model.{name}.weight")
            if weight is None or not isinstance(module, (nn.Conv2d, _BatchNorm)):
                continue
            out, into = _width(module, weight)
            extra = f"model.{name}.bias" in tensors and module.bias is None
            if extra or (out, into) != _width(module, module.weight):
                widths[name] = (out, into, extra or (name in widths and widths[name][2]))
        if widths:
            section.options["widths"] = width_text(widths)
            section.options.pop("pretrained", None)  # fits the uncut backbone only

    def _pass(self, size: Size) -> dict[str, Size]:
        sizes: dict[str, Size] = {}

        def note(name: str) -> Any:
            def hook(_module: nn.Module, _inputs: Any, out: Tensor) -> None:
                rows = sizes[name][0] if name in sizes else 0
                sizes[name] = (rows + out.shape[2], out.shape[3])

            return hook

        convs = {name: module for name, module in self.named_modules() if isinstance(module, nn.Conv2d)}
        handles = [module.register_forward_hook(note(name)) for name, module in convs.items()]
        modes = [(module, module.training) for module in self.model.modules()]
        tensors = {
            name: torch.empty_like(tensor, device="meta")
            for name, tensor in [*self.model.named_parameters(), *self.model.named_buffers()]
        }
        dtype = next(self.model.parameters()).dtype
        picture = torch.empty(1, self.in_channels, *size, device="meta", dtype=dtype)
        try:
            self.model.eval()
            with torch.no_grad():
                functional_call(self.model, tensors, (picture,))
        finally:
            for handle in handles:
                handle.remove()
            for module, mode in modes:
                module.training = mode
        return sizes

    def _measured_channels(self, section: Section) -> list[int]:
        """Channels of each map, from one pass of a tiny picture."""
        side = 2 * self.features[-1]
        self.model.eval()
        try:
            with torch.no_grad(), torch.device("cpu"):
                return [int(out.shape[1]) for out in self.model(torch.zeros(1, self.in_channels, side, side))]
        except RuntimeError as error:
            raise section.error(
                f"widths= do not fit together: {error}",
                "widths",
                todo="they are written by pruning; take the cfg as it was written",
            ) from error
        finally:
            self.model.train()


# -- widths --------------------------------------------------------------------------------------------------------


def read_widths(section: Section) -> dict[str, Width]:
    """`widths=` of a section: module name -> width."""
    found: dict[str, Width] = {}
    for entry in filter(None, (part.strip() for part in section.str("widths").split(","))):
        name, _, text = entry.partition(":")
        numbers = text.split("/")
        try:
            out = int(numbers[0])
            found[name] = (out, int(numbers[1]) if len(numbers) > 1 else out, numbers[2:] == ["bias"])
        except ValueError:
            raise section.error(f"widths= holds '{entry}', not name:out/in", "widths") from None
    return found


def width_text(widths: Mapping[str, Width]) -> str:
    """The inverse of `read_widths`."""
    return ",".join(f"{name}:{out}/{into}" + ("/bias" if bias else "") for name, (out, into, bias) in widths.items())


def _width(module: nn.Conv2d | _BatchNorm, weight: Tensor) -> tuple[int, int]:
    """Output and input channels of `module` if its weight were `weight`."""
    out = len(weight)
    if not isinstance(module, nn.Conv2d):
        return out, out
    into = out * module.in_channels // module.out_channels if _depthwise(module) else weight.shape[1] * module.groups
    return out, into


def _depthwise(module: nn.Conv2d) -> bool:
    return module.groups > 1 and module.groups == module.in_channels


def narrow(model: nn.Module, widths: Mapping[str, Width], section: Section) -> None:
    """Give the named convolutions and BatchNorms other widths, in place, with fresh random weights."""
    modules = dict(model.named_modules())
    for name, (out, into, bias) in widths.items():
        module = modules.get(name)
        if not isinstance(module, (nn.Conv2d, _BatchNorm)) or out < 1 or into < 1:
            raise section.error(
                f"widths= names '{name}', which is no convolution or BatchNorm of {section.str('model')}",
                "widths",
                todo=_version_hint(section),
            )
        if isinstance(module, nn.Conv2d):
            groups = into if _depthwise(module) else module.groups
            if out % groups or into % groups:
                raise section.error(f"widths={name}:{out}/{into} does not divide into {groups} groups", "widths")
            module.in_channels, module.out_channels, module.groups = into, out, groups
            like = module.weight
            module.weight = nn.Parameter(like.new_empty(out, into // groups, *module.kernel_size))
            if module.bias is not None or bias:
                module.bias = nn.Parameter(like.new_empty(out))
        else:
            module.num_features = out
            for part in ("weight", "bias"):
                if (old := getattr(module, part)) is not None:
                    setattr(module, part, nn.Parameter(old.new_empty(out)))
            for part in ("running_mean", "running_var"):
                if (old := getattr(module, part)) is not None:
                    setattr(module, part, old.new_empty(out))
        module.reset_parameters()


# -- timm ----------------------------------------------------------------------------------------------------------


def _create(name: str, section: Section, **options: Any) -> nn.Module:
    """timm's feature extractor, on the CPU, for a pruned one is measured; uninitialised where no data is asked for."""
    import timm

    try:
        with _Uninitialised() if _without_data() else contextlib.nullcontext(), torch.device("cpu"):
            model = timm.create_model(name, features_only=True, **options)
    except (RuntimeError, TypeError, AssertionError, AttributeError, ValueError, IndexError, KeyError) as error:
        raise section.error(
            f"model={name}: timm cannot cut this network into features: {error}",
            "model",
            todo="choose a convolutional network, as resnet18 or mobilenetv4_conv_small",
        ) from error
    stages, blocks = getattr(model, "_stage_out_idx", None), getattr(model, "blocks", None)
    if stages and isinstance(blocks, nn.Sequential):
        model.blocks = blocks[: max(stages)]  # timm runs the later ones for nothing
    return model


def _without_data() -> bool:
    """Are Networks being built under ``torch.device("meta")``?"""
    return torch.empty(0).device.type == "meta"


def _drop_data(model: nn.Module) -> None:
    """Move all that a state dict holds to the meta device; constants that it does not hold stay."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"))
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to("meta")


class _Uninitialised(TorchFunctionMode):
    """Leaves out random initialisation, which takes most of the time and would move the random state."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", ""), kwargs or {}
        if name in ("uniform_", "normal_", "trunc_normal_", "erfinv_"):
            return args[0] if args else given["tensor"]
        if name == "linspace":  # rates of dropped paths: some networks of older versions of timm read them
            given = {**given, "device": "cpu"}
        return func(*args, **given)


def feature_strides(name: str, section: Section) -> dict[int, int]:
    """Stride -> timm's feature index of the deepest map of that stride."""
    with torch.device("cpu"):  # what older versions of torch import with it computes, and may not do so without data
        import timm

    if not timm.is_model(name):
        close = closest(name, timm.list_models(), most=3)
        raise section.error(
            f"model={name} is no network of timm {timm.__version__}" if name else "has no model=",
            "model",
            todo=f"did you mean {' or '.join(close)}?" if close else "see timm.list_models() for the names",
        )
    found = _strides_of(name)
    if found is None:
        raise section.error(
            f"model={name} gives no feature maps",
            "model",
            todo="choose a convolutional network, as resnet18 or mobilenetv4_conv_small",
        )
    return dict(found)


@functools.lru_cache(maxsize=64)
def _strides_of(name: str) -> tuple[tuple[int, int], ...] | None:
    import timm

    with _Uninitialised(), torch.device("meta"):
        info: Any = getattr(timm.create_model(name), "feature_info", None)
    rows = info.info if hasattr(info, "info") else info
    if not rows or not all(isinstance(row.get("reduction"), int) for row in rows):
        return None
    return tuple({row["reduction"]: place for place, row in enumerate(rows)}.items())


def _version_hint(section: Section) -> str:
    import timm

    made = section.str("version")
    if made in ("", timm.__version__):
        return ""
    return f"it was made with timm {made}, this is timm {timm.__version__}"
