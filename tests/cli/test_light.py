"""What only parses imports nothing heavy: --help, a refused flag, a command that is not there, --list-modes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.options import Option, options
from thinyolo.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "cv2",
    "matplotlib",
    "PIL",
    "wandb",
    "onnx",
    "onnxruntime",
    "openvino",
)
# What its process imported stands in the last line of its stdout.
PROBE = f"""\
import runpy, sys
script, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_path("thinyolo/__main__.py" if script == "thinyolo" else script, run_name="__main__")
except SystemExit as stopped:
    print()
    print(stopped.code, *[name for name in {HEAVY} if name in sys.modules])
"""


def ended(*words: str) -> tuple[str, str]:
    """(exit status and the heavy modules that were imported, all that was printed)."""
    done = subprocess.run([sys.executable, "-c", PROBE, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[-1], done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    status, said = ended("thinyolo", *name.split(), "--help")
    assert status == "0"
    assert f"usage: thinyolo {name} " in said


@pytest.mark.parametrize("name", COMMANDS)
def test_refusing_a_flag_imports_nothing_heavy(name: str) -> None:
    given = [
        word for each in options(COMMANDS[name].options).values() if each.metadata["required"] for word in spelt(each)
    ]
    status, said = ended("thinyolo", *name.split(), *given, "--no-such-flag")
    assert status == "2"
    assert "error: unknown argument '--no-such-flag'" in said
    assert "Traceback" not in said


def spelt(each: Option) -> list[str]:
    return ["x"] if each.metadata["positional"] else [each.flag, "x"]


@pytest.mark.parametrize(
    "words, status, part",
    [
        (["thinyolo", "--help"], "0", "    ablate "),
        (["thinyolo", "convert", "--help"], "0", "    convert coco "),
        (["thinyolo", "trian"], "2", "did you mean thinyolo train?"),
        (["thinyolo", "convert", "vco"], "2", "did you mean thinyolo convert voc?"),
        (["thinyolo", "distill", "--list-modes"], "0", "hinton"),
        (["thinyolo", "prune", "--help", "all"], "0", "--layer-keep"),
        (["train_prune.py", "--help"], "0", "usage: python train_prune.py "),
        (["train_prune.py", "--list-modes"], "0", "hinton"),
        (["train_prune.py", "--prun", "params=.5"], "2", "did you mean --prune?"),
        (["train_prune.py", "--prune", "much"], "2", "--prune much"),
        (["train_prune.py", "--hyp", "nowhere.yaml"], "2", "nowhere.yaml"),
        (["finetune_kd.py", "--help"], "0", "usage: python finetune_kd.py "),
        (["finetune_kd.py", "--list-modes"], "0", "hinton"),
        (["finetune_kd.py", "--kd", "hintn"], "2", "hintn"),
    ],
    ids=" ".join,
)
def test_what_only_parses_imports_nothing_heavy(words: list[str], status: str, part: str) -> None:
    found, said = ended(*words)
    assert found == status
    assert part in said


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_shows_more_than_about_twenty_options(name: str) -> None:
    known = options(COMMANDS[name].options)
    main = [each for each in known.values() if each.metadata["main"]]
    assert len(main or known) <= 25, "mark those that most people need by option(main=True)"
    assert len(main) < len(known)
