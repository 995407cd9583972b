"""The `thinyolo` command: which commands there are, and which of them was typed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common.command_line import Command
from common.errors import UserError, closest, run_cleanly
from thinyolo.check import CHECK
from thinyolo.convert import COCO, HAND, VOC, YOLO
from thinyolo.export import EXPORT
from thinyolo.latency import LATENCY
from thinyolo.predict import PREDICT
from thinyolo.report import REPORT
from thinyolo.training import ABLATE, DISTILL, PRUNE, TRAIN
from thinyolo.val import VAL

COMMANDS: dict[str, Command] = {
    each.name: each
    for each in (TRAIN, PRUNE, DISTILL, ABLATE, VAL, PREDICT, EXPORT, LATENCY, VOC, COCO, HAND, YOLO, CHECK, REPORT)
}

ABOUT = """\
ThinYOLO: give it a YOLO and a data set, get back a far thinner YOLO that detects as well, and the proof.

usage: thinyolo COMMAND [--flag value ...]

commands:
"""

EXAMPLES = """

examples:
  thinyolo check --data mine.yaml
  thinyolo prune --cfg yolov5n --weights yolov5n.pt --data mine.yaml --prune params=0.25 --then-kd
  thinyolo distill --weights pruned.pt --t_weights baseline.pt --data mine.yaml
  thinyolo val --model runs/finetune_kd/exp/weights/best.pt --data bccd.yaml --split test
  thinyolo predict --model student.pt --source holiday/ --conf 0.4
  thinyolo predict --cfg yolov3-tiny --model yolov3-tiny.weights --source street.mp4
  thinyolo predict --compare fat.pt thin.pt --source holiday/
  thinyolo export --weights student.pt --to onnx,int8 --data mine.yaml
  thinyolo latency fat.pt thin.pt thin-int8.onnx
  thinyolo convert coco --help
  thinyolo report runs/train_prune/exp runs/train_prune/exp2

Every command has its own --help. A mistake in what was typed ends with exit status 2 and says what to change.
train_prune.py is thinyolo prune, finetune_kd.py is thinyolo distill."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the installed command; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(help_text(COMMANDS))
        return 0
    if command := COMMANDS.get(words[0]):
        return command.main(words[1:])
    if command := COMMANDS.get(" ".join(words[:2])):
        return command.main(words[2:])
    return run_cleanly(lambda: _no_command(words))


def _no_command(words: Sequence[str]) -> int:
    """``thinyolo convert --help`` shows the commands that begin so.

    Raises:
        UserError: there is no such command.
    """
    begun = {name: each for name, each in COMMANDS.items() if name.split()[0] == words[0] and " " in name}
    if begun and (len(words) == 1 or words[1] in ("-h", "--help")):
        print(help_text(begun))
        return 0
    typed = " ".join(words[:2] if begun else words[:1])
    near = closest(typed, COMMANDS, 0.5)
    hint = f"did you mean thinyolo {near[0]}? " if near else ""
    raise UserError(f"there is no command {typed!r}", todo=f"{hint}thinyolo --help lists the commands")


def help_text(commands: dict[str, Command]) -> str:
    """The list of `commands`."""
    return ABOUT + "\n".join(f"    {name:<14} {each.summary}" for name, each in commands.items()) + EXAMPLES
