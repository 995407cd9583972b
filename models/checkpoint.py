"""Networks in files: our own `.pt` (plain data and tensors only), and `load`, which takes whatever the user has."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import whole_file
from common.log import log, say_once
from common.reading import need_file, shown_path
from common.rundir import EXPORTED_FILES, is_checkpoint, network_in
from models.archive import MAX_BYTES, MAX_PICKLE_BYTES, Archive
from models.cfg import Cfg, parse_cfg, read_cfg
from models.classes import numbers_only, only_classes, places_of, take_names
from models.content import DAMAGED, FORMAT, check_content, misfit
from models.initial import init_weights
from models.layers import Conv
from models.load_report import LoadReport
from models.network import Network, adapt_classes
from models.official import where_to_get
from models.resize import KEY
from models.timm_pretrained import load_pretrained
from models.unpickle import read_plain
from models.weights import load_darknet, need_sound

WHAT_TO_GIVE = "give a .pt written by ThinYOLO, a YOLOv5, YOLOv8, YOLO11 or YOLO26 .pt, or a cfg with its .weights"
Anchors = Sequence[Sequence[tuple[float, float]]]


def save(net: Network, path: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write `net` as a `.pt` of cfg text, tensors and plain data; `extra` (plain data, tensors) is kept under "extra".

    The cfg text says of a `[timm]` section the model, timm's version and every width that pruning changed.
    The file is whole or absent and loads with ``torch.load(path, weights_only=True)``.
    """
    content = {
        "format": FORMAT,
        "cfg": net.cfg.text(),
        "source": net.cfg.source,
        "names": list(net.names),
        "state": {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()},
        "lineage": net.lineage,
        "meta": net.meta,
        "extra": extra or {},
    }
    with whole_file(path) as temporary, open(temporary, "wb") as handle:
        torch.save(content, handle)  # into a file of ours: what the system says of a full disk is then known


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of one of our `.pt` files, on the CPU; nothing in it is executed. Raises `UserError` for others."""
    path = Path(path)
    try:
        content = read_plain(path)
    except UserError as error:
        said = error.problem if error.problem.startswith("its ") else f"it {error.problem}"
        raise UserError(f"is no ThinYOLO checkpoint: {said}", where=path, todo=WHAT_TO_GIVE) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise UserError(
            f"is no ThinYOLO checkpoint: its format is {str(found)[:40]!r}, not {FORMAT!r}",
            where=path,
            todo=WHAT_TO_GIVE,
        )
    check_content(content, path)
    return content


def from_checkpoint(content: dict[str, Any], source: str | Path = "checkpoint", take: bool = False) -> Network:
    """The network a checkpoint's content (see `read_checkpoint`) describes, in FP32: pictures are, whatever was saved.

    Args:
        take: the content's tensors become the network's, and are gone from the content: none is held twice.
    """
    state = content["state"]
    for name, tensor in state.items():
        need_sound(tensor, name, source)
    with torch.device("meta"):  # its tensors come from the file
        net = Network(parse_cfg(content["cfg"], source=str(source)), content["names"])
    if wrong := misfit(net.state_dict(), state):
        raise UserError(f"its tensors do not belong to its cfg: {wrong}", where=source, todo=DAMAGED)
    own = {}
    for name in list(state):
        tensor = state.pop(name) if take else state[name].clone()
        own[name] = (tensor.float() if tensor.is_floating_point() else tensor).contiguous()
    net.load_state_dict(own, assign=True)
    if any(tensor.is_meta for tensor in (*net.parameters(), *net.buffers())):  # what a backbone keeps out of files
        net = Network(net.cfg, content["names"])
        net.load_state_dict(own)
    net.lineage, net.meta = content["lineage"], content["meta"]
    return net


def available_cfgs() -> list[str]:
    """The names of the cfgs that come with the package."""
    return sorted(path.name for path in _shipped().glob("*.cfg"))


def _shipped() -> Path:
    import cfg

    return Path(next(iter(cfg.__path__)))


def _of_package(name: str | Path) -> Path | None:
    """The cfg of the package that `name` means, if it may mean one."""
    path = Path(name)
    if len(path.parts) == 1 or path.parts[:-1] == ("cfg",):
        shipped = _shipped() / (path.name if path.suffix == ".cfg" else f"{path.name}.cfg")
        return shipped if os.path.isfile(shipped) else None
    return None


def cfg_path(name: str | Path) -> Path:
    """The file `name` means: a path as it is, else a cfg of the package ("yolov3", "yolov3.cfg", "cfg/yolov3.cfg")."""
    path = Path(name)
    if os.path.lexists(path) and not os.path.isdir(path):
        return path  # whether it can be read is told when it is read
    if shipped := _of_package(path):
        return shipped
    raise UserError(
        f"'{shown_path(name)}' does not exist",
        todo=f"give a .cfg or .pt file, or one of: {', '.join(available_cfgs())}",
    )


def load(
    source: str | Path,
    weights: str | Path | None = None,
    classes: int | None = None,
    names: Sequence[str] | None = None,
    anchors: Anchors | None = None,
) -> Network:
    """A network from whatever describes one.

    Args:
        source: a cfg (or the name of one that comes with the package), our `.pt`, or one of
            YOLOv5, YOLOv8, YOLO11 or YOLO26.
        weights: `.weights` or `.pt` to fill it with; tensors that do not fit are logged, listed in
            ``net.load_report``, and keep their initial values.
        classes: number of classes; the heads are adapted where it differs. None: as many as `names`, else the source's.
        names: class names. Where a `.pt` has the same ones in another order, they are taken by name.
        anchors: per head, the anchors in pixels. None: those the weights were trained with, where a `.pt` says so
            and fits whole, else the source's.

    Raises:
        UserError: naming the file, and what would do instead.
    """
    classes = len(names) if classes is None and names is not None else classes
    if os.path.isdir(source) and not _of_package(source):
        source = network_in(source)
    for each in (source, weights):
        if each is not None and Path(each).suffix in EXPORTED_FILES:
            raise UserError(
                "is an exported file: it can be run (thinyolo val, predict, latency), and no more",
                where=each,
                todo="give the .pt that it was made of",
            )
    if Path(source).suffix == ".weights":
        raise UserError(
            "holds tensors but no structure",
            where=source,
            todo=f"give its cfg and pass it as weights: load('yolov3.cfg', weights='{source}')",
        )
    path = Path(source) if is_checkpoint(source) else cfg_path(source)
    if is_checkpoint(path):
        net = _adapted(_read_pt(path), classes, names, path)
    else:
        net = _fresh(read_cfg(path), classes, names)
    if weights is not None:
        _fill(net, Path(weights))
    if anchors is not None:
        net.with_anchors(anchors)
    return net


def _read_pt(path: Path) -> Network:
    net = _load_pt(path)
    _say_if_empty(net, path)
    return net


def _load_pt(path: Path) -> Network:
    """The network of a `.pt` of whichever program."""
    from models.ultralytics import is_ultralytics, load_ultralytics
    from models.yolov5 import is_yolov5, load_yolov5

    need_file(path, MAX_BYTES, where_to_get(path) or "check the path of the .pt")
    if not _is_ours(path):  # which is told by a look, the others by reading all that they name
        if is_yolov5(path):
            return load_yolov5(path)
        if is_ultralytics(path):
            return load_ultralytics(path)
    return from_checkpoint(read_checkpoint(path), path, take=True)


def _say_if_empty(net: Network, path: Path) -> None:
    """A warning where `net` says the same of every picture, because weights on every way through it are 0.

    A layer without weights is no fault by itself: sparsity training empties some, around which a shortcut leads.
    """
    empty = {number for number, layer in net.convolutions.items() if not _says_anything(layer)}
    heads = set(net.head_convolutions)
    for what, numbers in (("every convolution", set(net.convolutions)), ("every convolution of its heads", heads)):
        if numbers and numbers <= empty:
            say_once(
                logging.WARNING,
                "%s: the weights of %s are 0, so it says the same of every picture: is it the file you mean, or one "
                "that was never filled?",
                path,
                what,
            )
            break


def _says_anything(layer: Conv) -> bool:
    """Whether what comes out depends on what goes in."""
    scale = None if layer.bn is None else layer.bn.weight
    return bool(layer.conv.weight.any()) and (scale is None or bool(scale.any()))


def _is_ours(path: Path) -> bool:
    """Whether the pickle of a file begins as ours do."""
    try:
        with Archive(path) as file:
            return FORMAT.encode() in file.entry("data.pkl", MAX_PICKLE_BYTES)[:100]
    except UserError:
        return False


def _fresh(cfg: Cfg, classes: int | None, names: Sequence[str] | None) -> Network:
    """A network with initial weights."""
    if classes is not None:
        adapt_classes(cfg, classes)
    net = init_weights(Network(cfg, names))
    for number, backbone in net.backbones.items():
        load_pretrained(backbone, cfg.layers[number])
    return net


def _adapted(net: Network, classes: int | None, names: Sequence[str] | None, path: Path) -> Network:
    """`net` with other names; of some of its classes, where all names are among its own; or with new heads."""
    if classes is None or classes == net.classes:
        if names is not None:
            take_names(net, names, net.names, str(path))
        return net
    if (order := places_of(names or (), net)) and len(order) == classes:
        return only_classes(net, order, names or (), str(path))
    cfg = net.cfg.copy()
    changed = {str(number) for number in adapt_classes(cfg, classes)}
    new = init_weights(Network(cfg, names))
    new.meta = net.meta
    # A new head's channels come from nowhere.
    new.lineage = [
        {**entry, "layers": {layer: row for layer, row in entry["layers"].items() if layer not in changed}}
        for entry in net.lineage
    ]
    transfer(new, net.state_dict(), net.cfg.source)
    return new


def _fill(net: Network, path: Path) -> None:
    path = network_in(path) if os.path.isdir(path) else path
    if path.suffix == ".cfg":
        raise UserError("is a cfg: it holds no tensors", where=path, todo="pass a .weights or .pt file as weights")
    if is_checkpoint(path):
        other = _read_pt(path)
        if other.classes != net.classes and (order := places_of(net.names, other)):
            other = only_classes(other, order, net.names, str(path))
        transfer(net, other.state_dict(), str(path))
        if not net.load_report.unfit and not net.load_report.missing:
            _take_over(net, other, path)
    else:
        load_darknet(net, path)


def _take_over(net: Network, other: Network, path: Path) -> None:
    """What else a network brings whose every tensor is now `net`'s: ancestors, names, anchors, the way to resize."""
    net.lineage, net.meta = other.lineage, other.meta
    if KEY not in net.cfg.net.options and KEY in other.cfg.net.options:
        net.cfg.net.set(KEY, other.cfg.net.options[KEY])
    if numbers_only(net.names):
        net.names = other.names
    else:
        take_names(net, net.names, other.names, str(path))
    learnt = [spec.anchors for spec in other.specs]
    if [spec.anchors for spec in net.specs] != learnt:
        log.info("%s: anchors taken from the weights, which were trained with them: %s", net.cfg.source, learnt)
        net.with_anchors(learnt)


def transfer(net: Network, state: dict[str, torch.Tensor], source: str) -> LoadReport:
    """Copy the tensors of `state` that fit by name and shape into `net`; the rest is reported, never silent."""
    report = LoadReport(source)
    own = net.state_dict()
    with torch.no_grad():
        for name, tensor in own.items():
            if name not in state:
                report.missing.append(name)
            elif state[name].shape != tensor.shape:
                report.refuse(name, state[name].shape, tensor.shape)
            else:
                tensor.copy_(state[name])
                report.loaded.append(name)
    for name in state:
        if name not in own:
            report.unfit[name] = "no such tensor in this network"
    if not any(name.endswith("conv.weight") for name in report.loaded):
        raise UserError(
            f"no convolution of it fits {net.cfg.source}",
            where=source,
            todo="give weights of this network, or a .pt, which brings its own structure, as the network",
        )
    report.log(net.cfg)
    net.load_report = report
    return report
