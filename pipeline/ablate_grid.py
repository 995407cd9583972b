"""What ``--ablate`` and ``--seeds`` say: the rows of the grid and its columns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import UserError
from common.options import Option, from_dict, options, to_dict
from distill.config import KDConfig
from distill.modes import MODES

NONE, ALL = "none", "all"
LONGEST = 120
"""Characters of a folder's name, which W&B's name of a run holds too."""


CHANGE = re.compile(r"""([\w-]+)\s*=\s*("[^"]*"|'[^']*'|\S+)""")
"""An option of a row."""


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        text: as the user wrote it.
        kd: what its student takes from the teacher.
        options: what it says of the other options that may differ between rows.
    """

    text: str
    kd: KDConfig
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Its folder's name."""
        name = re.sub(r"[^\w.+=-]+", "_", re.sub(r"\s*,\s*", "+", self.text).replace(":", "-"))
        if len(name) <= LONGEST:
            return name
        return f"{name[: LONGEST - 9]}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


MOST_SEEDS = 1000


def parse_seeds(text: str) -> list[int]:
    """The seeds ``--seeds`` means: "5" the first five, "5-9" those, "0,3,7" those.

    Raises:
        UserError: it is none of these, or names no seed or one twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if found is None:
            raise UserError(f"--seeds {text}: '{part.strip()}' is neither a number nor a range", todo="5, 5-9 or 0,3,7")
        low = int(found[1])
        named = range(low, int(found[2]) + 1) if found[2] else range(low) if "," not in text else range(low, low + 1)
        if len(named) > MOST_SEEDS:
            raise UserError(f"--seeds {text} names more than {MOST_SEEDS} seeds", todo="5, 5-9 or 0,3,7")
        seeds += named
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text} names {'a seed twice' if seeds else 'no seed'}", todo="5, 5-9 or 0,3,7")
    return seeds


def parse_variants(text: str, kd: KDConfig, columns: Mapping[str, Option] | None = None) -> list[Variant]:
    """The rows ``--ablate`` means; `none` comes first, also where it is not named: the others are compared with it.

    Args:
        kd: options of all rows, of which ``name=value`` in a row changes some.
        columns: the other options that a row may change; `none` with one of them is a row of its own.

    Raises:
        UserError: an unknown mode or option, or a row given twice.
    """
    words = entries(text)
    if ALL in words:
        words = [*(word for word in words if word != ALL), *(name for name in MODES if name not in words)]
    found = {variant.text: variant for variant in (_variant(word, kd, columns or {}) for word in words if word != NONE)}
    given = [word for word in words if word != NONE]
    if len(found) < len(given):
        twice = next(word for word in given if given.count(word) > 1)
        raise UserError(f"--ablate {text}: '{twice}' is there twice", todo="name each row once")
    if not found:
        raise UserError(f"--ablate {text}: there is nothing to compare with none", todo='--ablate "none; hinton"')
    rows = [Variant(NONE, replace(kd, kd=NONE)), *found.values()]
    if len({row.folder.lower() for row in rows}) < len(rows):
        raise UserError(f"--ablate {text}: two rows would share a folder", todo="write them differently")
    return rows


def entries(text: str) -> list[str]:
    """What stands between the semicolons, white space made one blank."""
    return [" ".join(entry.split()) for entry in text.split(";") if entry.strip()]


def _variant(text: str, kd: KDConfig, columns: Mapping[str, Option]) -> Variant:
    known = {name: each for name, each in options(KDConfig).items() if name != "kd"} | dict(columns)
    changes: dict[str, Any] = {}
    for name, value in CHANGE.findall(text):
        name, value = name.replace("-", "_"), value.strip("\"'")
        if name not in known:
            raise UserError(f"--ablate: '{text}' has the unknown option '{name}'", todo=f"known: {', '.join(known)}")
        try:
            changes[name] = known[name].convert(value)
        except ValueError as error:
            raise UserError(f"--ablate: '{text}': {name} {value} {error}", todo="see --help") from None
    modes = re.sub(r"\s*,\s*", ",", CHANGE.sub("", text).strip())
    if behind := modes.split()[1:]:
        option = behind[0].replace("-", "_") in known
        todo = (
            f"{behind[0]}=VALUE" if option else 'modes with commas between them, NAME=VALUE, NAME="VALUE WITH BLANKS"'
        )
        raise UserError(f"--ablate: '{text}': behind the modes stand only options, not '{behind[0]}'", todo=todo)
    others = {name: changes.pop(name) for name in list(changes) if name in columns}
    variant = Variant(text, from_dict(KDConfig, {**to_dict(kd), **changes, "kd": modes}), others)
    if not variant.kd.modes() and (modes != NONE or changes or not others):
        raise UserError(
            f"--ablate: '{text}' has no KD mode", todo="name modes as for --kd, or none and an option of all"
        )
    return variant
