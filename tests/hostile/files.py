"""Hostile files, by what they try: pickles in every container, bombs, forged descriptions, texts that reach outside."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.models.test_unpickle import HOSTILE, Calls, archive, assembled, by_system, name, push

Make = Callable[[Path, Path], object]
"""Writes a file of its kind to the first path; what runs it makes the second."""
HUGE = 2**40
NET = "[net]\nwidth=64\nheight=64\n"


def _zipped(make: Callable[[Path], Any], protocol: int) -> Make:
    return lambda path, marker: archive(path, pickle.dumps(make(marker), protocol))


def _entries(path: Path, rows: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for entry, raw in rows:
            file.writestr(entry, raw)


def _system(marker: Path) -> bytes:
    return pickle.dumps(by_system(marker), 2)


def _sound(path: Path) -> Any:
    """The content of the checkpoint of ours that lies beside."""
    return torch.load(path.parent / "ok.pt", weights_only=True)


def _hidden(part: str) -> Make:
    """A checkpoint of ours that is whole, and runs something beside."""

    def make(path: Path, marker: Path) -> None:
        content = _sound(path)
        content[part]["more"] = by_system(marker)
        torch.save(content, path)

    return make


def _told(**parts: Any) -> Make:
    """A checkpoint of ours with other parts."""

    def make(path: Path, _: Path) -> None:
        content = _sound(path)
        for part, value in parts.items():
            content[part] = value
        torch.save(content, path)

    return make


def _laughs(depth: int = 60) -> list[Any]:
    """Lists of twice the list before: small in a file, endless to who walks through it."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found, found]
    return found


def _getattr_chain(path: Path, marker: Path) -> None:
    imported = name("builtins", "__import__") + push("os") + b"\x85R"
    system = name("builtins", "getattr") + imported + push("system") + b"\x86R"
    archive(path, assembled(system, push(f"touch {marker}"), b"\x85R"))


def _old_tar(path: Path, marker: Path) -> None:
    """torch's format of before 0.4: a tar of three pickles."""
    with tarfile.open(path, "w") as file:
        for entry in ("sys_info", "pickle", "storages", "tensors"):
            raw, info = _system(marker), tarfile.TarInfo(entry)
            info.size = len(raw)
            file.addfile(info, io.BytesIO(raw))


def _old_stream(path: Path, marker: Path) -> None:
    torch.save(by_system(marker), path, _use_new_zipfile_serialization=False)


def _scripted(path: Path, marker: Path) -> None:
    """TorchScript's container: code beside the pickle."""
    code = b"def forward(self, x):\n  return ops.aten.save(x)\n"
    raw = _system(marker)
    _entries(path, [("a/data.pkl", raw), ("a/code/__torch__.py", code), ("a/constants.pkl", raw)])


def _twice(path: Path, marker: Path) -> None:
    """Two entries of one name: a checker may look at the first, a loader at the second."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickle.dumps({}, 2))
        file.writestr("a/data.pkl", _system(marker))


def _sparse(path: Path, _: Path) -> None:
    with open(path, "wb") as handle:
        handle.truncate(100 * 2**30)


def _deflated(path: Path, _: Path) -> None:
    _entries(path, [("a/data.pkl", bytes(2**29))], zipfile.ZIP_DEFLATED)


def _lying(path: Path, marker: Path) -> None:
    """An entry that says it is a terabyte."""
    archive(path, _system(marker))
    raw = bytearray(path.read_bytes())
    place = raw.rindex(b"PK\x01\x02")
    raw[place + 20 : place + 28] = struct.pack("<II", 2**32 - 2, 2**32 - 2)
    path.write_bytes(raw)


PICKLES: dict[str, Make] = {
    **{f"{make.__name__}, protocol {protocol}": _zipped(make, protocol) for make in HOSTILE for protocol in (2, 4)},
    "a chain of getattr": _getattr_chain,
    "old opcodes that call": lambda path, marker: archive(path, b"(S'touch " + bytes(marker) + b"'\nios\nsystem\n."),
    "hidden in our extra": _hidden("extra"),
    "hidden in our meta": _hidden("meta"),
    "hidden in our state": _hidden("state"),
    "torch's old stream": _old_stream,
    "torch's old tar": _old_tar,
    "a pickle alone": lambda path, marker: path.write_bytes(_system(marker)),
    "TorchScript": _scripted,
    "an entry named twice": _twice,
    "entries that lead outside": lambda path, marker: _entries(
        path, [("../../data.pkl", _system(marker)), (f"{marker}", b"x"), ("..\\..\\x/data.pkl", b"x")]
    ),
    "an entry with a line end in its name": lambda path, marker: _entries(
        path, [("a\n\x1b[2J/data.pkl", _system(marker))]
    ),
    "a pickle as a tensor": lambda path, marker: _entries(
        path, [("a/data.pkl", _system(marker)), ("a/data/0", _system(marker))]
    ),
    "entries in UTF-8 look-alikes": lambda path, marker: _entries(path, [("\u0430/data.pkl", _system(marker))]),
}
"""What would run something."""

BOMBS: dict[str, Make] = {
    "a file of 100 GB": _sparse,
    "half a gigabyte of zeros, deflated": _deflated,
    "an entry that says it is 4 GB": _lying,
    "bytes that are said to be a terabyte": lambda path, _: archive(path, assembled(b"\x8e" + struct.pack("<Q", HUGE))),
    "a number of 2 GB": lambda path, _: archive(path, assembled(b"\x8b" + struct.pack("<i", 2**31 - 1))),
    "a bytearray of 16 GB": lambda path, _: archive(path, pickle.dumps(Calls(bytearray, 2**34), 2)),
    "codecs encode": lambda path, _: archive(
        path, assembled(name("_codecs", "encode"), push("a" * 1000), push("utf-8"), b"\x86R")
    ),
    "tuples nested 300,000 deep": lambda path, _: archive(path, assembled(b")", b"\x85" * 300_000)),
    "lists of lists, doubled 60 times": lambda path, _: archive(path, pickle.dumps(_laughs(), 2)),
    "the same in our meta": _told(meta={"teacher": {"a": _laughs()}, "seen": 1}),
    "the same in our extra": _told(extra={"a": _laughs(), "options": _laughs()}),
    "five million instructions": lambda path, _: archive(path, assembled(b"N0" * 2_500_000, b"N")),
    "a cfg of 10^9 filters": _told(cfg=f"{NET}[convolutional]\nfilters=1000000000\nsize=3\nstride=1\n"),
    "a cfg of 10,000 sections": _told(cfg=NET + "[route]\nlayers=-1\n" * 10_000),
    "a picture of 10^9 x 10^9": _told(cfg=NET.replace("64", "1000000000") + "[maxpool]\nsize=2\nstride=2\n"),
    "a million class names": _told(names=["a"] * 1_000_000),
    "a state that repeats one number": _told(state={"a": torch.zeros(1).expand(2**40)}),
}
"""What would fill the memory, or never end."""

TEXTS: dict[str, Callable[[Path], str]] = {
    "a tag that calls os.system": lambda marker: f"!!python/object/apply:os.system ['touch {marker}']",
    "a tag that makes a class": lambda marker: f"!!python/object/new:subprocess.Popen [['touch', '{marker}']]",
    "a tag that names a module": lambda marker: "!!python/module:os",
    "a tag of a name": lambda marker: "!!python/name:os.system",
    "aliases of aliases": lambda marker: "[*l8, *l8]",
    "an alias of itself": lambda marker: "&me [*me]",
    "nested 100,000 deep": lambda marker: "[" * 100_000,
    "a number of a million digits": lambda marker: "9" * 1_000_000,
    "a shell's word": lambda marker: f"$(touch {marker})",
    "a template's word": lambda marker: "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a format's word": lambda marker: "{0.__class__}%s%n",
}
"""Values in a YAML file."""


def laughing() -> str:
    """Lines of YAML in which l8 is 10^8 words."""
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9)]
    return "\n".join(lines) + "\n"


def nested_json(depth: int = 100_000) -> str:
    """JSON that exhausts the stack of who reads it by recursion."""
    return "[" * depth + "]" * depth


DESCRIPTIONS: dict[str, dict[str, str]] = {
    "names nested 100,000 deep": {"names": nested_json()},
    "heads nested 100,000 deep": {"heads": nested_json()},
    "a size of 10^9": {"size": "[1000000000, 1000000000]"},
    "a size of 10^400": {"size": f"[{'9' * 400}, 32]"},
    "a size of nan": {"size": "[NaN, Infinity]"},
    "a size below zero": {"size": "[-32, -32]"},
    "no size": {"size": "[]"},
    "a batch of 10^9": {"batch": "1000000000"},
    "a batch below zero": {"batch": "-1"},
    "a stride of 0": {"stride": "0", "any_size": "true"},
    "a stride of 10^9": {"stride": "1000000000", "any_size": "true"},
    "a million names": {"names": json.dumps(["a"] * 1_000_000)},
    "names that are no text": {"names": "[1, null, {}]"},
    "names that are HTML": {"names": json.dumps(["<script>alert(1)</script>", "<img src=x onerror=alert(1)>"])},
    "no names": {"names": "[]"},
    "no heads": {"heads": "[]"},
    "heads that are text": {"heads": '"x"'},
    "heads of no family": {"heads": '[{"family": "__import__"}]'},
    "outputs of no kind": {"outputs": "everything"},
    "boxes without NMS": {"outputs": "boxes", "nms": "null"},
    "boxes without end": {"outputs": "boxes", "nms": '{"max_det": 1e18, "conf": 0, "iou": 1}'},
    "a range that is none": {"pixel_range": "[0, 0]"},
    "a range without end": {"pixel_range": "[-Infinity, Infinity]"},
    "a resize of no kind": {"resize": "__class__"},
}
"""What an exported file may say about itself, in the place of what is true."""
