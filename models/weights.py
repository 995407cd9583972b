"""Darknet `.weights`: a header, then float32 tensors in layer order; read, cut-off backbones included, and written.

Per convolution: with BatchNorm beta, gamma, running mean, running variance, weights; else bias, weights.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.files import whole_file
from common.log import log
from common.reading import need_file
from models.cfg import Cfg, Section
from models.layers import Conv
from models.limits import MOST_WEIGHTS
from models.load_report import LoadReport
from models.network import Network, adapt_classes
from models.official import where_to_get
from models.portable import opencv_problems, portable
from models.resize import KEY, LETTERBOX
from models.timm_lower import lowered

VERSION = (0, 2, 5)
OTHER_CFG = (
    "give the cfg the file was trained with; if this is the one, the file is cut short or damaged: fetch it again"
)
TEXT = frozenset(range(32, 127)) | {9, 10, 13}
"""Bytes of plain text; the version that a header begins with has zeros."""


def conv_tensors(number: int, conv: Conv) -> list[tuple[str, Tensor]]:
    """The tensors of layer `number` in the order of the file, by their state-dict names."""
    at = f"layers.{number}"
    if conv.bn is not None:
        mean, variance = conv.bn.running_mean, conv.bn.running_var
        assert mean is not None
        assert variance is not None
        return [
            (f"{at}.bn.bias", conv.bn.bias),
            (f"{at}.bn.weight", conv.bn.weight),
            (f"{at}.bn.running_mean", mean),
            (f"{at}.bn.running_var", variance),
            (f"{at}.conv.weight", conv.conv.weight),
        ]
    assert conv.conv.bias is not None
    return [(f"{at}.conv.bias", conv.conv.bias), (f"{at}.conv.weight", conv.conv.weight)]


def file_tensors(net: Network) -> Iterator[tuple[str, Tensor]]:
    """All tensors that decide the output, by their state-dict names, in the order of the layers."""
    for number, layer in enumerate(net.layers):
        if isinstance(layer, Conv):
            yield from conv_tensors(number, layer)
        else:
            yield from (
                (f"layers.{number}.{name}", tensor)
                for name, tensor in layer.state_dict().items()
                if tensor.is_floating_point()
            )


def read_header(path: str | Path) -> tuple[int, int, int]:
    """(pictures seen, bytes of the header, float32 values after it) of a `.weights` file; the values are not read.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    size = need_file(path, 20 + 4 * MOST_WEIGHTS, where_to_get(path) or "is it the file of weights?")
    try:
        with open(path, "rb") as handle:
            raw = handle.read(20)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from error
    if len(raw) < 16:
        raise UserError(
            f"has {len(raw)} bytes, too few for the header of a .weights file", where=path, todo="is it one?"
        )
    if all(byte in TEXT for byte in raw):
        raise UserError(
            "is a text, not a file of weights", where=path, todo=f"it begins with {raw[:16]!r}: name another"
        )
    major, minor, _ = struct.unpack_from("<3i", raw)
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    start = 20 if wide else 16
    if size < start or (size - start) % 4:
        raise UserError(
            f"{size} bytes are not a header of {start} and whole float32 numbers",
            where=path,
            todo="the file is damaged or no .weights file: fetch it again",
        )
    return struct.unpack_from("<q" if wide else "<i", raw, 12)[0], start, (size - start) // 4


def read_weights(path: str | Path) -> tuple[int, np.ndarray]:
    """(pictures seen, all float32 values) of a `.weights` file."""
    seen, start, _ = read_header(path)
    return seen, np.fromfile(path, "<f4", offset=start)


MOST = 1e12
"""No training leaves a weight near it; of weights not far beyond it float32 makes infinite answers."""


def need_sound(tensor: Tensor, name: str, path: str | Path) -> None:
    """Refuse a tensor that no training leaves: its network would find nothing, and say nothing of why.

    Raises:
        UserError: naming the tensor (``layers.NUMBER. ...``) and how many of its values are NaN or infinite, or
            variances below 0, or beyond `MOST`; or its values are no fractions.
    """
    if name.endswith("num_batches_tracked"):
        return
    todo = "the file is damaged, or its training diverged: take an earlier one"
    if not tensor.is_floating_point():
        raise UserError(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} values", where=path, todo=todo)
    low, high = tensor.detach().aminmax() if tensor.numel() else (tensor.new_zeros(()),) * 2
    if low >= (0 if name.endswith("running_var") else -MOST) and high <= MOST:
        return  # told without another copy of it
    said, bad = "are not finite (NaN or infinite)", ~torch.isfinite(tensor)
    if name.endswith("running_var") and not bad.any():
        said, bad = "are below 0, which no variance is", tensor < 0
    if not bad.any():
        said, bad = f"are beyond {MOST:g}: sums of them are infinite, so nothing would be found", tensor.abs() > MOST
    if count := int(bad.sum()):
        raise UserError(f"{count} of the {tensor.numel()} values of {name} {said}", where=path, todo=todo)


def load_darknet(net: Network, path: str | Path) -> LoadReport:
    """Fill `net` from a `.weights` file of its cfg, in place.

    A file that ends at the end of a convolution (a cut-off backbone such as darknet53.conv.74) fills what is there.
    A file of the same cfg with another number of classes fills everything but the head convolutions. What was not
    filled is in the report and in the log.

    Raises:
        UserError: where the size of the file belongs to no such network, naming the layer reached; a network with a
            section that is not Darknet's, as `[timm]`, whose `.weights` belong to the cfg that was written beside them.
    """
    if foreign := _foreign(net.cfg):
        raise UserError(
            f"does not belong to {net.cfg.source}: a [{foreign.kind}] section has no place in a .weights file",
            where=path,
            todo="give the cfg that was written beside it, or the .pt",
        )
    shapes = _file_shapes(net, read_header(path)[2], path)  # before a file of another network is read as a whole
    net.meta["seen"], values = read_weights(path)
    report = LoadReport(str(path))
    place = 0
    with torch.no_grad():
        for number, conv in net.convolutions.items():
            for name, tensor in conv_tensors(number, conv):
                if name not in shapes:
                    report.missing.append(name)
                    continue
                count = int(np.prod(shapes[name]))
                part = torch.from_numpy(values[place : place + count].copy())
                need_sound(part, name, path)
                place += count
                if shapes[name] != tuple(tensor.shape):
                    report.refuse(name, shapes[name], tensor.shape)
                    continue
                tensor.copy_(part.view(tensor.shape))
                report.loaded.append(name)
    report.log(net.cfg)
    net.load_report = report
    return report


def _foreign(cfg: Cfg) -> Section | None:
    """The first section that Darknet does not know."""
    return next((section for section in cfg.layers if not section.facts.darknet), None)


def _shapes(net: Network) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(tensor.shape)
        for number, conv in net.convolutions.items()
        for name, tensor in conv_tensors(number, conv)
    }


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _with_classes(cfg: Cfg, classes: int) -> dict[str, tuple[int, ...]]:
    """The file's layout if `cfg` had `classes` classes."""
    cfg = cfg.copy()
    adapt_classes(cfg, classes)
    with torch.device("meta"):
        return _shapes(Network(cfg))


def _file_shapes(net: Network, amount: int, path: str | Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape in a file of `amount` numbers; tensors past its end are left out."""
    own = _shapes(net)
    if _count(own) == amount:
        return own
    # The number of values is linear in the classes, so the file tells how many it was trained for.
    one, two = _count(_with_classes(net.cfg, 1)), _count(_with_classes(net.cfg, 2))
    classes, rest = divmod(amount - one, two - one)
    if rest == 0 and classes >= 0:
        return _with_classes(net.cfg, classes + 1)
    return _cut_off(net, own, amount, path)


def _cut_off(
    net: Network, shapes: dict[str, tuple[int, ...]], amount: int, path: str | Path
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    used = 0
    for number, conv in net.convolutions.items():
        names = [name for name, _ in conv_tensors(number, conv)]
        needed = sum(int(np.prod(shapes[name])) for name in names)
        if used == amount and found:
            log.warning("%s ends before layer %d: a cut-off backbone", path, number)
            return found
        if used + needed > amount:
            raise UserError(
                f"does not belong to {net.cfg.source}: layer {number} ({net.cfg.layers[number]}) needs "
                f"{4 * needed} bytes, but only {4 * (amount - used)} are left of {4 * amount}",
                where=path,
                todo=OTHER_CFG,
            )
        found.update((name, shapes[name]) for name in names)
        used += needed
    raise UserError(
        f"does not belong to {net.cfg.source}: its last convolution is layer {number} and ends after "
        f"{4 * used} bytes of tensors, but the file has {4 * amount}",
        where=path,
        todo=OTHER_CFG,
    )


def save_darknet(net: Network, cfg: str | Path, weights: str | Path) -> None:
    """Write `net` as a Darknet cfg and its `.weights`; neither takes its name before both are written.

    Written is the `portable` form of the cfg, which gives the same outputs; what OpenCV cannot read is warned about.
    A `[timm]` section is written as Darknet sections.

    Raises:
        UserError: a section or an operator of a backbone has no Darknet word.
    """
    net = lowered(net)
    if foreign := _foreign(net.cfg):
        raise foreign.error("has no Darknet word", todo="keep the .pt, or export to ONNX")
    plain = portable(net.cfg)
    plain.net.set(KEY, int(net.resize == LETTERBOX))  # where it is missing Darknet stretches, and we do not
    for problem in opencv_problems(plain):
        log.warning("%s: OpenCV's Darknet reader %s", cfg, problem)
    with whole_file(cfg) as text, whole_file(weights) as temporary:
        text.write_text(plain.text(), encoding="utf-8")
        with open(temporary, "wb") as handle:
            handle.write(struct.pack("<3iq", *VERSION, int(net.meta.get("seen", 0))))
            for number, conv in net.convolutions.items():
                for _, tensor in conv_tensors(number, conv):
                    handle.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())
