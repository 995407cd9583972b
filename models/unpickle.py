"""Read the tensors and plain data of a foreign torch file without executing its pickle.

A pickle is a program: whoever loads one runs it, and `torch.load` on another project's checkpoint needs that project's
classes besides. So this module walks the opcodes (`pickletools.genops`, which only takes a pickle apart) and builds
from them lists, dicts, numbers, strings and tensors, and a `Record` for every object of an unknown class. Nothing is
imported, no class is instantiated, no function named by the file is called. A name outside the short lists below is
refused, even when it is only mentioned. (Why not torch's own `weights_only` loader: docs/design.md.)

Our own checkpoints are read in the same way, and may hold nothing but plain data. The container is `models.archive`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from models.archive import Archive, Refused

# Names that stand for a value this module makes itself.
_KINDS = "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"
_TYPES = "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"
STORAGES = {f"torch.{kind}Storage": getattr(torch, dtype) for kind, dtype in zip(_KINDS, _TYPES)}
REBUILD_TENSOR, REBUILD_PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
# How a module that was fused for inference names the method it runs; becomes a `Record`.
GETATTR = ("builtins.getattr", "__builtin__.getattr")
ORDERED_DICT, SETS = "collections.OrderedDict", ("builtins.set", "__builtin__.set")
MADE_HERE = {*STORAGES, REBUILD_TENSOR, REBUILD_PARAMETER, *GETATTR, ORDERED_DICT, *SETS}

# Names that become a `Record`: layers of networks (those of a script that pruned one are in `__main__`), and what
# training scripts leave lying beside them.
RECORD_PREFIXES = ("models.", "ultralytics.", "torch.nn.modules.", "__main__.")
RECORD_NAMES = {
    *(f"torch.{name}" for name in ("device", "Size", "float16", "bfloat16", "float32", "float64")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *("datetime.datetime", "argparse.Namespace", "numpy.dtype", "numpy.ndarray", "_codecs.encode"),
}

MAX_STACK = 100_000  # pickle takes a list or a dict a thousand at a time; a tuple as a whole

# What may be a key: hashing a deeply nested tuple can exhaust the C stack.
Scalar = (str, bytes, int, float, type(None))


@dataclass(frozen=True)
class Name:
    """A class or function the file mentions, as `module.name`. A string with a label: there is nothing behind it."""

    path: str


@dataclass(eq=False)
class Record:
    """An object of a class this program does not have: what the file stored about it.

    Attributes:
        path: `module.name` of its class.
        args: what its constructor would have been given.
        state: its attributes; for torch modules that includes `_modules`, `_parameters` and `_buffers`.
    """

    path: str
    args: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The class's own name: `Conv` of `models.common.Conv`."""
        return self.path.rpartition(".")[2]

    def __repr__(self) -> str:
        return f"Record({self.path})"


class TorchFile(Archive):
    """A torch zip file, opened for reading; use it as a context manager."""

    def load(self) -> Any:
        """The object the file holds; `UserError` where the pickle asks for more than plain data."""
        if self.prefix + "byteorder" in self.zip.namelist() and self.entry("byteorder", 16) != b"little":
            raise self._error("was written on a big-endian machine", todo="re-save it on a little-endian one")
        try:
            return _Machine(self).run()
        except Refused as error:
            raise self._error(
                f"{error}; nothing in it was run",
                todo="use only files that a training program saved, from a source you trust",
            ) from None
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            cause = f"{type(error).__name__}: {error}"
            raise self._error(f"its pickle is malformed ({cause}); nothing in it was run") from error


def read_plain(path: str | Path) -> Any:
    """The content of a torch zip file that holds tensors and plain data, and no object of any class.

    Raises:
        UserError: see `read_torch_file`; it holds anything else.
    """
    content = read_torch_file(path)
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if isinstance(value, (Record, Name)):
            raise UserError(f"holds more than tensors and plain data: {value.path}; nothing in it was run", where=path)
        if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
    return content


def read_torch_file(path: str | Path) -> Any:
    """The content of a torch zip file as plain data, tensors and `Record`s; see the module's docstring.

    Raises:
        UserError: not a torch zip file, damaged, or its pickle names anything that is no layer, tensor or plain data.
    """
    with TorchFile(path) as file:
        return file.load()


class _Machine:
    """The stack machine of a pickle, reduced to building data.

    `run` takes each opcode to the method `_op_<NAME>` or to a constant; what has neither is refused.
    """

    CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    LITERALS = {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
    NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
    TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
    IGNORED = {"PROTO", "FRAME"}

    def __init__(self, file: TorchFile):
        self.file = file
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument in self.file.opcodes():
            if opcode == "STOP":
                return self.stack.pop()
            if opcode in self.IGNORED:
                continue
            if len(self.stack) > MAX_STACK:
                raise Refused("its pickle heaps up more values than a checkpoint holds in one place")
            if opcode in self.CONSTANTS:
                self.stack.append(self.CONSTANTS[opcode])
            elif opcode in self.LITERALS:
                self.stack.append(argument)
            elif opcode in self.NEW:
                self.stack.append(self.NEW[opcode]())
            elif opcode in self.TUPLES:
                self.stack.append(tuple(self._pop_last(self.TUPLES[opcode])))
            else:
                self._operation(opcode)(argument)
        raise ValueError("no STOP")

    def _operation(self, opcode: str) -> Callable[[Any], None]:
        method = getattr(self, f"_op_{opcode}", None)
        if method is None:
            raise Refused(f"its pickle uses the opcode {opcode}, which no torch checkpoint needs")
        return method

    def _pop_last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("stack is empty")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _op_MARK(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _op_BINPUT(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    _op_LONG_BINPUT = _op_BINPUT

    def _op_MEMOIZE(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _op_BINGET(self, slot: int) -> None:
        self.stack.append(self.memo[slot])

    _op_LONG_BINGET = _op_BINGET

    def _op_TUPLE(self, _: Any) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _op_APPEND(self, _: Any) -> None:
        self._extend(self._pop_last(1))

    def _op_APPENDS(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):  # a class derived from list, e.g. torch.Size: nothing here reads its items
            return
        if type(target) is not list:
            raise Refused(f"its pickle appends to a {type(target).__name__}")
        target.extend(values)

    def _op_ADDITEMS(self, _: Any) -> None:
        values = self._pop_to_mark()
        if type(self.stack[-1]) is not set:
            self._refuse_items()
        self.stack[-1].update(_scalars(values))

    def _op_SETITEM(self, _: Any) -> None:
        self._set_items(self._pop_last(2))

    def _op_SETITEMS(self, _: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            self._refuse_items()
        target.update(zip(_scalars(flat[::2]), flat[1::2], strict=True))

    def _refuse_items(self) -> None:
        raise Refused(f"its pickle puts items into a {type(self.stack[-1]).__name__}")

    def _op_GLOBAL(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_allowed(module, name))

    def _op_STACK_GLOBAL(self, _: Any) -> None:
        module, name = self._pop_last(2)
        if type(module) is not str or type(name) is not str:
            raise Refused("its pickle makes up a name from something that is not text")
        self.stack.append(_allowed(module, name))

    def _op_REDUCE(self, _: Any) -> None:
        target, arguments = self._pop_last(2)
        self.stack.append(self._make(target, arguments))

    _op_NEWOBJ = _op_REDUCE

    def _make(self, target: Any, arguments: Any) -> Any:
        """What calling `target` would have given, made here without calling anything the file names."""
        if not isinstance(target, Name) or type(arguments) is not tuple:
            raise Refused(f"its pickle calls a {type(target).__name__}")
        if target.path == REBUILD_TENSOR:
            return _tensor(*arguments[:4])
        if target.path == REBUILD_PARAMETER:
            if not isinstance(arguments[0], Tensor):
                raise Refused("its pickle wraps something that is no tensor as a parameter")
            return arguments[0]
        if target.path == ORDERED_DICT:
            pairs = [tuple(pair) for pair in arguments[0]] if arguments else []
            return dict(zip(_scalars([key for key, _ in pairs]), [value for _, value in pairs], strict=True))
        if target.path in SETS:
            return set(_scalars(arguments[0])) if arguments else set()
        if target.path in GETATTR and not (len(arguments) == 2 and isinstance(arguments[0], Record)):
            raise Refused("its pickle asks for an attribute of something that is no layer")
        if target.path in STORAGES:
            raise Refused(f"its pickle calls {target.path}")
        return Record(target.path, arguments)

    def _op_BUILD(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            # Anything but a dict (an object with its own __setstate__) is nothing the readers of records look at.
            target.state = state if type(state) is dict else {"": state}
        elif type(target) is not dict and not isinstance(target, Tensor):  # these carry only metadata and hooks
            raise Refused(f"its pickle sets the state of a {type(target).__name__}")

    def _op_BINPERSID(self, _: Any) -> None:
        reference = self.stack.pop()
        match reference:
            case ("storage", Name(path=path), str(key), str(_), int(count)) if path in STORAGES and count >= 0:
                self.stack.append(self.file.storage(key, STORAGES[path], count))
            case _:
                raise Refused("its pickle refers to something outside it that is no storage of a known type")


def _scalars(keys: Any) -> list[Any]:
    if type(keys) is not list or not all(isinstance(key, Scalar) for key in keys):
        raise Refused("its pickle has a key that is neither text nor a number")
    return keys


def _allowed(module: str, name: str) -> Name:
    path = f"{module}.{name}"
    if path in MADE_HERE or path in RECORD_NAMES or path.startswith(RECORD_PREFIXES):
        return Name(path)
    raise Refused(f"its pickle asks for {path}, which has no place in a detector's checkpoint")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """`torch._utils._rebuild_tensor_v2` on checked arguments: every element lies in the storage, none is repeated."""
    if not isinstance(storage, Tensor) or type(size) is not tuple or type(stride) is not tuple:
        raise Refused("its pickle describes a tensor that is none")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(number) is not int or number < 0 for number in numbers):
        raise Refused("its pickle gives a tensor a size, stride or offset that is not a whole number >= 0")
    elements = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if elements > storage.numel() or (elements and last >= storage.numel()):
        raise Refused(f"its pickle describes a tensor larger than its storage of {storage.numel()} values")
    return storage.as_strided(size, stride, offset)
