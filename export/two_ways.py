"""One command, two ways to call it: ``python -m MODULE`` and a sub-command of ``thinyolo``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import run_cleanly
from common.log import show_log


@dataclass(frozen=True)
class Command:
    """What both ways share.

    Attributes:
        module: what stands behind ``python -m``, as it is written in `epilog`.
        name, summary: the sub-command, and its line in the list of all.
        description, epilog: of ``--help``.
        add_arguments: adds the options to a parser.
        run: does what the parsed options say; returns the exit status.
    """

    module: str
    name: str
    summary: str
    description: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Entry point of ``python -m``."""
        show_log()
        parser = argparse.ArgumentParser(prog=f"python -m {self.module}", epilog=self.epilog, **self._texts)
        self.add_arguments(parser)
        return run_cleanly(lambda: self.run(parser.parse_args(argv)))

    def register(self, commands: argparse._SubParsersAction) -> None:
        """Add the sub-command."""
        epilog = self.epilog.replace(f"python -m {self.module}", f"thinyolo {self.name}")
        parser = commands.add_parser(self.name, help=self.summary, epilog=epilog, **self._texts)
        self.add_arguments(parser)
        parser.set_defaults(run=self.run)

    @property
    def _texts(self) -> dict[str, Any]:
        return {"description": self.description, "formatter_class": argparse.RawDescriptionHelpFormatter}
