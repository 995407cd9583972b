"""Damaged networks, trainings and options: cfg, weights, checkpoints of ours and of others, tables, command lines."""

from __future__ import annotations

import functools
import io
import random
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml

import models
from common.command_line import parse_config
from common.errors import UserError
from common.options import load_config, options, to_dict
from common.rundir import ARGS, LAST
from engine import checkpoints
from engine.config import TrainConfig
from engine.plots import read_results
from engine.trainer import Trainer
from models.lineage import identity_lineage
from pipeline.distil_options import AblateConfig
from pipeline.prune_options import PruneConfig
from tests import nets
from tests.engine.job import make_network, make_pictures, make_trainer
from tests.models import ultralytics_program, yolov5_program
from thinyolo.main import COMMANDS

Rng = random.Random
NUMBERS = (
    "0",
    "-1",
    "1",
    "2",
    "3",
    "7",
    "64",
    "1e9",
    "1e300",
    "-1e300",
    "1e999",
    "nan",
    "inf",
    "1.5",
    "",
    "x",
    "9" * 400,
)
NUMBERS += (
    "65536",
    "2147483648",
    "1_0",
    "0x10",
    "１",
    "1,2",
    "-0",
    "+3",
    "1e-300",
    "true",
    "~",
    "=",
    "!!binary a",
    "*a",
)
TEXTS = ("", "\0", "é" * 300, "../" * 50, "/dev/zero", "a" * 5000, "-", "--", "[", "{", "\n", "none", "auto", "\ud800")
VALUES: tuple[Any, ...] = (None, True, 0, -1, 2**70, 1e300, float("nan"), "", "x", b"", [], {}, (), [None], {"a": 1})


def _bytes(rng: Rng, raw: bytes) -> bytes:
    """Some bytes flipped, dropped, repeated, or the rest cut off."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 3, 20))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 | 1 if place < len(changed):
                changed[place] ^= 1 << rng.randrange(8)
            case 2:
                del changed[place : place + rng.choice((1, 4, 100))]
            case 3:
                changed[place:place] = rng.choice((b"\0", b"\xff\xfe", b"\n", changed[: rng.randrange(64)]))
            case 4 if rng.random() < 0.3:
                del changed[place:]
    return bytes(changed)


def _lines(rng: Rng, text: str) -> str:
    """Some lines dropped, doubled or moved, and some numbers of them swapped."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 6))):
        place = rng.randrange(len(lines))
        name, sign, value = lines[place].partition("=" if "=" in lines[place] else ":")
        match rng.randrange(6):
            case 0 if len(lines) > 1:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines)), lines[place])
            case 2:
                lines[place] = rng.choice(TEXTS).replace("\ud800", "") + lines[place]
            case 3 if "," in value:
                parts = value.split(",")
                parts[rng.randrange(len(parts))] = rng.choice(NUMBERS)
                lines[place] = f"{name}{sign}{','.join(parts)}"
            case _ if sign:
                lines[place] = f"{name}{sign} {rng.choice(NUMBERS)}"
    return "\n".join(lines) + "\n"


def _plain(rng: Rng, value: Any, depth: int = 0) -> Any:
    """Plain data with one part absent, of another type, or with another number in it."""
    inside = value if isinstance(value, (dict, list)) and len(value) else None
    if inside is None or rng.random() < 0.15 * min(depth, 3):
        return _other(rng, value)
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    key = rng.choice(list(copy)) if isinstance(value, dict) else rng.randrange(len(copy))
    if rng.random() < 0.15:
        del copy[key]
    elif isinstance(value, dict) and rng.random() < 0.05:
        copy[rng.choice((0, None, "x", ("a",)))] = copy.pop(key)
    else:
        copy[key] = _plain(rng, copy[key], depth + 1)
    return copy


def _other(rng: Rng, value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point() and rng.random() < 0.8:
        return rng.choice(
            (
                value.flatten()[:1],
                value * float("nan"),
                value.to(torch.float64),
                value.to(torch.int64),
                value.unsqueeze(0),
                value.to_sparse(),
                torch.full_like(value, float("inf")),
                value[:0] if value.ndim else value.reshape(1)[:0],
            )
        )
    if isinstance(value, str) and "\n" in value:
        return _lines(rng, value)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((value + 1, -value, value * 10**9, float(value), str(value)))
    return rng.choice(VALUES)


def _archive(rng: Rng, raw: bytes) -> bytes:
    """A zip file: its bytes damaged, or one of its entries with the right checksum."""
    if rng.random() < 0.3:
        return _bytes(rng, raw)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        hit = next(name for name in names if name.endswith("data.pkl")) if rng.random() < 0.8 else rng.choice(names)
        for name in names:
            content = old.read(name)
            if name == hit:
                content = _bytes(rng, content)
                if rng.random() < 0.1:
                    continue
            new.writestr(name, content)
    return out.getvalue()


# -- the valid files ---------------------------------------------------------------------------------------------------


@functools.cache
def _saved(kind: str) -> bytes:
    """A sound file of this kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.pt"
        match kind:
            case "own":
                net = make_network(living=True)
                net.lineage = [identity_lineage(net, "baseline")]
                models.save(net, path)
            case "weights":
                net = models.load(_cfg_file(Path(folder)))
                models.save_darknet(net, Path(folder) / "out.cfg", path)
            case "yolov5":
                yolov5_program.checkpoint(yolov5_program.Model("n", nc=2, names=["a", "b"]), path)
            case "yolov8":
                ultralytics_program.checkpoint(ultralytics_program.DetectionModel(8), path)
            case "last":
                _trainer()._save_last()
                path = _trainer().run_dir / LAST
        return path.read_bytes()


def _cfg_file(folder: Path) -> Path:
    path = folder / "net.cfg"
    path.write_text(nets.RESIDUAL)
    return path


@functools.cache
def _trainer() -> Trainer:
    """A training of one step, in a folder that goes with this process."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-training"))
    trainer = make_trainer(place / "run", [f"--data={make_pictures(place, 4, 2)}", "--epochs=1"])
    trainer._step(next(iter([[batch] for batch in trainer.feed.batches(0, 0)])))
    return trainer


@functools.cache
def _content(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(_saved(kind)), weights_only=True)
    return content


# -- making and reading ------------------------------------------------------------------------------------------------

CFGS = [nets.RESIDUAL, nets.CSP, nets.dual()]


def make_cfg(rng: Rng, folder: Path) -> None:
    text = rng.choice(CFGS)
    if rng.random() < 0.7:
        (folder / "x.cfg").write_text(_lines(rng, text), encoding="utf-8", errors="replace")
    elif rng.random() < 0.7:
        (folder / "x.cfg").write_bytes(_bytes(rng, text.encode()))
    else:  # sections in any order and number
        parts = [f"[{part}" for part in text.split("[")[1:]]
        middle = "\n".join(rng.choices(parts, k=rng.choice((1, 5, 50, 400))))
        (folder / "x.cfg").write_text(parts[0] + "\n" + middle)


def make_pt(kind: str) -> Callable[[Rng, Path], None]:
    def make(rng: Rng, folder: Path) -> None:
        path = folder / LAST if kind == "last" else folder / "x.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in ("own", "last") and rng.random() < 0.6:
            content = _content(kind)
            for _ in range(rng.choice((1, 1, 2))):
                content = _plain(rng, content)
            try:
                torch.save(content, path)
                return
            except (TypeError, RuntimeError, UnicodeEncodeError):
                pass
        path.write_bytes(_archive(rng, _saved(kind)))

    return make


def make_weights(rng: Rng, folder: Path) -> None:
    _cfg_file(folder)
    raw = _saved("weights")
    path = folder / "x.weights"
    if rng.random() < 0.05:
        with open(path, "wb") as handle:
            handle.truncate(rng.choice((10**6, 10**9, 10**11)))
    else:
        path.write_bytes(_bytes(rng, raw) if rng.random() < 0.7 else raw[: rng.randrange(len(raw))])


CONFIGS = [TrainConfig, PruneConfig, AblateConfig]


def make_yaml(rng: Rng, folder: Path) -> None:
    for number, cls in enumerate(CONFIGS):
        text = yaml.safe_dump(to_dict(cls()), sort_keys=False)
        lines = text.splitlines(keepends=True)
        text = "".join(rng.sample(lines, rng.randrange(1, 8))) if rng.random() < 0.7 else text
        changed = _lines(rng, text).encode(errors="replace") if rng.random() < 0.7 else _bytes(rng, text.encode())
        (folder / f"{number}.yaml").write_bytes(changed)
        (folder / f"run{number}").mkdir()
        (folder / f"run{number}" / ARGS).write_bytes(changed)


def read_yamls(folder: Path) -> None:
    number = int.from_bytes((folder / "0.yaml").read_bytes()[-3:], "little") % len(CONFIGS)
    load_config(CONFIGS[number], folder / f"run{number}")
    with suppress(UserError):
        parse_config(CONFIGS[number], ["--resume", str(folder / f"run{number}")])
    parse_config(CONFIGS[number], ["--hyp", str(folder / f"{number}.yaml")])


TABLE = "epoch,step,train/box,val/mAP50\n0,2,1.5,0.1\n1,4,1.25,\n2,6,1,0.3\n"


def make_table(rng: Rng, folder: Path) -> None:
    raw = TABLE.encode() * rng.choice((1, 1, 1000))
    raw = _bytes(rng, raw) if rng.random() < 0.7 else raw.replace(b"1", rng.choice(NUMBERS).encode())
    (folder / "results.csv").write_bytes(rng.choice((raw, raw, raw.replace(b",", b'"'), b"x" * 200000 + raw)))


def make_words(rng: Rng, folder: Path) -> None:
    command = rng.choice(list(COMMANDS))
    known = list(options(COMMANDS[command].options).values())
    words = []
    for _ in range(rng.randrange(1, 6)):
        each = rng.choice(known)
        if each.key in ("resume", "hyp"):
            words.append(f"{each.flag}={rng.choice(TEXTS)}")
            continue
        choices = each.metadata["choices"] or NUMBERS
        given = str(rng.choice((rng.choice(choices), rng.choice(NUMBERS), rng.choice(TEXTS), each.default)))
        words += rng.choice(([each.flag, given], [f"{each.flag}={given}"], [each.flag], [each.negative], [given]))
    (folder / "words").write_bytes("\x01".join([command, *words]).encode(errors="surrogatepass"))


def read_words(folder: Path) -> None:
    command, *words = (folder / "words").read_bytes().decode(errors="surrogatepass").split("\x01")
    try:
        COMMANDS[command].parse(words)
    except SystemExit:  # --help
        return


def read_last(folder: Path) -> None:
    checkpoints.finished(folder)
    trainer = _trainer()
    trainer.run_dir = folder
    trainer.resume()
    models.load(folder / LAST)


READERS: dict[str, tuple[Callable[[Rng, Path], None], Callable[[Path], object]]] = {
    "cfg": (make_cfg, lambda folder: models.load(folder / "x.cfg", classes=2)),
    "weights": (make_weights, lambda folder: models.load(folder / "net.cfg", weights=folder / "x.weights")),
    "pt": (make_pt("own"), lambda folder: models.load(folder / "x.pt")),
    "pt of yolov5": (make_pt("yolov5"), lambda folder: models.load(folder / "x.pt")),
    "pt of yolov8": (make_pt("yolov8"), lambda folder: models.load(folder / "x.pt")),
    "last.pt": (make_pt("last"), read_last),
    "options": (make_yaml, read_yamls),
    "results.csv": (make_table, lambda folder: read_results(folder / "results.csv")),
    "command line": (make_words, read_words),
}
"""Name -> what writes a case into a folder, and what reads it: a result or a `UserError` is what may come out."""
