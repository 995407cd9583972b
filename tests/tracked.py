"""What the W&B client wrote into an offline run, read back from the run's own file."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768


def records(folder: Path) -> Iterator[pb.Record]:
    """The records of an offline run. Its file is a LevelDB log: 32 KiB blocks of (crc, length, kind, data) chunks; a
    record is one chunk of kind 1 (whole) or kinds 2, 3.., 4 (first, middle, last). When a run returns, the client's own
    process may not have begun the file: no record yet."""
    file = next(folder.glob("*.wandb"), None)
    data = file.read_bytes() if file is not None else b""
    if len(data) < 7:
        return
    assert data[:4] == b":W&B"
    place, parts = 7, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:  # too little left in the block for a chunk's header
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        if place + 7 + length > len(data):
            return
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def history(folder: Path, count: int) -> list[dict]:
    """The committed rows; the client's own process may still be writing them when `finish` returns."""
    deadline = time.monotonic() + 20
    while len(rows := read_history(folder)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return rows


def read_history(folder: Path) -> list[dict]:
    rows = []
    for record in records(folder):
        if record.WhichOneof("record_type") == "history":
            row: dict = {}
            for item in record.history.item:
                *parents, last = item.nested_key or [item.key]
                inner = row
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                inner[last] = json.loads(item.value_json)
            rows.append(row)
    return rows


def recorded(row: dict, name: str) -> Any:
    """An entry of a row, None where there is none; the client nests names at each slash or leaves them as they are."""
    if name in row:
        return row[name]
    found: Any = row
    for part in name.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def settled(folder: Path) -> list[pb.Record]:
    """All records, once the client's own process has written the last one (the exit)."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = list(records(folder))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.1)
    return list(records(folder))


def start_of(folder: Path) -> pb.RunRecord:
    """How the run was opened: its name, group, job type and config."""
    return next(record.run for record in settled(folder) if record.WhichOneof("record_type") == "run")


def artifacts(folder: Path) -> dict[str, Any]:
    """The artifacts the run logged, by name."""
    found = settled(folder)
    logged = [record.artifact for record in found] + [record.request.log_artifact.artifact for record in found]
    return {each.name: each for each in logged if each.name}
