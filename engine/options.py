"""Options: one dataclass from which the flags, the `--hyp` YAML and the saved `args.yaml` are made.

Precedence: the dataclass's defaults < the YAML named by ``--hyp`` < the command line. Keys are flat, whatever the
dataclass nests: `TrainConfig.augment.mosaic` is ``mosaic:`` in YAML and ``--mosaic`` on the command line. Hyphens and
underscores are interchangeable everywhere. A subclass adds fields with `option` and gets flags, keys and help for free.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from common.errors import UserError
from common.files import whole_file

Config = TypeVar("Config")


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
) -> Any:
    """A dataclass field that is also a flag and a YAML key.

    Args:
        default: also shown in the help.
        help: what the option does and what it trades.
        group: the heading of ``--help`` it stands under; None: that of the dataclasses it is nested in, or "run".
        choices, low, high: allowed values (both ends allowed).
        flags: further spellings (``-sr``, ``--s``); one that equals the field's name is the one shown (``--t_cfg``).
        const: the value of the bare flag, where the flag may come without a value.
        resumable: may be changed when a run is resumed, because the numbers do not depend on it.
        metavar: what stands for the value in the help.
        key: the flat key and flag where they are not the field's name: keys are unique among everything that is nested.
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
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


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
        spellings: tuple[str, ...] = self.metadata.get("flags", ())
        for spelling in spellings:
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
        """`value` from YAML or the command line as this option's type.

        Raises:
            ValueError: with a sentence that fits after "--flag value: ".
        """
        value = _convert(value, self.type)
        choices = self.metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise ValueError(f"is none of {', '.join(map(str, choices))}")
        low, high = self.metadata.get("low"), self.metadata.get("high")
        if value is not None and ((low is not None and not value >= low) or (high is not None and not value <= high)):
            bounds = [f"at least {low:g}"] if low is not None else []
            bounds += [f"at most {high:g}"] if high is not None else []
            raise ValueError(f"has to be {' and '.join(bounds)}")
        return value


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
    described = _attributes_section(cls)
    for each in dataclasses.fields(cls):
        kind, path = hints[each.name], (*prefix, each.name)
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type, kind), path, each.metadata.get("group") or group or each.name)
            continue
        default = each.default
        if each.default_factory is not dataclasses.MISSING:
            default = each.default_factory()
        metadata = dict(each.metadata)
        metadata["group"] = metadata.get("group") or group or "run"
        metadata.setdefault("help", described.get(each.name, ""))
        yield Option(metadata.get("key") or each.name, path, kind, default, metadata)


def _attributes_section(cls: type) -> dict[str, str]:
    """Field name -> text, from the ``Attributes:`` section of a dataclass's docstring (``a, b: text`` names both)."""
    _, _, section = (cls.__doc__ or "").partition("Attributes:\n")
    lines = section.splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if not line.strip() or len(line) - len(line.lstrip()) < indent:
            break
        if len(line) - len(line.lstrip()) == indent:
            head, _, text = line.strip().partition(":")
            names = [name.strip(" `") for name in head.split(",")]
            found.update(dict.fromkeys(names, text.strip()))
        else:
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def _convert(value: Any, kind: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "") and str not in inner):
            if type(None) in inner:
                return None
            raise ValueError("needs a value")
        return _convert(value, next(each for each in inner if each is not type(None)))
    if origin is typing.Literal:
        if value not in inner:
            raise ValueError(f"is none of {', '.join(map(str, inner))}")
        return value
    if origin in (tuple, list):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            parts = [parts]
        parts = [part.strip() if isinstance(part, str) else part for part in parts]
        return origin(_convert(part, inner[0]) for part in parts if part != "")
    return _convert_plain(value, kind)


def _convert_plain(value: Any, kind: Any) -> Any:
    if kind is bool:
        word = str(value).lower()
        if word in ("true", "yes", "on", "1", "false", "no", "off", "0"):
            return word in ("true", "yes", "on", "1")
        raise ValueError("is neither true nor false")
    if kind is str:
        if isinstance(value, bool) and value is False:
            return "off"  # YAML 1.1 reads a bare `off` as a boolean; the options that have it mean the word
        if value is None:
            return ""
        if isinstance(value, (list, tuple)):
            return ",".join(str(part) for part in value)
        if isinstance(value, (str, int, float)):
            return str(value)
    if kind in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if kind is int and number != int(number):
                raise ValueError
            # int("12") and not int(12.0): a number with 17 digits would lose its end on the way through float
            return number if kind is float else int(value) if not isinstance(value, float) else int(number)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("is not a whole number" if kind is int else "is not a number") from None
    raise ValueError(f"is not a {getattr(kind, '__name__', kind)}")


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
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"cannot read the options: {error.strerror}", where=path, todo="check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        raise UserError(f"is not YAML: {getattr(error, 'problem', error)}", where=path, line=line) from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise UserError("holds no `key: value` lines", where=path, line=node.start_mark.line + 1)
    known, values = options(cls), {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = canonical(str(key_node.value))
        if key not in known:
            raise UserError(f"unknown option {key_node.value!r}", where=path, line=line, todo=_closest(key, known))
        if key in values:
            raise UserError(f"the option {key!r} is given twice", where=path, line=line, todo="delete one of the two")
        value = yaml.SafeLoader("").construct_object(value_node, deep=True)
        try:
            values[key] = known[key].convert(value)
        except ValueError as error:
            raise UserError(f"{key}: {value!r} {error}", where=path, line=line, todo=describe(known[key])) from None
    return values


def _closest(key: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}? " * bool(near) + "--help lists all options"


def describe(each: Option) -> str:
    return f"{each.described}: {each.metadata.get('help', '')} (default: {shown_default(each)})"


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
    return from_dict(cls, read_yaml(cls, path / "args.yaml" if path.is_dir() else path))


def save_config(config: Any, path: str | Path) -> None:
    """Write every resolved option as flat YAML that `load_config` and ``--hyp`` read back."""
    with whole_file(path) as temporary:
        temporary.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
