"""Darknet cfg text <-> sections that refer to each other as objects.

Inside the program a layer number never exists: `Section.inputs` holds the sections themselves, and numbers are made
when the text is written. So a section can be removed or rewired without patching anybody else's numbers.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.errors import UserError
from common.reading import read_text
from models.kinds import KINDS, SectionKind, check
from models.limits import LARGEST, MOST_BYTES, MOST_SECTIONS

# Darknet's short forms.
ALIASES = {"network": "net", "conv": "convolutional", "max": "maxpool", "avg": "avgpool"}

# (kind, sorted options with an effect, numbers of the inputs)
Structure = tuple[str, tuple[tuple[str, str], ...], tuple[int, ...]]

T = TypeVar("T")


class _TypedOptions:
    """Options read as what they mean; a wrong value is a `UserError` at its line."""

    options: dict[builtins.str, builtins.str]

    def error(self, problem: builtins.str, key: builtins.str | None = None, todo: builtins.str = "") -> UserError:
        raise NotImplementedError

    def str(self, key: builtins.str, default: builtins.str = "") -> builtins.str:
        return self.options.get(key, default)

    def int(self, key: builtins.str, default: builtins.int | None = None) -> builtins.int:
        return self._number(key, default, _whole, "a whole number")

    def float(self, key: builtins.str, default: builtins.float | None = None) -> builtins.float:
        return self._number(key, default, _finite, "a number")

    def ints(self, key: builtins.str) -> list[builtins.int]:
        return self._numbers(key, _whole, "whole numbers")

    def floats(self, key: builtins.str) -> list[builtins.float]:
        return self._numbers(key, _finite, "numbers")

    def _number(
        self, key: builtins.str, default: T | None, read: Callable[[builtins.str], T], words: builtins.str
    ) -> T:
        if key not in self.options:
            if default is None:
                raise self.error(f"has no {key}=", todo=f"add {key}= with {words}")
            return default
        try:
            return read(self.options[key])
        except OverflowError:
            raise self.error(f"{key}={self.options[key]} is beyond what a network can have", key) from None
        except ValueError:
            raise self.error(f"{key}={self.options[key]} is not {words}", key) from None

    def _numbers(self, key: builtins.str, read: Callable[[builtins.str], T], words: builtins.str) -> list[T]:
        parts = [part.strip() for part in self.options.get(key, "").split(",")]
        if not all(parts[:-1]):  # one comma at the end is a habit, a hole a slip
            raise self.error(f"{key}={self.options[key]} has nothing between two commas", key)
        try:
            return [read(part) for part in parts if part]
        except OverflowError:
            raise self.error(f"{key}={self.options[key]} has a number beyond what a network can have", key) from None
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
        inputs: the sections read: the section before, where the kind reads it (a route does not), then the referenced
            ones. The first layer reads `[net]`.
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
    def facts(self) -> SectionKind:
        """What is true of every section of this kind."""
        return KINDS[self.kind]

    @property
    def references(self) -> list[Section]:
        """The inputs that are written as numbers."""
        return self.inputs[1:] if self.facts.reads_before else self.inputs

    @property
    def implied(self) -> Section | None:
        """The input that is not written down because it is the section before; None for a route."""
        return self.inputs[0] if self.facts.reads_before and self.inputs else None

    def sibling(
        self, kind: str, options: dict[str, str], inputs: Sequence[Section], relative: Sequence[bool]
    ) -> Section:
        """A new section of the same file."""
        return Section(kind, options, inputs=list(inputs), source=self.source, relative=list(relative))

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


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = _finite(text)
    if abs(value) > LARGEST:
        raise OverflowError(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


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
        return [section for section in self.layers if section.facts.head]

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

    def __deepcopy__(self, memo: dict[int, Any]) -> Cfg:
        # Section by section: the standard way recurses along the inputs, which a deep network makes too deep.
        return self.copy()

    def __reduce__(self) -> tuple[Callable[[str, str], Cfg], tuple[str, str]]:
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
            if key := section.facts.reference:
                options[key] = _reference_text(section, number)
            blocks.append("\n".join([f"[{section.kind}]", *(f"{key}={value}" for key, value in options.items())]))
        return "\n\n".join(blocks) + "\n"

    def structure(self) -> list[Structure]:
        """What decides the output, and nothing else.

        What `[net]` says of the size and of `letter_box` is only how pictures are made, where nobody says otherwise.
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
                        if key in section.facts.effect
                        and key != section.facts.reference
                        and not (section is legal.net and key in ("width", "height", "letter_box"))
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
    todo = "check the path of the cfg"
    return parse_cfg(read_text(path, MOST_BYTES, todo, lossy=True), source=str(path))


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
        check(section)
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
            if len(sections) > MOST_SECTIONS:
                raise UserError(f"has more than {MOST_SECTIONS} sections", where=source, line=line, todo="is it a cfg?")
            kind = content[1:-1].strip()
            sections.append(Section(ALIASES.get(kind, kind), line=line, source=source))
            continue
        key, equals, value = (part.strip() for part in content.partition("="))
        if not equals or not key:
            todo = "correct the line" if sections else "is it a Darknet cfg? One begins with [net]"
            raise UserError(
                f"'{content[:80]}' is neither a [section] nor key=value", where=source, line=line, todo=todo
            )
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
    elif known != value and section.kind in KINDS and key in section.facts.effect:
        first = section.option_lines[key]
        section.option_lines[key] = line
        raise section.error(f"says {key}={value} here and {key}={known} in line {first}", key, todo="keep one of them")


def _resolve(section: Section, number: int, layers: list[Section], net: Section) -> None:
    before = layers[number - 1] if number else net
    section.inputs = [before] if section.facts.reads_before else []
    key = section.facts.reference
    if not key:
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
