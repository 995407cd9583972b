"""The container of a torch file, torch's zip format (torch >= 1.6): ``<name>/data.pkl``, and one uncompressed entry per
storage, ``<name>/data/<key>``. Opened and checked here, entry by entry; what the pickle means is for `models.unpickle`.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from common.errors import UserError
from common.reading import need_file

MAX_PICKLE_BYTES = 64 << 20  # a checkpoint's pickle is about 1 MB: its tensors lie outside
MAX_OPCODES = 1_000_000  # one of the largest networks, with its training, has 100,000
MAX_LISTING = 8 << 20  # bytes of the list of an archive's entries: 60,000 of them
MAX_BYTES = 16 << 30  # of a file: more than the state of the largest network's training takes in float64
# What zipfile and zlib say of an archive with wrong bytes in it.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
)
PIECE = 1 << 20  # bytes read at a time
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before 1.6

AGAIN = "fetch it again and compare its size"


class Refused(Exception):
    """Something in the pickle that a checkpoint of plain layers and tensors does not need."""


Own = TypeVar("Own", bound="Archive")


class Archive:
    """A torch zip file, opened for reading; use it as a context manager.

    Raises:
        UserError: not a torch zip file, truncated, or compressed in a way torch does not write.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._storages: dict[str, Tensor] = {}
        self.bytes = need_file(self.path, MAX_BYTES, "check the path; else fetch the file again")
        try:
            if not zipfile.is_zipfile(self.path):
                raise self._not_a_zip()
            self._need_short_listing()
            self.zip = zipfile.ZipFile(self.path)
        except DAMAGED as error:
            raise self._error(f"cannot be read: {error}", todo="check the path; else fetch the file again") from error
        pickles = [name for name in self.zip.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            self.zip.close()
            raise self._error("is a zip file that torch.save did not write: no data.pkl", todo="check the path")
        self.prefix = pickles[0].removesuffix("data.pkl")

    def __enter__(self: Own) -> Own:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def _need_short_listing(self) -> None:
        """Refuse an archive whose entries would take seconds to be listed; zipfile reads them all when it opens it."""
        with open(self.path, "rb") as handle:
            end = zipfile._EndRecData(handle)  # type: ignore[attr-defined]
        if end and end[5] > MAX_LISTING:
            raise self._error("lists more entries than a checkpoint has", todo="check the path")

    def _error(self, problem: str, todo: str = AGAIN) -> UserError:
        return UserError(problem, where=self.path, todo=todo)

    def _not_a_zip(self) -> UserError:
        with open(self.path, "rb") as handle:
            legacy = handle.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC
        if legacy:
            return self._error(
                "is in the format torch.save used before torch 1.6, which is not read here",
                todo="re-save it with torch >= 1.6 in the program that made it",
            )
        return self._error("is not a torch file (no zip archive), or it is cut off")

    def entry(self, name: str, limit: int, exact: int | None = None) -> bytearray:
        """The bytes of one entry.

        Args:
            limit: the most it may have.
            exact: how many it has to have.

        Raises:
            UserError: it is absent, compressed, damaged (its checksum is compared), or not of this length.
        """
        try:
            info = self.zip.getinfo(self.prefix + name)
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > min(limit, self.bytes):
                raise self._error(f"its entry {info.filename} is compressed or too long ({info.file_size} bytes)")
            if exact is not None and info.file_size != exact:
                raise self._error(f"its entry {info.filename} has {info.file_size} bytes, and has to have {exact}")
            found, place = bytearray(info.file_size), 0
            with self.zip.open(info) as stream:  # piece by piece: no second copy of a whole entry
                while piece := stream.read(PIECE):
                    found[place : place + len(piece)] = piece
                    place += len(piece)
            if len(found) != info.file_size or place != info.file_size:
                raise self._error(f"its entry {info.filename} has {place} bytes, and says {info.file_size}")
            return found
        except KeyError:
            raise self._error(f"lacks its entry {self.prefix + name}") from None
        except DAMAGED as error:
            raise self._error(f"is damaged: {error}") from error

    def opcodes(self) -> Iterator[tuple[str, Any]]:
        """The pickle taken apart: (opcode, argument), not executed."""
        pickled = bytes(self.entry("data.pkl", MAX_PICKLE_BYTES))
        try:
            for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
                if number >= MAX_OPCODES:
                    raise self._error(
                        f"its pickle has more than {MAX_OPCODES:,} instructions, which no checkpoint needs",
                        todo="use only files that a training program saved, from a source you trust",
                    )
                yield opcode.name, argument
        except (ValueError, OverflowError, UnicodeError) as error:
            raise self._error(f"its pickle is damaged: {error}") from error

    def mentions(self) -> set[str]:
        """Every string and every `module.name` in the pickle."""
        return {
            argument.replace(" ", ".", 1) if opcode == "GLOBAL" else argument
            for opcode, argument in self.opcodes()
            if isinstance(argument, str)
        }

    def storage(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        """The storage `key` as a flat tensor of `count` elements; the entry's length has to agree."""
        if key not in self._storages:
            needed = count * dtype.itemsize
            raw = self.entry(f"data/{key}", self.bytes, exact=needed)
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(raw, dtype=dtype) if count else empty
        found = self._storages[key]
        if found.dtype != dtype or found.numel() != count:
            raise Refused(f"reads its storage {key} in two ways")
        return found
