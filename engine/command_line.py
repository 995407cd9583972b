"""The command line: argparse flags made from a configuration dataclass, and the precedence of what gives a value."""

from __future__ import annotations

import argparse
import difflib
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from common.errors import UserError
from engine.options import Option, canonical, describe, from_dict, options, read_yaml, shown, shown_default
from engine.rundir import find_run

Config = TypeVar("Config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message, todo=f"{self.prog} --help lists all options")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=116)


def make_parser(
    cls: type, *, prog: str | None = None, description: str = "", epilog: str = ""
) -> argparse.ArgumentParser:
    """The argparse parser of a configuration class; flags that were not given are absent from the result."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--flag value ...]",
        description=description,
        epilog=epilog,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for each in options(cls).values():
        name = each.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_argument(groups[name], each)
    parser.add_argument_group("help").add_argument("-h", "--help", action="help", help="show this text and exit")
    return parser


def _add_argument(group: Any, each: Option) -> None:
    text = f"{each.metadata['help'].rstrip('.')} (default: {shown_default(each)})".replace("%", "%%")
    spellings = [each.flag, *(flag for flag in each.metadata.get("flags", ()) if flag != each.flag)]
    shared: dict[str, Any] = {"dest": each.key, "default": argparse.SUPPRESS}
    if each.type is bool:
        positive, negative = spellings, [each.negative]
        # Only the spelling that changes something is shown.
        hidden = argparse.SUPPRESS
        group.add_argument(*positive, nargs=0, action=_Switch, help=hidden if each.default else text, **shared)
        group.add_argument(*negative, nargs=0, action=_Switch, help=text if each.default else hidden, **shared)
        return
    choices = each.metadata.get("choices")
    if typing.get_origin(each.type) is typing.Literal:
        choices = typing.get_args(each.type)
    metavar = each.metadata.get("metavar") or ("|".join(map(str, choices)) if choices else _metavar(each.type))
    if each.metadata.get("const") is not None:
        shared |= {"nargs": "?", "const": each.metadata["const"]}
    group.add_argument(*spellings, metavar=metavar, help=text, **shared)


class _Switch(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def _metavar(kind: Any) -> str:
    inner = [each for each in typing.get_args(kind) if each is not type(None) and each is not Ellipsis]
    if typing.get_origin(kind) in (tuple, list):
        return f"{_metavar(inner[0])},..."
    if inner:
        return _metavar(inner[0])
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def _command_line(cls: type, argv: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What the command line gives, typed. Both ``--batch-size`` and ``--batch_size`` are understood."""
    spelled = {canonical(name): name for name in parser._option_string_actions}
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(spelled.get(canonical(name), name) + equals + value if name.startswith("--") else word)
    given, unknown = parser.parse_known_args(words)
    known = options(cls)
    if unknown:
        flags = {each.flag.lstrip("-"): each.flag for each in known.values()}
        near = difflib.get_close_matches(unknown[0].lstrip("-").partition("=")[0], list(flags), n=1, cutoff=0.5)
        hint = f"did you mean {flags[near[0]]}? " if near and unknown[0].startswith("-") else ""
        raise UserError(f"unknown argument {unknown[0]!r}", todo=f"{hint}--help lists all options")
    values = {}
    for key, value in vars(given).items():
        try:
            values[key] = known[key].convert(value)
        except ValueError as error:
            raise UserError(f"{known[key].flag} {value}: this value {error}", todo=describe(known[key])) from None
    return values


def parse_config(
    cls: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
    epilog: str = "",
) -> Config:
    """An instance of `cls` from defaults < ``--hyp`` YAML < command line.

    With ``--resume RUN`` the run's own `args.yaml` takes the place of defaults and YAML, and only options on which the
    numbers do not depend (device, workers, ...) may be given anew.

    Raises:
        UserError: an unknown flag or key, a bad value, or an option a resumed run cannot change.
    """
    parser = make_parser(cls, prog=prog, description=description, epilog=epilog)
    given = _command_line(cls, sys.argv[1:] if argv is None else argv, parser)
    known = options(cls)
    if given.get("resume"):
        return _resumed(cls, given, known)
    values = read_yaml(cls, find_hyp(given["hyp"])) if given.get("hyp") else {}
    values.update(given)
    return from_dict(cls, values)


def find_hyp(name: str) -> Path:
    """The YAML file `name`; a bare name (``sparse``) is looked for in the installed ``cfg/hyp``."""
    path = Path(name)
    installed = Path(__file__).resolve().parent.parent / "cfg" / "hyp"
    if not path.exists() and path.name == name and (installed / f"{path.stem}.yaml").exists():
        return installed / f"{path.stem}.yaml"
    if not path.exists():
        have = ", ".join(sorted(each.stem for each in installed.glob("*.yaml")))
        raise UserError(f"no such file: {name}", todo=f"--hyp takes a YAML file or one of: {have}")
    return path


def _resumed(cls: type[Config], given: dict[str, Any], known: dict[str, Option]) -> Config:
    run = find_run(given["resume"], given.get("project", known["project"].default if "project" in known else "runs"))
    values = read_yaml(cls, run / "args.yaml")
    for key, value in given.items():
        if key not in ("resume", "project") and not known[key].metadata.get("resumable") and values.get(key) != value:
            free = ", ".join(each.flag for each in known.values() if each.metadata.get("resumable"))
            raise UserError(
                f"{known[key].flag} {shown(value)}: the resumed run {run} has {shown(values.get(key))} and keeps it",
                todo=f"leave it out; only these may change: {free}. Or start a new run from {run}/weights/last.pt",
            )
    return from_dict(cls, {**values, **given, "resume": str(run)})
