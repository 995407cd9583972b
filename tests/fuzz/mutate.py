"""Damage: bytes, numbers, lines, encodings, and what stands where a file should."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

WORDS = (
    "0 -1 1 2 0.5 -0.5 1.5 nan inf -inf 1e999 -1e999 1e300 1e-300 1e9 4294967296 9223372036854775808 "
    "0x10 1_0 0.0 -0 +1 .5 1e 1e5 ٣ 007 1/2 true null"
)
NUMBERS = (
    *WORDS.split(),
    "9" * 400,
    "9" * 5000,
    "",
)
TOKENS = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b"\t", b"\x0b", b"\x0c", b"\x1c", b"\xc2\x85"),
    *(
        b"\xe2\x80\xa8",
        b"\xed\xa0\x80",
        b"\xe9",
        b" ",
        b",",
        b":",
        b"- ",
        b"#",
        b"=",
        b"/",
        b"\\",
        b"../",
        b"~",
        b"~nouser/",
    ),
    *(
        b"&a ",
        b"*a",
        b"!!binary ",
        b"!!python/object:os.system ",
        b"<<: ",
        b"? ",
        b"| ",
        b"> ",
        b"---\n",
        b"%YAML 1.1\n",
    ),
    *(b"{", b"}", b"[", b"]", b'"', b"'", b"[" * 2000, b"{" * 2000, b"a" * 300, b"<", b">", b"&", b"<a>", b"</a>"),
    *(b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"\\ud800", b"\\u0000", b"/dev/zero", b"/dev/full", b"/proc/self/mem"),
)


def damaged(rng: random.Random, raw: bytes) -> bytes:
    """`raw` after one to four random changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        raw = rng.choice((_flip, _flip, _cut, _double, _insert, _insert, _number, _number, _lines, _encoded))(rng, raw)
    return raw[: 2**20]


def _place(rng: random.Random, raw: bytes) -> int:
    return rng.randrange(len(raw) + 1)


def _flip(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _cut(rng: random.Random, raw: bytes) -> bytes:
    first, last = sorted((_place(rng, raw), _place(rng, raw)))
    return rng.choice((raw[:first], raw[first:], raw[:first] + raw[last:], b""))


def _double(rng: random.Random, raw: bytes) -> bytes:
    first, last = sorted((_place(rng, raw), _place(rng, raw)))
    place = _place(rng, raw)
    return raw[:place] + raw[first:last] * rng.choice((1, 1, 2, 50)) + raw[place:]


def _insert(rng: random.Random, raw: bytes) -> bytes:
    place = _place(rng, raw)
    return raw[:place] + rng.choice(TOKENS) + raw[place:]


def _number(rng: random.Random, raw: bytes) -> bytes:
    found = list(re.finditer(rb"-?\d+(\.\d+)?", raw))
    if not found:
        return raw
    match = rng.choice(found)
    return raw[: match.start()] + rng.choice(NUMBERS).encode() + raw[match.end() :]


def _lines(rng: random.Random, raw: bytes) -> bytes:
    lines = raw.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines[: rng.randrange(len(lines)) + 1] + rng.choices(lines, k=rng.choice((0, 1, 5))))


def _encoded(rng: random.Random, raw: bytes) -> bytes:
    text = raw.decode("utf-8", errors="replace")
    return text.encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "cp037")), errors="replace")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """The files of a case, by their paths below `folder`."""
    for name, raw in files.items():
        path = folder / os.fsdecode(name.encode("utf-8", "surrogateescape"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


def mistaken(rng: random.Random, path: Path) -> None:
    """Something that is no file where a file was: a folder, a pipe, a device, a link to nowhere or to itself."""
    path.unlink(missing_ok=True)
    kind = rng.choice(("folder", "pipe", "zero", "nowhere", "itself", "absent", "secret"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "secret":
        path.write_bytes(b"x")
        path.chmod(0)
    elif kind != "absent":
        path.symlink_to({"zero": "/dev/zero", "nowhere": "/nowhere/at/all", "itself": path.name}[kind])


def damage(rng: random.Random, folder: Path, files: dict[str, bytes], targets: tuple[str, ...]) -> None:
    """Write the files of a case with one or two of `targets` damaged."""
    write(folder, files)
    for name in rng.sample(targets, k=rng.choice((1, 1, min(2, len(targets))))):
        if rng.random() < 0.08:
            mistaken(rng, folder / name)
        else:
            (folder / name).write_bytes(damaged(rng, files[name]))
