"""Every number that a command can be told has a range, and what is no number or beyond it is refused with the range."""

from __future__ import annotations

import math
import re

import pytest

from common.errors import UserError
from common.options import Option, bound, options
from tests.cli.test_light import spelt
from thinyolo.main import COMMANDS


def is_number(each: Option) -> bool:
    return re.search(r"\b(int|float)\b", str(each.type)) is not None


NUMBERS = {
    (command, each.key): each
    for command, record in COMMANDS.items()
    for each in options(record.options).values()
    if is_number(each)
}


@pytest.mark.parametrize("command, key", NUMBERS)
def test_a_number_beyond_its_range_is_refused_with_the_range(command: str, key: str) -> None:
    each = NUMBERS[command, key]
    low, high = each.metadata["low"], each.metadata["high"]
    assert low is not None
    assert high is not None
    assert math.isfinite(low)
    assert math.isfinite(high)
    words = each.metadata["nargs"] or 1
    for end in (low, high):
        each.convert([str(end)] * words if words > 1 else str(end))
    if each.default not in (None, ()):
        assert low <= each.default <= high
    # "" is None where that is a value; a list without a number is empty.
    nothing = ["", "x"] if each.type in (int, float) else ["x"]
    step = max(1.0, abs(high) * 1e-6), max(1.0, abs(low) * 1e-6)
    beyond = [f"{low - step[1]:.0f}", f"{high + step[0]:.0f}"]
    required = [
        word
        for other in options(COMMANDS[command].options).values()
        if other.metadata["required"] and other.key != key
        for word in spelt(other)
    ]
    for value in (
        "inf",
        "-inf",
        "nan",
        ".inf",
        ".nan",
        "1e400",
        "-1e400",
        "9" * 400,
        "-" + "9" * 400,
        *beyond,
        *nothing,
    ):
        given = [each.flag, *[value] * words] if words > 1 else [f"{each.flag}={value}"]
        with pytest.raises(UserError) as refused:
            COMMANDS[command].parse([*required, *given])
        assert each.flag in refused.value.problem
        said = f"is not between {bound(low)} and {bound(high)}", "is not a whole number"
        assert value in nothing or any(each in refused.value.problem for each in said)


@pytest.mark.parametrize(
    "text",
    [
        "=0.5",
        "params=",
        "params=nan",
        "params=inf",
        "params=-1",
        "params=1e400",
        "none=0.5",
        "",
        "params",
        "ratio=1",
    ],
)
def test_a_share_to_keep_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--prune"):
        COMMANDS["prune"].parse(["--cfg", "x", "--data", "x", f"--prune={text}", "--shortcuts", "2"])


@pytest.mark.parametrize("text", ["²", "9" * 50, "-1", "1.5", "inf"])
def test_a_number_of_blocks_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--shortcuts .* is neither a number nor auto"):
        COMMANDS["prune"].parse([f"--shortcuts={text}"])


def test_a_share_of_all_is_refused_where_no_block_goes_either() -> None:
    for blocks in ("0", "auto"):
        with pytest.raises(UserError, match=r"--prune params=1 keeps everything"):
            COMMANDS["prune"].parse(["--prune", "params=1", "--shortcuts", blocks])
    assert COMMANDS["prune"].parse(["--prune", "params=1", "--shortcuts", "1"]).prune == "params=1"
