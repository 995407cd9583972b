"""What the documentation tells people to type exists: commands, flags, values, links, names from Python."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

import prune
from common.command_line import Command, make_parser
from thinyolo.main import COMMANDS
from thinyolo.training import DISTILL, PRUNE

ROOT = Path(__file__).parents[1]
PAGES = ("pruning.md", "migrating.md", "export.md")
SCRIPTS = {"train_prune.py": PRUNE, "finetune_kd.py": DISTILL}
FLAG = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")
TEXTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def known() -> dict[str, set[str]]:
    """Program -> its flags; "thinyolo COMMAND" for the commands."""
    programs = {f"thinyolo {name}": command for name, command in COMMANDS.items()} | SCRIPTS
    return {name: set(make_parser(command.options)._option_string_actions) for name, command in programs.items()}


def shown_lines(text: str) -> list[str]:
    """The lines of the fenced blocks, each with what continues it."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.S | re.M)
    return [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]


def typed(line: str) -> list[str]:
    """The words of a command line of this repository, from the program's name on; of any other line, none."""
    line = re.sub(r"^(\.venv/bin/)?(python )?", "", line)
    if "entry:" in line:  # the rooms of docs/design.md
        return []
    if not re.match(r"(train_prune\.py|finetune_kd\.py|thinyolo|-m export|benchmarks/\w+\.py) +\S", line):
        return []
    return shlex.split(line, comments=True)


def command_of(words: list[str]) -> tuple[Command, list[str]]:
    """The command that is meant, and what it is told."""
    if words[0] in SCRIPTS:
        return SCRIPTS[words[0]], words[1:]
    name, *rest = words[1:]
    return (COMMANDS[name], rest) if name in COMMANDS else (COMMANDS[f"{name} {rest[0]}"], rest[1:])


def ours(text: str) -> list[str]:
    """The inline code that is about this program: not the first column of a table headed "theirs"."""
    found, theirs = [], False
    for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
        if not line.startswith("|"):
            theirs = False
        elif cells[0].strip() == "theirs":
            theirs = True
        shown = " ".join(cells[1:2] if theirs else cells)
        found += [code for code in re.findall(r"`([^`]+)`", shown) if not code.startswith("*")]
    return found


def spelled(flag: str, flags: set[str]) -> bool:
    return flag in flags or flag.replace("_", "-") in flags or flag.replace("-", "_").replace("__", "--", 1) in flags


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_named_in_the_text_exists(name: str) -> None:
    every = set().union(*known().values())
    flags = [flag for code in ours(page(name)) for flag in FLAG.findall(code.split("=")[0]) if code.startswith("-")]
    assert len(flags) > 15, "the pattern finds them"
    assert [flag for flag in flags if not spelled(flag, every)] == []


class Parsed(Exception):
    """A benchmark has understood its command line."""


def understood(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Parse a command line, and no more than that."""
    if not words[0].startswith("benchmarks/"):
        command, told = command_of(words)
        command.parse(told)
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *given: Any) -> None:
        parse(self, *given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Parsed):
        runpy.run_path(words[0], run_name="__main__")


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_line_is_understood(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = list(filter(None, map(typed, shown_lines((ROOT / name).read_text(encoding="utf-8")))))
    assert found or name == "docs/design.md", "the pattern finds them"
    for words in found:
        understood(words, monkeypatch)


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_every_example_of_a_help_text_is_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = [line.strip() for line in re.sub(r"\\\n", " ", command.epilog).splitlines() if "%(prog)s" in line]
    assert examples or not command.epilog
    for line in examples:
        if "--resume" not in line:
            command.parse(shlex.split(re.split(r" {4,}(?=[a-z])| \.\.\.", line)[0].removeprefix("%(prog)s")))


@pytest.mark.parametrize("name", PAGES)
def test_every_command_named_in_the_text_has_these_flags(name: str) -> None:
    programs, seen = known(), 0
    for line in ours(page(name)):
        words = shlex.split(line.removeprefix("python "))
        program = " ".join(words[:2]) if words[:1] == ["thinyolo"] else words[0] if words else ""
        if program in programs:
            seen += 1
            flags = [word for word in words if word.startswith("-")]
            wrong = [word for word in flags if not spelled(word.split("=")[0], programs[program])]
            assert not wrong, f"{line}: {wrong}"
    assert seen >= 1


def test_the_old_programs_commands_have_their_place() -> None:
    text = page("migrating.md")
    scripts = ("prune.py", "shortcut_prune.py", "slim_prune.py", "layer_prune.py", "layer_channel_prune.py")
    flags = ("-sr", "--s", "--prune", "--percent", "--global_percent", "--layer_keep", "--shortcuts")
    first = [re.split(r"(?<!\\)\|", line)[1] for line in text.splitlines() if line.startswith("|")]
    for word in (*scripts, *flags):
        assert any(re.search(rf"`{re.escape(word)}[` ]", cell) for cell in first), word


@pytest.mark.parametrize(
    "given",
    [
        ["--stages", "prune", "--strategy", "conservative", "--prune", "ratio=0.85"],
        ["--stages", "prune", "--strategy", "shared", "--prune", "ratio=0.6"],
        ["--stages", "prune", "--strategy", "union", "--prune", "ratio=0.8", "--layer_keep", "0.1"],
        ["--stages", "prune", "--prune", "none", "--shortcuts", "8"],
        ["--stages", "prune", "--shortcuts", "12", "--prune", "ratio=0.8", "--layer-keep", "0.1"],
        ["-sr", "--s", "0.001"],
        ["--max-drop", "0.01"],
        ["--prune", "latency=0.5"],
        ["--rounds", "3"],
        ["--drop-heads"],
        ["--drop-heads", "8,32"],
        ["--drop-heads", "one-to-many"],
        ["--exclude", "0,12-20", "--include", "layers.1?"],
        ["--no-fold"],
    ],
    ids=" ".join,
)
def test_what_the_pages_tell_to_type_is_accepted(given: list[str]) -> None:
    config = PRUNE.parse(given)
    assert config.plan.shortcuts == (int(config.shortcuts) if config.shortcuts != "auto" else "auto")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page(name)):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target


def test_criteria_and_strategies_are_all_explained() -> None:
    text = page("pruning.md")
    for word in (*prune.CRITERIA, *prune.STRATEGIES):
        assert f"`{word}`" in text, word
