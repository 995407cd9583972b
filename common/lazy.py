"""Packages whose names are imported when they are first used, so that naming one costs no torch.

A package's `__init__` lists its public names where a type checker and a reader look for them, and nowhere else::

    if TYPE_CHECKING:
        from models.checkpoint import load
    __all__ = ["load"]
    lazily(__name__)

`models.load` then imports `models.checkpoint` at its first use.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    _homes: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name in self._homes:
            value = self.__dict__[name] = getattr(importlib.import_module(self._homes[name]), name)
            return value
        module = f"{self.__name__}.{name}"
        if name.startswith("_") or importlib.util.find_spec(module) is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return importlib.import_module(module)

    def __setattr__(self, name: str, value: Any) -> None:
        # The import of `engine.evaluate` would bind the module to a name that is the function's.
        if not (name in self._homes and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._homes})


def lazily(package: str) -> None:
    """Let `package` import the names of its ``if TYPE_CHECKING:`` block when they are asked for."""
    module = sys.modules[package]
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    listed = [line for block in tree.body if isinstance(block, ast.If) for line in block.body]
    imports = [line for line in listed if isinstance(line, ast.ImportFrom)]
    homes = {each.name: str(line.module) for line in imports for each in line.names}
    module.__dict__["_homes"] = homes
    module.__class__ = _Package
