"""Which hostile file goes through which entry; a case is a command of `thinyolo` and the hostile file that it meets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

import models
from common.rundir import ARGS, BEST, LAST
from export.description import describe
from models.network import Network
from tests import nets
from tests.cli.material import NAMES, QUICK, make_set
from tests.hostile.files import BOMBS, DESCRIPTIONS, PICKLES, TEXTS, laughing
from tests.hostile.graphs import NCNN, ONNX, OPENVINO, forged_ncnn, forged_onnx, forged_openvino
from tests.hostile.litert import LITERT, forged_litert
from tests.hostile.others import OTHERS

RUN = Path("runs/train_prune/run")
LINE = ("--data", "data.yaml", *QUICK)
PRUNE = ("--stages", "baseline,prune", "--prune", "channels=0.7")
TIMM = "\n[timm]\nmodel=mobilenetv4_conv_small_035\nfeatures=8,16\npretrained=hostile.pt\n"
Words = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One command that is given one hostile file.

    Attributes:
        kind: of the file, a row of the table.
        what: it is.
        entry: how it comes in.
        make: writes it into the folder, which is the working directory; what runs it makes the file given.
        words: of the command.
        may_end_well: where what is harmless in it may be used.
    """

    kind: str
    what: str
    entry: str
    make: Callable[[Path, Path], object]
    words: Words
    may_end_well: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}, {self.entry}"


CHECKPOINTS: dict[str, tuple[str, Words]] = {
    "prune --weights": ("hostile.pt", ("prune", "--weights", "hostile.pt", *LINE, "--stages", "prune")),
    "prune --cfg --weights": ("hostile.pt", ("prune", "--cfg", "net.cfg", "--weights", "hostile.pt", *LINE)),
    "train --weights": ("hostile.pt", ("train", "--weights", "hostile.pt", *LINE)),
    "distill --weights": ("hostile.pt", ("distill", "--weights", "hostile.pt", "--t_weights", "ok.pt", *LINE)),
    "distill --t_weights": ("hostile.pt", ("distill", "--weights", "ok.pt", "--t_weights", "hostile.pt", *LINE)),
    "ablate --t_weights": ("hostile.pt", ("ablate", "--weights", "ok.pt", "--t_weights", "hostile.pt", *LINE)),
    "[timm] pretrained": ("hostile.pt", ("train", "--cfg", "timm.cfg", *LINE)),
    "--resume, last.pt": (f"{RUN}/baseline/{LAST}", ("prune", "--resume", str(RUN))),
    "--resume, best.pt": (f"{RUN}/baseline/{BEST}", ("prune", "--resume", str(RUN))),
    "--resume, start.pt": (f"{RUN}/start.pt", ("prune", "--resume", str(RUN))),
    "--resume, pruned.pt": (f"{RUN}/pruned/pruned.pt", ("prune", "--resume", str(RUN))),
    "val --model": ("hostile.pt", ("val", "--model", "hostile.pt", "--data", "data.yaml")),
    "val --model RUN": (f"{RUN}/pruned/pruned.pt", ("val", "--model", str(RUN), "--data", "data.yaml")),
    "predict --model": ("hostile.pt", ("predict", "--model", "hostile.pt", "--source", "images/val")),
    "predict --compare": ("hostile.pt", ("predict", "--compare", "ok.pt", "hostile.pt", "--source", "images/val")),
    "export --weights": ("hostile.pt", ("export", "--weights", "hostile.pt", "--to", "darknet")),
    "latency": ("hostile.pt", ("latency", "hostile.pt", "--rounds", "1", "--no-memory")),
}
"""Where a checkpoint comes in: the place of the file, and the command."""
FILES: dict[str, Callable[[str], Words]] = {
    "val --model": lambda file: ("val", "--model", file, "--data", "data.yaml", "--device", "cpu"),
    "predict --model": lambda file: ("predict", "--model", file, "--source", "images/val"),
    "latency": lambda file: ("latency", file, "--rounds", "1", "--no-memory"),
}
"""Where any file of a network comes in."""


def make_material(folder: Path, main: Callable[[list[str]], int]) -> None:
    """A data set, a sound network in files, and the run of a network that was trained and cut, whose end is lacking."""
    make_set(folder)
    text = nets.RESIDUAL.replace("classes=3", "classes=2").replace("filters=24\nsize=1", "filters=21\nsize=1")
    (folder / "net.cfg").write_text(text)
    small = TIMM + nets.conv(21, 1, activation="linear", bn=0) + nets.yolo("3,4,5", classes=2)
    (folder / "timm.cfg").write_text(nets.NET + small)
    torch.manual_seed(0)
    net = Network(models.parse_cfg(text), list(NAMES)).eval()
    models.save(net, folder / "ok.pt")
    if main(["prune", "--cfg", "net.cfg", *LINE, *PRUNE, "--name", "run"]):
        raise RuntimeError("the sound run failed")
    (folder / RUN / "report.html").unlink()
    about = describe(net)
    if find_spec("onnx") and find_spec("onnxruntime"):
        forged_onnx(folder / "ok.onnx", {}, net)
    (folder / "about.json").write_text(json.dumps(about.metadata()))


def cases() -> Iterator[Case]:
    """All of them."""
    for entry, (place, words) in CHECKPOINTS.items():
        for kind, files in (("pickles", PICKLES), ("bombs in checkpoints", BOMBS)):
            for what, make in files.items():
                yield Case(kind, what, entry, _at(place, make), words)
    for suffix in (".pth", ".weights", ".ckpt", ".onnx", ".xml", ".param", ".engine", ".cfg", ".yaml"):
        for entry, command in FILES.items():
            make = PICKLES["by_system, protocol 2"]
            file = f"hostile{suffix}"
            yield Case("pickles", f"under another name, *{suffix}", entry, _at(file, make), command(file))
    for what, text in TEXTS.items():
        for entry, place, words in (
            ("args.yaml", f"{RUN}/{ARGS}", ("prune", "--resume", str(RUN))),
            ("--hyp", "hyp.yaml", ("train", "--cfg", "net.cfg", *LINE, "--hyp", "hyp.yaml")),
            ("data yaml", "data.yaml", ("check", "data.yaml")),
            ("data yaml in training", "data.yaml", ("train", "--cfg", "net.cfg", *LINE)),
        ):
            for key in ("names", "train", "nc") if place == "data.yaml" else ("lr0", "cfg", "unheard_of"):
                fine = key in ("names", "cfg") or "word" in what
                yield Case("YAML", f"{key}: {what}", entry, _with(place, key, text), words, fine)
    for kind, present, rows, forge in (
        ("ONNX", "onnxruntime", ONNX, forged_onnx),
        ("OpenVINO", "openvino", OPENVINO, forged_openvino),
        ("ncnn", "ncnn", NCNN, forged_ncnn),
        ("LiteRT", "ai_edge_litert", LITERT, forged_litert),
    ):
        if find_spec(present) is None:
            continue
        ending = {"ONNX": "onnx", "OpenVINO": "xml", "ncnn": "param", "LiteRT": "tflite"}[kind]
        file = f"hostile.{ending}"
        for entry, command in FILES.items():
            for what, make in rows.items():
                yield Case(kind, what, entry, _at(file, make), command(file))
            for what, said in DESCRIPTIONS.items():
                fine = what in ("names that are HTML", "a batch of 10^9", "a range without end")
                at = _at(file, lambda path, _, said=said, forge=forge: forge(path, said))
                yield Case(kind, f"says {what}", entry, at, command(file), fine)
    yield from (Case(*row) for row in OTHERS)


def _at(place: str, make: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
    def made(folder: Path, marker: Path) -> None:
        path = folder / place
        if path.exists():
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.parent / "ok.pt"
        if not beside.exists():
            shutil.copy(folder / "ok.pt", beside)
        make(path, marker)

    return made


def _with(place: str, key: str, text: Callable[[Path], str]) -> Callable[[Path, Path], object]:
    """A YAML file with another value of one key."""

    def made(folder: Path, marker: Path) -> None:
        path = folder / place
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if not line.startswith(f"{key}:")]
        path.write_text("\n".join([laughing().rstrip(), *kept, f"{key}: {text(marker)}", ""]))

    return made
