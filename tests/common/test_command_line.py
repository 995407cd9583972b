"""Commands, positional and required options, what --help shows, and words as they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from common.command_line import Command, parse_config
from common.errors import UserError
from common.options import like, option, options, read_yaml


@dataclass
class Place:
    folder: str = option("out", "where to")


@dataclass
class Order:
    files: tuple[str, ...] = option((), "what", group="files", positional=True, required=True, metavar="FILE")
    shares: tuple[float, float, float] | None = option(None, "parts", nargs=3, metavar="A B C")
    beside: tuple[str, ...] = option((), "others", nargs=0, metavar="FILE")
    kind: str = option("plain", "which kind", choices=("plain", "off"), main=True)
    count: int = option(3, "how many", low=1, main=True, resumable=True)
    share: float = option(0.5, "how much", low=0, high=1)
    place: Place = field(default_factory=Place)


@dataclass
class Asked:
    where: str = option("", "one, or none", positional=True)
    data: str = option("", "given", required=True)
    count: int = like(Order, "count", main=False)
    kind: str = like(Order, "kind", default="off")


done: list[object] = []
ORDER = Command(
    "order", "order things", Order, lambda: done.append, description="%(prog)s is meant", epilog="  %(prog)s a"
)


def test_positional_options_and_those_of_several_words() -> None:
    given = parse_config(
        Order, ["a.pt", "b,c.pt", "--shares", "1", "2", "7", "--beside", "x", "y,z", "--folder", "there"]
    )
    assert given.files == ("a.pt", "b,c.pt"), "a name may hold a comma"
    assert given.shares == (1, 2, 7)
    assert given.beside == ("x", "y,z")
    assert given.place == Place("there")
    assert parse_config(Asked, ["--data", "x"]).where == ""
    assert parse_config(Asked, ["here", "--data", "x"]).where == "here"


@pytest.mark.parametrize(
    "cls, words, said",
    [
        (Order, [], "required: FILE"),
        (Asked, [], "required: --data"),
        (Order, ["a", "--shares", "1", "2"], "expected 3 arguments"),
        (Order, ["a", "--shares", "1", "2", "x"], "--shares 1 2 x is not a number"),
        (Order, ["a", "--count", "0"], "--count 0 is below 1"),
        (Order, ["a", "--share", "2"], "--share 2 is not between 0 and 1"),
        (Order, ["a", "--count", "1.5"], "--count 1.5 is not a whole number"),
        (Order, ["a", "--kinds", "plain"], "did you mean --kind?"),
        (Asked, ["one", "two", "--data", "x"], "unknown argument 'two'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(cls: type, words: list[str], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_config(cls, words, prog="order")
    assert said in str(caught.value)
    assert caught.value.todo


def test_help_shows_the_main_options_and_all_of_them_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for words in (["--help"], ["-h", "all"]):
        with pytest.raises(SystemExit) as stopped:
            ORDER.parse(words)
        assert stopped.value.code == 0
        shown.append(capsys.readouterr().out)
    short, whole = shown
    assert all(part in short for part in ("--kind", "--count", "every one of the 7", "thinyolo order is meant"))
    assert not any(part in short for part in ("--shares", "--folder", "files:"))
    assert all(part in whole for part in ("--kind", "--shares A B C", "--folder", "files:", "FILE"))
    assert "[FILE ...]" in short, "what has to be given stands in the first line"
    with pytest.raises(SystemExit):
        parse_config(Place, ["--help"])
    assert "all" not in capsys.readouterr().out.split("help:")[1]


def test_an_option_declared_again_keeps_what_is_not_changed() -> None:
    first, again = options(Order), options(Asked)
    assert again["count"].default == 3
    assert (again["count"].metadata["low"], again["count"].metadata["main"]) == (1, False)
    assert (first["count"].metadata["main"], first["kind"].default, again["kind"].default) == (True, "plain", "off")


def test_a_command_parses_and_then_does(capsys: pytest.CaptureFixture[str]) -> None:
    done.clear()
    assert ORDER.main(["a.pt", "--count", "4"]) == 0
    assert done == [Order(("a.pt",), count=4)]
    assert ORDER.main(["a.pt", "--count", "0"], prog="./order") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --count 0")
    assert len(done) == 1


@pytest.mark.parametrize(
    "text, key, value",
    [
        ("kind: off", "kind", "off"),
        ("folder: 007", "folder", "007"),
        ("folder: 1:30", "folder", "1:30"),
        ("folder:", "folder", ""),
        ("shares: [1, 2, 7]", "shares", (1, 2, 7)),
        ("shares: null", "shares", None),
        ("beside: [x, 'y,z']", "beside", ("x", "y,z")),
        ("beside: x,y", "beside", ("x", "y")),
        ("count: 12345678901234567", "count", 12345678901234567),
        ("count: 4.0", "count", 4),
        ("share: 1e-3", "share", 0.001),
    ],
)
def test_yaml_says_what_stands_there(tmp_path: Path, text: str, key: str, value: object) -> None:
    (tmp_path / "o.yaml").write_text(text)
    assert read_yaml(Order, tmp_path / "o.yaml") == {key: value}


@pytest.mark.parametrize("text", ["count: {a: 1}", "folder: {a: 1}", "beside: [[1], 2]", "count: [1, 2]"])
def test_a_nested_yaml_value_is_refused_by_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "o.yaml").write_text(f"# mine\n{text}\n")
    with pytest.raises(UserError, match=r"o\.yaml:2: "):
        read_yaml(Order, tmp_path / "o.yaml")
