"""A file of another kind in the place of a text is told as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.reading import read_text


@pytest.mark.parametrize(
    "raw, said",
    [
        (b"PK\x03\x04\xff\0", "a zip archive"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"\xff\xd8\xff\xe0", "a picture"),
        (b"\x08\x07\x12\xff\0\0", "a binary file"),
        (b"caf\xe9\n", "is not a text file in UTF-8"),
        ("é".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_binary_file_is_not_to_be_saved_as_utf_8(raw: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(raw)
    with pytest.raises(UserError, match=said) as refused:
        read_text(tmp_path / "x.yaml", todo="give a yaml")
    assert ("iconv" in refused.value.todo) == ("UTF" in said)
