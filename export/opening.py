"""Any network in a file, opened: `.pt`, Darknet, ONNX, OpenVINO, TensorRT."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common.cores import usable_threads
from common.errors import UserError
from common.log import log
from common.reading import shown_path, user_path, why_no_file
from common.rundir import chosen_network
from data import DataSpec, load_spec
from data.describe import names_listed
from engine.config import parse_size
from export.formats import CAN_RUN, PROGRAMS
from export.options import FILES, NetworkOptions
from export.runtimes import Opened, Runtime
from models.classes import class_order, numbers_only
from models.dropping import only_heads
from models.heads import ONE_TO_MANY, ONE_TO_ONE
from models.network import Network
from models.official import where_to_get
from models.resize import AUTO, with_resize


def open_model(
    path: str | Path,
    cfg: str = "",
    runtime: str = "auto",
    *,
    heads: str = "auto",
    names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 0,
    device: str = "",
) -> Opened:
    """The network in the file `path`, in evaluation mode, as a `Network` or a `Runtime`.

    Args:
        cfg: the cfg of a `.weights` file, or its name.
        runtime: one of `RUNTIMES`, or "auto".
        heads: which detect, where there are two kinds; the others are left out (see `models.only_heads`).
        names: class names that replace the file's.
        size: (H, W), where a network of PyTorch is to be run by another runtime; rounded up as by `input_size`.
        threads: CPU threads of runtimes other than PyTorch; 0: as many as torch has.
        device: of PyTorch; "" is a GPU if there is one.

    Raises:
        UserError: the file is absent, its ending is unknown, the runtime cannot run it or is not installed.
    """
    import torch

    path = chosen_network(path)
    if reason := why_no_file(path):
        todo = where_to_get(path) or f"give {FILES}, or a run's folder"
        raise UserError(f"{shown_path(path)} {reason}", todo=todo)
    if path.suffix not in CAN_RUN:
        raise UserError(f"nobody here can run a file called *{path.suffix}", where=path, todo=f"give {FILES}")
    able = CAN_RUN[path.suffix]
    runtime = able[0] if runtime == "auto" else runtime
    if runtime not in able:
        raise UserError(f"{runtime} does not run *{path.suffix}", where=path, todo=f"--runtime {' or '.join(able)}")
    threads = threads or torch.get_num_threads()
    if "torch" not in able:
        return _renamed(_with_heads(PROGRAMS[runtime].load()(path, threads), heads), names, path)
    cfg_path, weights = _darknet_pair(path, cfg)
    names = names_beside(weights) or names
    if runtime == "opencv" and cfg_path is not None and weights.suffix == ".weights":
        from export.opencv import open_opencv

        return open_opencv(cfg_path, threads, weights, names)
    net = only_heads(_open_network(cfg_path, weights, names).for_pictures(), heads)
    if runtime == "torch":
        return _on_device(net, device)
    return _from_memory(net, runtime, rounded_up(size or net.image_size, net.max_stride), threads, path)


def _with_heads(file: Runtime, heads: str) -> Runtime:
    """`file`, if it detects with such heads: those of an exported file are chosen when it is written."""
    read = ONE_TO_ONE if file.description.spec.one_to_one else ONE_TO_MANY
    if heads not in ("auto", read):
        raise UserError(
            f"--heads {heads}: this file detects with {read} heads",
            where=file.path,
            todo=f"leave it out, or export the network anew: thinyolo export --weights FILE.pt --heads {heads}",
        )
    return file


def _from_memory(net: Network, runtime: str, size: tuple[int, int], threads: int, path: str | Path) -> Runtime:
    """A PyTorch network as another runtime would run it; nothing is left on the disk."""
    from export.description import describe
    from export.onnx_graph import finished, model_of
    from export.to_onnx import onnx_model

    model = finished(model_of(onnx_model(net, size)), describe(net, size))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        file.write_bytes(model.SerializeToString())
        found = PROGRAMS[runtime].load()(file, threads)
    found.path = Path(path)
    return found


def _darknet_pair(path: Path, cfg: str) -> tuple[str | None, Path]:
    """(cfg, weights) of a file: of `x.cfg` the weights, and of exported `x.weights` the cfg, that lie beside it."""
    if path.suffix == ".cfg":
        weights = path.with_suffix(".weights")
        if not os.path.isfile(weights):
            raise UserError(
                f"holds no weights, and there is no {weights.name} beside it",
                where=path,
                todo=f"give the weights: --model FILE.weights --cfg {path}",
            )
        return cfg or str(path), weights
    if path.suffix == ".weights" and not cfg:
        beside = path.with_suffix(".cfg")
        if not (os.path.isfile(beside) and os.path.isfile(path.with_suffix(".names"))):
            raise UserError(f"{path} holds tensors but no structure", todo="add --cfg with its cfg file")
        return str(beside), path
    return cfg or None, path


def names_beside(weights: Path) -> list[str] | None:
    """The class names that `thinyolo export --to darknet` leaves beside a `.weights` file."""
    if weights.suffix != ".weights" or not os.path.isfile(path := weights.with_suffix(".names")):
        return None
    return class_names(str(path))


def _open_network(cfg: str | None, weights: Path, names: Sequence[str] | None) -> Network:
    """A network whose every tensor is filled: an untrained part would say anything."""
    import models

    net = models.load(cfg, weights=weights, names=names) if cfg else models.load(weights)
    if (report := net.load_report) is not None and (report.missing or report.unfit):
        if classes := report.other_classes(net.cfg):
            raise UserError(
                f"detects {classes[0]} classes, and {classes[1]} are named",
                where=weights,
                todo="give by --data the data set it was trained on; or train it on this one first: thinyolo train",
            )
        gaps = [*report.missing, *report.unfit]
        problem = f"does not fill {cfg}: {len(gaps)} tensors lack or do not fit, the first is {gaps[0]}"
        raise UserError(problem, where=weights, todo="give the cfg it was trained with, and by --data its classes")
    return _renamed(net, names, weights).eval()  # type: ignore[return-value]


def _renamed(net: Opened, names: Sequence[str] | None, where: Path) -> Opened:
    if names is not None:
        if class_order(names, net.names) is not None:  # its own say which is which
            return net
        if len(names) != net.classes:
            problem = f"there are {len(names)} class names, the network {net.classes} classes"
            todo = "give the data set the network was trained on"
            if not numbers_only(net.names):
                todo += f", or leave --data out: it has names of its own ({', '.join(map(str, net.names[:5]))})"
            raise UserError(problem, where=where, todo=todo)
        net.names = list(names)
    return net


def _on_device(net: Network, device: str) -> Network:
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return net.to(torch.device(f"cuda:{name}" if name.isdigit() else name))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}", todo="cpu, cuda or cuda:0") from error


def open_chosen(options: NetworkOptions, path: str | Path, names: Sequence[str] | None = None) -> Opened:
    """`open_model` as the options ask for it; `names` replace the file's class names."""
    import torch

    if threads := usable_threads(options.threads):
        torch.set_num_threads(threads)
    net = open_model(
        path,
        options.cfg,
        options.runtime,
        heads=options.heads,
        names=names,
        size=parse_size(options.imgsz) if options.imgsz else None,
        threads=threads,
        device=options.device,
    )
    return with_resizing(net, options.resize, path)


def with_resizing(net: Opened, way: str, path: str | Path) -> Opened:
    """`net` with its pictures resized as ``--resize`` says ("auto": as its file does), in place."""
    if isinstance(net, Network):
        return with_resize(net, way, path)
    net.resize = net.resize if way == AUTO else way
    return net


def class_names(path: str) -> list[str]:
    """The class names of a data set's yaml or Darknet `.data`, or of a `.names` file."""
    if Path(path).suffix not in (".names", ".txt"):
        return list(load_spec(path).names)
    return list(names_listed(user_path(path)))


def in_classes_of(net: Opened, spec: DataSpec) -> DataSpec:
    """The data set with its classes numbered as a network has them, where the network's names are its own or more.

    Where it has as many classes, but others, that is said: its mAP means little then.
    """
    names = [str(name) for name in net.names]
    if names == list(spec.names):
        return spec
    order, fewer = class_order(spec.names, names), len(spec.names) < len(names)
    if order is not None and not (fewer and spec.single_cls):  # whose one class stands for all
        if fewer:
            log.info("the data set's classes are among the network's %d: they are taken by name", len(names))
        elif list(order) != list(range(len(names))):
            log.info("the data set has the network's classes in another order: they are taken by name")
        return spec.among(names, order)
    if len(names) != len(spec.names):
        return spec
    if not numbers_only(names):
        log.warning(
            "the data set's classes are %s, the network's %s: class by number, mAP is right only if they are the same",
            ", ".join(spec.names[:10]),
            ", ".join(names[:10]),
        )
    return spec


def rounded_up(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """The least (H, W) not below `size` that `stride` divides."""
    height, width = size
    return -(-height // stride) * stride, -(-width // stride) * stride


def input_size(imgsz: str, net: Opened) -> tuple[int, int]:
    """(H, W) from `--imgsz`, rounded up to the network's largest stride, or the network's own.

    Raises:
        UserError: the file is made for another size.
    """
    if not imgsz:
        return net.image_size
    height, width = parse_size(imgsz)
    stride = net.max_stride
    size = rounded_up((height, width), stride)
    if size != (height, width):
        log.info("--imgsz %sx%s is rounded up to %sx%s, multiples of %s", width, height, size[1], size[0], stride)
    fixed = getattr(net, "fixed_size", None)
    if fixed and fixed != size:
        raise UserError(
            f"--imgsz {imgsz}: the file takes {fixed[1]}x{fixed[0]} (WIDTHxHEIGHT) only",
            where=getattr(net, "path", None),
            todo="leave --imgsz out, or export the network anew with that --imgsz, or with --dynamic",
        )
    return size
