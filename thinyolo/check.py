"""`thinyolo check`."""

from __future__ import annotations

from dataclasses import dataclass

import data
from common.command_line import Command
from common.errors import UserError
from common.options import option
from data.spec import SPLITS


@dataclass
class CheckOptions:
    """What is looked over."""

    path: str = option("", "the data set's yaml (or Darknet .data)", group="data", positional=True)
    data: str = option("", "the same, as the other commands have it", group="data", metavar="FILE")
    split: str | None = option(None, "only this split; without: all there are", group="data", choices=SPLITS)


def check(options: CheckOptions) -> None:
    """Read all labels, open every picture, print what is wrong."""
    if bool(options.path) == bool(options.data):
        raise UserError("name one data set", todo="thinyolo check mine.yaml")
    report = data.check(options.path or options.data, [options.split] if options.split else None)
    report.announce()
    print(f"{report.spec.source}: no errors, {len(report.warnings)} warnings")


CHECK = Command(
    "check",
    "look for wrong labels, damaged pictures and leaks in a data set",
    CheckOptions,
    lambda: check,
    description="""\
Read all labels and open every picture, as a training does before it starts. Problems are
counted and named with file and line; errors, on which no training would start, end with status 2.""",
)
