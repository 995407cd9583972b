"""Options: one dataclass from which the flags, the `--hyp` YAML and the saved `args.yaml` are made.

Precedence: the dataclass's defaults < the YAML named by ``--hyp`` < the command line. Keys are flat, whatever the
dataclass nests: `TrainConfig.augment.mosaic` is ``mosaic:`` in YAML and ``--mosaic`` on the command line. Hyphens and
underscores are interchangeable everywhere. A subclass adds fields with `option` and has their flags, keys and help::

    @dataclass
    class PruneConfig(TrainConfig):
        strategy: str = option("union", "who decides for tied channels", group="pruning", choices=("union", "shared"))

The command line itself is `common.command_line`. Both are on argparse because neither cyclopts nor jsonargparse holds
flat keys, bare flags with a value, YAML with line numbers and what a resumed run may change (docs/design.md).
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from common.errors import UserError, closest, first_line
from common.reading import read_text

Config = TypeVar("Config")
HYP = Path(__file__).resolve().parent.parent / "cfg" / "hyp"
"""The files that ``--hyp`` knows by name."""


def option(
    default: Any,
    help: str,
    *,
    group: str | None = None,
    choices: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    flags: Sequence[str] = (),
    const: Any = None,
    resumable: bool = False,
    metavar: str | None = None,
    key: str | None = None,
    main: bool = False,
    positional: bool = False,
    required: bool = False,
    nargs: int | None = None,
    column: bool = False,
) -> Any:
    """A dataclass field that is also a flag and a YAML key.

    Args:
        default: also shown in the help.
        help: what the option does and what it trades.
        group: the heading of ``--help`` it stands under; None: that of the dataclasses it is nested in, or "run".
        choices: allowed values.
        low, high: the least and the greatest allowed value; every number of a command has both.
        flags: further spellings (``-sr``, ``--s``); one that equals the field's name is the one shown (``--t_cfg``).
        const: the value of the bare flag, where the flag may come without a value.
        resumable: may be changed when a run is resumed, because the numbers do not depend on it.
        metavar: what stands for the value in the help.
        key: the flat key and flag where they are not the field's name: keys are unique among everything that is nested.
        main: one of those that most people need. A command with such options shows the others by ``--help all``.
        positional: given without a flag; of a tuple, one or more.
        required: has to be given; the default is nobody's.
        nargs: of a tuple: so many words instead of one with commas; 0: one or more.
        column: may differ between the rows of an ablation: how many steps a training has does not depend on it.
    """
    metadata = {
        "help": help,
        "group": group,
        "choices": choices,
        "low": low,
        "high": high,
        "flags": tuple(flags),
        "const": const,
        "resumable": resumable,
        "metavar": metavar,
        "key": key,
        "main": main,
        "positional": positional,
        "required": required,
        "nargs": nargs,
        "column": column,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def like(cls: type, name: str, **changes: Any) -> Any:
    """The field `name` of another dataclass, to be declared again; `changes` are arguments of `option`."""
    declared = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    default = changes.pop("default", declared.default)
    return field(default=default, metadata={**declared.metadata, **changes})


@dataclass(frozen=True)
class Option:
    """One flat option of a configuration class, wherever its field is nested."""

    key: str
    path: tuple[str, ...]
    type: Any
    default: Any
    metadata: typing.Mapping[str, Any]

    @property
    def flag(self) -> str:
        """The spelling shown to people."""
        for spelling in self.metadata["flags"]:
            if canonical(spelling.lstrip("-")) == self.key:
                return spelling
        return "--" + self.key.replace("_", "-")

    @property
    def negative(self) -> str:
        """The spelling that switches a yes-or-no option off."""
        return "--no-" + self.key.replace("_", "-")

    @property
    def described(self) -> str:
        """The spelling that the help text is about: of a switch that is on, the one that changes something."""
        return self.negative if self.type is bool and self.default else self.flag

    def convert(self, value: Any) -> Any:
        """`value` as this option's type: what is written on the command line or in YAML, or what it would be read as.

        Raises:
            ValueError: with words that fit after "--flag value ".
        """
        if isinstance(value, (list, tuple)):
            value = [str(part) for part in value]
        value = _convert(value if value is None or isinstance(value, list) else str(value), self.type)
        if value is None:
            return None
        choices = self.metadata["choices"]
        if choices and "off" in choices and str(value).lower() in ("no", "false"):
            value = "off"  # what YAML 1.1 takes for the same
        if choices and value not in choices:
            raise ValueError(f"is none of {', '.join(map(str, choices))}")
        for part in value if isinstance(value, (tuple, list)) else (value,):
            self._check_bounds(part)
        return value

    def _check_bounds(self, value: Any) -> None:
        """Raise a `ValueError` where a number is beyond what is allowed, or is none at all (nan)."""
        low, high = self.metadata["low"], self.metadata["high"]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return
        under, over = low is not None and not value >= low, high is not None and not value <= high
        if (under or over) and low is not None and high is not None:
            raise ValueError(f"is not between {bound(low)} and {bound(high)}")
        if under or over:
            raise ValueError(
                f"is below {bound(low)}: it has to be at least that" if under else f"is above {bound(high)}"
            )
        if not math.isfinite(value):
            raise ValueError("is not a finite number")


def bound(number: float) -> str:
    """An end of an allowed range, as people write it."""
    return f"{number:.0f}" if number == int(number) else f"{number:g}"


def canonical(name: str) -> str:
    return name.replace("-", "_")


def options(cls: type) -> dict[str, Option]:
    """All flat options of a configuration dataclass, in order; nested dataclasses are flattened."""
    found: dict[str, Option] = {}
    for each in _walk(cls, ()):
        assert each.key not in found, f"two options are called {each.key}: {found[each.key].path} and {each.path}"
        found[each.key] = each
    return found


def _walk(cls: type, prefix: tuple[str, ...], group: str = "") -> typing.Iterator[Option]:
    hints = typing.get_type_hints(cls)
    for each in dataclasses.fields(cls):
        kind, path = hints[each.name], (*prefix, each.name)
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type, kind), path, each.metadata.get("group") or group or each.name)
            continue
        default = each.default
        if each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        assert "help" in each.metadata, f"{cls.__name__}.{each.name} is not declared by option()"
        metadata = {**each.metadata, "group": each.metadata["group"] or group or "run"}
        yield Option(metadata["key"] or each.name, path, kind, default, metadata)


Text = str | list[str] | None
"""A value as it is written: on the command line, or in YAML, where a list and ``null`` have their own form."""


def _convert(value: Text, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "") and str not in inner):
            if type(None) in inner:
                return None
            raise ValueError("needs a value")
        return _convert(value, next(each for each in inner if each is not type(None)))
    if origin in (tuple, list):
        if isinstance(value, list):  # words that came one by one are whole
            return origin(_convert(part, inner[0]) for part in value)
        return origin(_convert(part.strip(), inner[0]) for part in (value or "").split(",") if part.strip())
    if isinstance(value, list) and kind is str:
        return ",".join(value)
    if isinstance(value, list):
        raise ValueError("is a list, where one value is wanted")
    return _convert_word(value or "", kind)


def _convert_word(word: str, kind: Any) -> Any:
    if kind is bool:
        if word.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            return word.lower() in ("true", "yes", "on", "1")
        raise ValueError("is neither true nor false")
    if kind not in (int, float):
        return kind(word)
    try:
        # int("12") and not int(12.0): a number with 17 digits would lose its end on the way through float
        return int(word) if kind is int and word.strip().lstrip("+-").isdecimal() else _number(word, kind)
    except (ValueError, OverflowError):
        raise ValueError("is not a whole number" if kind is int else "is not a number") from None


def _number(word: str, kind: type) -> float:
    # YAML writes an infinite number with a dot before it, and so does every args.yaml that holds one.
    number = float(re.sub(r"^([+-]?)\.(inf|nan)$", r"\1\2", word.strip(), flags=re.IGNORECASE))
    if kind is int and number != int(number):
        raise ValueError
    return kind(number)


def to_dict(config: Any) -> dict[str, Any]:
    """The flat options of a configuration instance, as they are written to YAML."""
    values: dict[str, Any] = {}
    for key, each in options(type(config)).items():
        value = config
        for name in each.path:
            value = getattr(value, name)
        values[key] = list(value) if isinstance(value, tuple) else value
    return values


def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    """An instance from flat options that already have their types; what is missing keeps its default."""
    nested: dict[tuple[str, ...], dict[str, Any]] = {(): {}}
    known = options(cls)
    for key, value in values.items():
        path = known[key].path
        nested.setdefault(path[:-1], {})[path[-1]] = value

    def build(kind: Any, prefix: tuple[str, ...]) -> Any:
        own = dict(nested.get(prefix, {}))
        hints = typing.get_type_hints(kind)
        for each in dataclasses.fields(kind):
            if dataclasses.is_dataclass(hints[each.name]):
                own[each.name] = build(hints[each.name], (*prefix, each.name))
        return kind(**own)

    return typing.cast(Config, build(cls, ()))


def read_yaml(cls: type, path: str | Path) -> dict[str, Any]:
    """Flat options of `cls` from a YAML file, typed.

    Raises:
        UserError: with file and line: not YAML, an unknown key (the closest known one is named), a key given twice, a
            value of the wrong type or outside its range.
    """
    path = Path(path)
    text = read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        problem = getattr(error, "problem", None) or first_line(error)
        raise UserError(f"is not YAML: {problem}", where=path, line=line, todo="write `key: value` lines") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        line = node.start_mark.line + 1
        raise UserError("holds no `key: value` lines", where=path, line=line, todo="write e.g. `epochs: 50`")
    known, values = options(cls), {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise UserError("an option is a word, no list or map", where=path, line=line, todo="write `key: value`")
        key = canonical(str(key_node.value))
        if key not in known:
            raise UserError(
                f"unknown option {key_node.value!r}", where=path, line=line, todo=_closest(key, known, path)
            )
        if key in values:
            raise UserError(f"the option {key!r} is given twice", where=path, line=line, todo="delete one of the two")
        try:
            values[key] = known[key].convert(_text(value_node))
        except ValueError as error:
            given = f" {value_node.value!r}" if isinstance(value_node, yaml.ScalarNode) else ""
            raise UserError(f"{key}:{given} {error}", where=path, line=line, todo=describe(known[key])) from None
    return values


def _text(node: yaml.Node) -> Text:
    """The words of a YAML value as they stand there: YAML 1.1 would read `off` as false and 007 as 7."""
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(part, yaml.ScalarNode) for part in parts):
        raise ValueError("takes a value or a list of values, no more than that")
    if isinstance(node, yaml.SequenceNode):
        return [str(part.value) for part in parts]
    return None if node.tag.endswith(":null") else str(node.value)


def _closest(key: str, known: typing.Iterable[str], path: Path) -> str:
    if path.parent == HYP:
        return f"{path.name} is for a command that has this option, as its first lines say"
    near = closest(key, known, 0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}--help lists all options"


def describe(each: Option) -> str:
    return f"{each.described}: {each.metadata['help']} (default: {shown_default(each)})"


def shown_default(each: Option) -> str:
    """The default as the help says it; of a switch that is on its own spelling, for the text is about the other one."""
    return each.flag if each.type is bool and each.default else shown(each.default)


def shown(value: Any) -> str:
    if value is None or value == "" or value == ():
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


def load_config(cls: type[Config], path: str | Path) -> Config:
    """The configuration a run was started with, from its `args.yaml` (or the run's folder)."""
    path = Path(path)
    return from_dict(cls, read_yaml(cls, path / "args.yaml" if os.path.isdir(path) else path))
