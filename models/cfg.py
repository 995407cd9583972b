"""Darknet cfg text <-> sections that refer to each other as objects.

Inside the program a layer number never exists: `Section.inputs` holds the sections themselves, and numbers are made
when the text is written. So a section can be removed or rewired without patching anybody else's numbers.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from common.errors import UserError
from models import cfg_keys

# Darknet's short forms.
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool"}

# The option of a section that holds layer numbers.
REFERENCE_KEY = {"route": "layers", "shortcut": "from", "scale_channels": "from", "sam": "from"}

HEAD_KINDS = ("yolo", "region")


class _TypedOptions:
    """Options read as what they mean; a wrong value is a `UserError` at its line."""

    options: dict[builtins.str, builtins.str]

    def error(self, problem: builtins.str, key: builtins.str | None = None, todo: builtins.str = "") -> UserError:
        raise NotImplementedError

    def str(self, key: builtins.str, default: builtins.str = "") -> builtins.str:
        return self.options.get(key, default)

    def int(self, key: builtins.str, default: builtins.int | None = None) -> builtins.int:
        return self._number(key, default, int, "a whole number")

    def float(self, key: builtins.str, default: builtins.float | None = None) -> builtins.float:
        return self._number(key, default, float, "a number")

    def ints(self, key: builtins.str) -> list[builtins.int]:
        return self._numbers(key, int, "whole numbers")

    def floats(self, key: builtins.str) -> list[builtins.float]:
        return self._numbers(key, float, "numbers")

    def _number(self, key: builtins.str, default, kind: type, words: builtins.str):
        if key not in self.options:
            if default is None:
                raise self.error(f"has no {key}=", todo=f"add {key}= with {words}")
            return default
        try:
            return _as_number(self.options[key], kind)
        except ValueError:
            raise self.error(f"{key}={self.options[key]} is not {words}", key) from None

    def _numbers(self, key: builtins.str, kind: type, words: builtins.str) -> list:
        parts = [part.strip() for part in self.options.get(key, "").split(",")]
        try:
            return [_as_number(part, kind) for part in parts if part]
        except ValueError:
            raise self.error(f"{key}={self.options[key]} is not a list of {words}", key) from None


@dataclass(eq=False)
class Section(_TypedOptions):
    """One `[kind]` block of a cfg.

    Attributes:
        kind: the canonical name, as `convolutional`.
        options: key -> value as written (blanks and comments dropped), in file order.
        source, line: the file and the 1-based line of `[kind]`; line 0 for a section made by the program.
        option_lines: key -> 1-based line.
        inputs: the sections read. A route: exactly the referenced ones. Shortcut, scale_channels, sam: the section
            before, then the referenced ones. All others: the section before. The first layer reads `[net]`.
        relative: per reference, whether it was written relative to its section (-3) or absolute (12).
    """

    kind: str
    options: dict[str, str] = field(default_factory=dict)
    line: int = 0
    option_lines: dict[str, int] = field(default_factory=dict)
    inputs: list[Section] = field(default_factory=list)
    source: str = "cfg"
    relative: list[bool] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"[{self.kind}] of {self.source}:{self.line}"

    @property
    def references(self) -> list[Section]:
        """The inputs that are written as numbers."""
        if self.kind not in REFERENCE_KEY:
            return []
        return self.inputs if self.kind == "route" else self.inputs[1:]

    @property
    def implied(self) -> Section | None:
        """The input that is not written down because it is the section before; None for a route."""
        return None if self.kind == "route" or not self.inputs else self.inputs[0]

    def error(self, problem: str, key: str | None = None, todo: str = "") -> UserError:
        """A `UserError` at this section, or at the line of its option `key`."""
        line = self.option_lines.get(key, self.line) if key else self.line
        return UserError(f"[{self.kind}] {problem}", where=self.source, line=line or None, todo=todo)

    def set(self, key: str, value: object) -> None:
        """Write an option; a list, tuple or array is written with commas."""
        if isinstance(value, (list, tuple, np.ndarray)):
            self.options[key] = ",".join(number_text(item) for item in value)
        else:
            self.options[key] = number_text(value)


def _as_number(text: str, kind: type):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    if kind is int:
        if value != int(value):
            raise ValueError(text)
        return int(value)
    return value


def number_text(value: object) -> str:
    """A number as a cfg writes it: shortest form that reads back equal; 10.0 becomes 10."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
    return str(value)


@dataclass(eq=False)
class Cfg:
    """A network as text describes it: `[net]` and the layers in order."""

    net: Section
    layers: list[Section]
    source: str = "cfg"

    def __iter__(self) -> Iterator[Section]:
        yield self.net
        yield from self.layers

    @property
    def heads(self) -> list[Section]:
        """The detection layers, in order."""
        return [section for section in self.layers if section.kind in HEAD_KINDS]

    def index(self) -> dict[Section, int]:
        """Section -> Darknet layer number (`[net]` is -1)."""
        return {section: number for number, section in enumerate(self, start=-1)}

    def readers(self) -> dict[Section, list[Section]]:
        """Section -> the sections that read it."""
        found: dict[Section, list[Section]] = {section: [] for section in self}
        for section in self.layers:
            for source in section.inputs:
                found[source].append(section)
        return found

    def copy(self, mapping: dict[Section, Section] | None = None) -> Cfg:
        """A deep copy whose sections refer to each other; `mapping`, if given, is filled old -> new."""
        twin: dict[Section, Section] = {} if mapping is None else mapping
        for old in self:
            twin[old] = Section(
                old.kind, dict(old.options), old.line, dict(old.option_lines), [], old.source, list(old.relative)
            )
        for old in self:
            twin[old].inputs = [twin[source] for source in old.inputs]
        return Cfg(twin[self.net], [twin[old] for old in self.layers], self.source)

    def __deepcopy__(self, memo: dict) -> Cfg:
        # Section by section: the standard way recurses along the inputs, which a deep network makes too deep.
        return self.copy()

    def __reduce__(self):
        return parse_cfg, (self.text(), self.source)

    def legalise(self) -> Cfg:
        """Insert a `[route]` wherever a section's implied input is not the section before it. In place; returns self.

        Darknet has no other way to say it. Sections keep their objects, so a caller's references stay good.
        """
        layers: list[Section] = []
        before = self.net
        for section in self.layers:
            wanted = section.implied
            if wanted is not None and wanted is not before:
                if wanted is self.net:
                    raise section.error("reads the picture but is not the first layer: Darknet cannot say that")
                bridge = Section("route", {"layers": ""}, inputs=[wanted], source=self.source, relative=[True])
                layers.append(bridge)
                section.inputs[0] = bridge
            layers.append(section)
            before = section
        self.layers = layers
        return self

    def legalised(self) -> Cfg:
        """A copy on which `legalise` was called."""
        return self.copy().legalise()

    def text(self) -> str:
        """The cfg as a file; parsing it gives the same structure, and its text again."""
        legal = self.legalised()
        number = legal.index()
        blocks = []
        for section in legal:
            options = dict(section.options)
            if section.kind in REFERENCE_KEY:
                options[REFERENCE_KEY[section.kind]] = _reference_text(section, number)
            blocks.append("\n".join([f"[{section.kind}]", *(f"{key}={value}" for key, value in options.items())]))
        return "\n\n".join(blocks) + "\n"

    def structure(self) -> list[tuple]:
        """What decides the output, and nothing else: (kind, sorted options with an effect, numbers of the inputs).

        The size in `[net]` is only what is used where nobody says otherwise.
        """
        legal = self.legalised()
        number = legal.index()
        return [
            (
                section.kind,
                tuple(
                    sorted(
                        (key, value)
                        for key, value in section.options.items()
                        if key in cfg_keys.EFFECT[section.kind]
                        and key != REFERENCE_KEY.get(section.kind)
                        and not (section is legal.net and key in ("width", "height"))
                    )
                ),
                tuple(number[source] for source in section.inputs),
            )
            for section in legal
        ]


def _reference_text(section: Section, number: dict[Section, int]) -> str:
    own = number[section]
    written = []
    for place, target in enumerate(section.references):
        fallback = section.relative[0] if section.relative else True
        relative = section.relative[place] if place < len(section.relative) else fallback
        written.append(str(number[target] - own if relative else number[target]))
    return ",".join(written)


def read_cfg(path: str | Path) -> Cfg:
    """Parse a cfg file. Raises `UserError` where it is not one."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path, todo="check the path of the cfg") from error
    return parse_cfg(text, source=str(path))


def parse_cfg(text: str, source: str = "cfg") -> Cfg:
    """Parse cfg text; `source` names it in errors. Raises `UserError` with file:line."""
    sections = _blocks(text, source)
    if not sections or sections[0].kind != "net":
        raise UserError(
            "does not begin with a [net] section, so it is not a Darknet cfg",
            where=source,
            line=1,
            todo="give a file such as cfg/yolov3.cfg",
        )
    if len(sections) == 1:
        raise UserError("has a [net] section but no layers", where=source, line=sections[0].line)
    for place, section in enumerate(sections):
        if place and section.kind == "net":
            raise section.error("stands here a second time", todo="a cfg has one [net], at its beginning")
        cfg_keys.check(section)
    net, layers = sections[0], sections[1:]
    for number, section in enumerate(layers):
        _resolve(section, number, layers, net)
    return Cfg(net, layers, source)


def _blocks(text: str, source: str) -> list[Section]:
    sections: list[Section] = []
    for line, raw in enumerate(text.splitlines(), start=1):
        content = raw.split("#")[0].split(";")[0].strip()
        if not content:
            continue
        if content.startswith("["):
            if not content.endswith("]"):
                raise UserError(f"'{content}' lacks its closing bracket", where=source, line=line)
            kind = content[1:-1].strip()
            sections.append(Section(ALIASES.get(kind, kind), line=line, source=source))
            continue
        key, equals, value = (part.strip() for part in content.partition("="))
        if not equals or not key:
            raise UserError(f"'{content}' is neither a [section] nor key=value", where=source, line=line)
        if not sections:
            raise UserError(
                f"'{content}' stands before the first section", where=source, line=line, todo="a cfg begins with [net]"
            )
        _keep_option(sections[-1], key, value, line)
    return sections


def _keep_option(section: Section, key: str, value: str, line: int) -> None:
    known = section.options.get(key)
    if known is None:
        section.options[key] = value
        section.option_lines[key] = line
    elif known != value and key in cfg_keys.EFFECT.get(section.kind, ()):
        first = section.option_lines[key]
        section.option_lines[key] = line
        raise section.error(f"says {key}={value} here and {key}={known} in line {first}", key, todo="keep one of them")


def _resolve(section: Section, number: int, layers: list[Section], net: Section) -> None:
    before = layers[number - 1] if number else net
    section.inputs = [] if section.kind == "route" else [before]
    key = REFERENCE_KEY.get(section.kind)
    if key is None:
        return
    values = section.ints(key)
    if not values:
        raise section.error(f"has no {key}=", todo=f"name the layer to read, as {key}=-2")
    for value in values:
        target = number + value if value < 0 else value
        if not 0 <= target < number:
            raise section.error(
                f"{key}={value} points at layer {target}, but this is layer {number}",
                key,
                todo="a layer reads only layers before it",
            )
        section.inputs.append(layers[target])
        section.relative.append(value < 0)
