"""What the documentation tells people to type exists: commands, flags, values, links, names from Python."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import pytest
from export.cli import make_parser as make_thinyolo

import prune
from common.command_line import make_parser
from pipeline.finetune import DistilConfig
from pipeline.prune_options import PruneConfig

ROOT = Path(__file__).parents[1]
PAGES = ("pruning.md", "migrating.md", "export.md")
PARSERS = {"train_prune.py": PruneConfig, "finetune_kd.py": DistilConfig}
FLAG = re.compile(r"(?<![\w-])(--?[a-zA-Z][\w-]*)")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def known() -> dict[str, set[str]]:
    """Program -> its flags; "thinyolo COMMAND" for the sub-commands."""
    flags = {name: set(make_parser(config)._option_string_actions) for name, config in PARSERS.items()}
    for action in make_thinyolo()._actions:
        if isinstance(action, argparse._SubParsersAction):
            flags |= {f"thinyolo {name}": set(sub._option_string_actions) for name, sub in action.choices.items()}
    return flags


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


@pytest.mark.parametrize("name", PAGES)
def test_every_command_shown_is_understood_by_its_own_parser(name: str) -> None:
    text = page(name)
    fenced = [block for kind, block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.S) if kind in ("", "sh")]
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    shown = [line.split("#")[0] for line in lines] + ours(text)
    programs = known()
    seen = 0
    for line in shown:
        words = shlex.split(line.removeprefix("python "))
        name = " ".join(words[:2]) if words[:1] == ["thinyolo"] else words[0] if words else ""
        if name in programs:
            seen += 1
            wrong = [word for word in words if word.startswith("-") and not spelled(word.split("=")[0], programs[name])]
            assert not wrong, f"{line}: {wrong}"
    assert seen >= 2


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
        ["--exclude", "0,12-20", "--include", "layers.1?"],
        ["--no-fold"],
    ],
    ids=" ".join,
)
def test_what_the_pages_tell_to_type_is_accepted(given: list[str]) -> None:
    from common.command_line import parse_config

    config = parse_config(PruneConfig, given)
    assert config.plan.shortcuts == (int(config.shortcuts) if config.shortcuts != "auto" else "auto")


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page(name)):
        assert target.startswith("http") or (ROOT / "docs" / target).exists(), target


def test_criteria_and_strategies_are_all_explained() -> None:
    text = page("pruning.md")
    for word in (*prune.CRITERIA, *prune.STRATEGIES):
        assert f"`{word}`" in text, word
