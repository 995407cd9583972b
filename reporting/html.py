"""Pages of one file: text that stays text, pictures inside the page, a script that only this page's own can be."""

from __future__ import annotations

import base64
import hashlib
import re
import unicodedata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.errors import UserError
from common.files import whole_file

TEMPLATES = Path(__file__).parent / "templates"
SCRIPT = "page.js"
LONGEST = 60
"""Letters of a name from elsewhere (a class, a run, a file) that a page shows."""
_UNSEEN = re.compile(
    "[^\\S \n\t]|[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)


def plain(text: str) -> str:
    """`text` with what is not seen, or changes the direction of what follows, spelled out: ``\\u202e``."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def short(text: object, most: int = LONGEST) -> str:
    """A name on one line, without what does not fit: its middle goes, for file names differ at both ends."""
    line = plain(str(text).replace("\n", "\\n").replace("\t", " "))
    if len(line) <= most:
        return line
    end = most // 3
    return f"{line[: most - end - 1]}…{line[-end:]}"


def typeset(text: str) -> str:
    """A sentence of the terminal with the arrows and minus signs that a page has."""
    return re.sub(r"(?<![\w.])-(?=[.\d])", "−", text.replace(" -> ", " → "))


def width_of(text: str, size: float) -> float:
    """About how many pixels wide a line is in letters of so many pixels: for what is set beside what."""
    wide = sum(1.0 if unicodedata.east_asian_width(letter) in "WF" else 0.62 for letter in text)
    return wide * size


def rendered(template: str, **values: Any) -> str:
    """One of the pages in `TEMPLATES`, with nothing of `values` taken for markup.

    The page says itself what it may do (its Content-Security-Policy): load nothing, and run no script but its own.
    """
    script = (TEMPLATES / SCRIPT).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters.update(short=short, typeset=typeset)
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    environment.globals.update(policy=policy, script=Markup(script))
    return environment.get_template(template).render(**values)


def write_page(path: str | Path, page: str, todo: str = "") -> Path:
    """Write a page, whole or not at all; a letter that no encoding has becomes a question mark.

    Raises:
        UserError: it cannot be written there.
    """
    with whole_file(path, todo) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return Path(path)


_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg"}


def embedded(picture: str | Path | np.ndarray) -> str:
    """A picture (file, or RGB array, which becomes a JPEG) as a data URI.

    Raises:
        UserError: the file is neither a PNG nor a JPEG.
    """
    if isinstance(picture, np.ndarray):
        return _uri("jpeg", jpeg(picture))
    data = Path(picture).read_bytes()
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        raise UserError("is no PNG or JPEG picture", where=picture, todo="make the report anew where the run ends")
    return _uri(kind, data)


def jpeg(picture: np.ndarray) -> bytes:
    """An RGB array as a JPEG."""
    good, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert good, "OpenCV cannot encode a JPEG"
    return bytes(data.tobytes())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
