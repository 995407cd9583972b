"""The command line: argparse flags made from a configuration dataclass, and the precedence of what gives a value."""

from __future__ import annotations

import argparse
import os
import re
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from common.errors import UserError, closest, run_cleanly
from common.log import log, show_log
from common.memory import keep_freed_memory
from common.options import HYP, Option, canonical, describe, from_dict, options, read_yaml, shown, shown_default
from common.reading import shown_path
from common.rundir import ARGS, COMMANDS, LATEST, begun, find_run, network_in
from common.saved import check_saved

Config = TypeVar("Config")
EVERYTHING = "all"
PATHS = {"FILE", "FOLDER", "DIR", "PATH", "MODEL", "RUN"}
"""What stands in the help for a path."""


@dataclass(frozen=True)
class Command:
    """One command: what it is called, what it may be told, and where the function is that does it.

    Attributes:
        name: the word, or the words, after `thinyolo`.
        summary: its line in the list of commands.
        options: the dataclass of its options.
        load: imports the function ``(options) -> exit status or None``; nothing heavy is imported before.
        description, epilog: of ``--help``; %(prog)s in them is how the command was started.
        after_stop: as of `run_cleanly`.
    """

    name: str
    summary: str
    options: type
    load: Callable[[], Callable[[Any], int | None]]
    description: str = ""
    epilog: str = ""
    after_stop: str | Callable[[], str] = ""

    def main(self, argv: Sequence[str] | None = None, prog: str = "") -> int:
        """Parse `argv`, by default this process's, and run; returns the exit status."""
        return run_cleanly(lambda: self.run(sys.argv[1:] if argv is None else argv, prog), self.after_stop)

    def run(self, argv: Sequence[str], prog: str = "") -> int | None:
        """`main` for callers that handle a `UserError` themselves."""
        show_log()
        options = self.parse(argv, prog)  # before anything heavy is imported
        keep_freed_memory()
        return self.load()(options)

    def parse(self, argv: Sequence[str], prog: str = "") -> Any:
        """The options that `argv` gives."""
        prog = prog or f"thinyolo {self.name}"
        texts = {"description": self.description or self.summary, "epilog": self.epilog}
        texts = {name: text.replace("%(prog)s", prog) for name, text in texts.items()}
        return parse_config(self.options, argv, prog=prog, **texts)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message, todo=f"{self.prog} --help lists the options")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=116)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """All spellings, then the value once."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, '')}"


class _Help(argparse.Action):
    """``--help`` shows the main options of a command that has some, ``--help all`` every one."""

    def __init__(self, *, made: Callable[[bool], argparse.ArgumentParser], **shared: Any):
        super().__init__(default=argparse.SUPPRESS, **shared)
        self.made = made

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        self.made(values == EVERYTHING).print_help()
        parser.exit()


def make_parser(
    cls: type, *, prog: str | None = None, description: str = "", epilog: str = "", everything: bool = True
) -> argparse.ArgumentParser:
    """The argparse parser of a configuration class; flags that were not given are absent from the result.

    Args:
        everything: show every option in the help, not only those marked as main.
    """
    known = list(options(cls).values())
    main = [each for each in known if each.metadata["main"]]
    positional = [_metavar(each) for each in known if each.metadata["positional"]]
    parser = _Parser(
        prog=prog,
        usage=" ".join(["%(prog)s", *positional, "[--flag value ...]"]),
        description=description,
        epilog=epilog,
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for each in known:
        name = each.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name)
        _add_argument(groups[name], each, visible=everything or not main or each.metadata["main"])
    text = f"show the main options, or {EVERYTHING}: every one of the {len(known)}" if main else "show this text"
    parser.add_argument_group("help").add_argument(
        "-h",
        "--help",
        action=_Help,
        nargs="?" if main else 0,
        choices=(EVERYTHING,),
        metavar=EVERYTHING,
        help=text,
        made=lambda every: make_parser(cls, prog=prog, description=description, epilog=epilog, everything=every),
    )
    return parser


def _add_argument(group: Any, each: Option, visible: bool) -> None:
    default = "" if each.metadata["required"] else f" (default: {shown_default(each)})"
    text = f"{each.metadata['help'].rstrip('.')}{default}".replace("%", "%%") if visible else argparse.SUPPRESS
    shared: dict[str, Any] = {"default": argparse.SUPPRESS, "help": text}
    if each.metadata["nargs"] is not None:
        shared["nargs"] = each.metadata["nargs"] or "+"
    if each.metadata["positional"]:
        if _is_list(each) or not each.metadata["required"]:
            shared["nargs"] = "+" if _is_list(each) else "?"
        group.add_argument(each.key, metavar=each.metadata["metavar"] or each.key.upper(), **shared)
        return
    spellings = [each.flag, *(flag for flag in each.metadata["flags"] if flag != each.flag)]
    shared["dest"] = each.key
    if each.type is bool:
        # Only the spelling that changes something is shown.
        hidden = {**shared, "help": argparse.SUPPRESS}
        group.add_argument(*spellings, action=_Switch, nargs=0, **(hidden if each.default else shared))
        group.add_argument(each.negative, action=_Switch, nargs=0, **(shared if each.default else hidden))
        return
    if each.metadata["const"] is not None:
        shared |= {"nargs": "?", "const": each.metadata["const"]}
    group.add_argument(*spellings, metavar=_metavar(each), required=each.metadata["required"], **shared)


class _Switch(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, not (option_string or "").startswith("--no-"))


def _is_list(each: Option) -> bool:
    return typing.get_origin(each.type) in (tuple, list)


def _metavar(each: Option) -> Any:
    """What stands for the value in the help; of so many words a name each, with spaces between."""
    named = each.metadata["metavar"]
    if each.metadata["positional"]:
        name = named or each.key.upper()
        return f"{name} [{name} ...]" if _is_list(each) else name
    if each.metadata["nargs"] and named:
        return tuple(named.split())
    choices = each.metadata["choices"]
    return named or ("|".join(map(str, choices)) if choices else _kind(each.type))


def _kind(kind: Any) -> str:
    inner = [each for each in typing.get_args(kind) if each is not type(None) and each is not Ellipsis]
    if typing.get_origin(kind) in (tuple, list):
        return f"{_kind(inner[0])},..."
    if inner:
        return _kind(inner[0])
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "VALUE")


def _command_line(cls: type, argv: Sequence[str], parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What the command line gives, typed. Both ``--batch-size`` and ``--batch_size`` are understood."""
    spelled = {canonical(name): name for name in parser._option_string_actions}
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        words.append(spelled.get(canonical(name), name) + equals + value if name.startswith("--") else word)
    # By itself argparse takes -1e-3 and -inf for flags.
    parser._negative_number_matcher = re.compile(r"-(\.?[0-9]|inf|nan)", re.IGNORECASE)
    given, unknown = parser.parse_known_args(words)
    known = options(cls)
    if unknown:
        flags = {each.flag.lstrip("-"): each.flag for each in known.values()}
        near = closest(unknown[0].lstrip("-").partition("=")[0], flags, 0.5)
        hint = f"did you mean {flags[near[0]]}? " if near and unknown[0].startswith("-") else ""
        raise UserError(f"unknown argument {unknown[0]!r}", todo=f"{hint}--help lists all options")
    _say_twice(words, parser)
    values = {}
    for key, value in vars(given).items():
        try:
            values[key] = known[key].convert(value)
        except ValueError as error:
            said = " ".join(value) if isinstance(value, list) else value
            raise UserError(f"{known[key].flag} {shown_path(said, 80)} {error}", todo=describe(known[key])) from None
    return values


def _say_twice(words: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Of an option that is there twice the last one counts, as everywhere; it is said, for the first may be meant."""
    seen: dict[str, str] = {}
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        action = parser._option_string_actions.get(name)
        if action is None:
            continue
        given = value if equals else " ".join([name, *words[number + 1 : number + 2]])
        if seen.get(action.dest, given) != given:
            log.warning("%s is given more than once: the last one counts", name)
        seen[action.dest] = given


def _refuse_empty(given: dict[str, Any], values: dict[str, Any], known: dict[str, Option]) -> None:
    """An empty path that changes nothing is a shell's variable that was not set.

    Args:
        given: what the command line says.
        values: what would count without it.
    """
    for key, value in given.items():
        if value == "" and known[key].metadata["metavar"] in PATHS and not values.get(key, known[key].default):
            raise UserError(
                f"{known[key].flag} is given an empty value: a variable of the shell that is not set?",
                todo=f"leave it out, or give one. {describe(known[key])}",
            )


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
    if given.get("hyp") == "":
        _refuse_empty(given, {}, known)
    values = read_yaml(cls, find_hyp(given["hyp"], cls)) if given.get("hyp") else {}
    _refuse_empty(given, values, known)
    values.update(given)
    return from_dict(cls, values)


def find_hyp(name: str, cls: type | None = None) -> Path:
    """The YAML file `name`; a bare name (``sparse``) is looked for in the installed ``cfg/hyp``.

    Args:
        cls: whose options they are to be: only files with no others are offered.
    """
    path = Path(name)
    if not os.path.isfile(path) and path.name == name and os.path.exists(HYP / f"{path.stem}.yaml"):
        return HYP / f"{path.stem}.yaml"
    if not os.path.exists(path):
        have = ", ".join(each.stem for each in sorted(HYP.glob("*.yaml")) if cls is None or _knows(cls, each))
        raise UserError(f"no such file: {shown_path(name)}", todo=f"--hyp takes a YAML file or one of: {have}")
    return path


def _knows(cls: type, path: Path) -> bool:
    try:
        read_yaml(cls, path)
    except UserError:
        return False
    return True


def _resumed(cls: type[Config], given: dict[str, Any], known: dict[str, Option]) -> Config:
    project = given.get("project", known["project"].default if "project" in known else "runs")
    kinds = getattr(cls, "RUNS", ())
    run = find_run(given["resume"], project, kinds)
    begun.append(run)
    if given["resume"] == LATEST:
        command = COMMANDS.get(run.absolute().parent.name, "")
        log.info("--resume: the newest run that is not done, as by thinyolo %s --resume %s", command, run)
    values = read_yaml(cls, run / ARGS)
    check_saved(cls, run / ARGS, values)
    for key, value in given.items():
        if key not in ("resume", "project") and not known[key].metadata["resumable"] and values.get(key) != value:
            free = ", ".join(each.flag for each in known.values() if each.metadata["resumable"])
            raise UserError(
                f"{known[key].flag} {shown(value)}: the resumed run {run} has {shown(values.get(key))} and keeps it",
                todo=f"leave it out; only these may change: {free}" + _anew(run),
            )
    return from_dict(cls, {**values, **given, "resume": str(run)})


def _anew(run: Path) -> str:
    """How to take what a run has so far into another one, if there is something."""
    try:
        return f". Or start a new run from it: --weights {network_in(run)}"
    except UserError:
        return ""
