"""What a network is to look at: pictures and videos of files, folders and patterns, cameras, streams, addresses."""

from __future__ import annotations

import base64
import glob
import http.client
import os
import string
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import cv2
import numpy as np

from common.addresses import is_address, split_login, without_secrets
from common.errors import UserError
from common.log import log
from common.reading import exists, is_folder, shown_path, user_path, why_no_file
from data.facts import Facts
from data.findings import wrong_range
from data.pictures import decode_picture, deep_range, has_frames, picture_facts, read_picture
from data.places import UNREAD_SUFFIXES, VIDEO_SUFFIXES, files_under
from data.problems import remedy
from data.spec import PICTURE_SUFFIXES

PICTURE, VIDEO, LIVE = "picture", "video", "live"
KNOWN = PICTURE_SUFFIXES | VIDEO_SUFFIXES
MEANT = KNOWN | UNREAD_SUFFIXES
WHAT = (
    "name pictures, videos, folders of them, a pattern in quotes ('in/*.jpg'), a camera's number (0) or an address "
    "(rtsp://..., http://...)"
)
SECONDS = 10
"""How long a server or a camera may take to answer."""
MOST_DOWNLOADED = 2**28
USUAL_RATE = 25.0
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a stream is said in our words


@dataclass(frozen=True)
class Source:
    """Something to look at.

    Attributes:
        kind: a picture, a video that ends, or live: what runs until it is stopped.
        shown: what may be said of it: the path, or the address without what lets somebody in.
        name: of what is written of it, below the folder of results.
        path: the file; None for a camera or an address.
        address: a camera's number or the whole address; never to be shown.
        refusal: why there is nothing to look at, where that is known before it is opened.
    """

    kind: str
    shown: str
    name: Path
    path: Path | None = None
    address: str | int = ""
    refusal: UserError | None = None


def find_sources(words: Sequence[str | Path]) -> list[Source]:
    """Everything that ``--source`` names, each once, with names that do not overwrite each other.

    What is named and cannot be looked at is among them with its `refusal`, so that it ends nothing else.

    Args:
        words: files; folders, with everything below them; patterns (``*``, ``?``, ``[ab]``, ``**``); addresses; a
            camera's number. What exists under the name is meant first, whatever it looks like.

    Raises:
        UserError: there is nothing to look at in any.
    """
    found: dict[Any, Source] = {}
    for word in words:
        try:
            sources = _named(word)
        except UserError as error:
            sources = [Source(PICTURE, shown_path(word), Path(_plain(str(word))), Path(word), refusal=error)]
        for source in sources:
            key = source.address if source.path is None else os.path.abspath(source.path)
            found.setdefault(key, source)
    refused = [source.refusal for source in found.values() if source.refusal]
    if len(refused) == len(found):
        raise refused[0] if refused else UserError("--source names nothing", todo=WHAT)
    return _told_apart(list(found.values()))


def _named(word: str | Path) -> list[Source]:
    text = str(word)
    if not text.strip():
        raise UserError("--source is empty", todo=f"{WHAT}; . is the current folder")
    if is_address(text):
        return [_at_address(text.strip())]
    path = user_path(word)
    if exists(path):
        return _below(path, text)
    if text.isdecimal():
        return [Source(LIVE, f"camera {int(text)}", Path(f"camera{int(text)}"), address=int(text))]
    if glob.has_magic(text):
        return _matching(str(path), text)
    raise UserError(f"--source {shown_path(text)} does not exist", todo=WHAT)


def _below(path: Path, text: str) -> list[Source]:
    """A file, or all pictures and videos of a folder."""
    if not is_folder(path):
        if reason := why_no_file(path):
            raise UserError(f"--source {shown_path(text)} {reason}", todo=WHAT)
        if path.suffix.lower() not in MEANT:
            known = ", ".join(sorted(KNOWN))
            problem = f"--source {shown_path(text)} is neither a picture nor a video"
            raise UserError(problem, todo=f"known endings: {known}")
        return [_of_file(path, path.parent)]
    inside = _in_folder(path, path)
    if not inside:
        raise UserError(f"no picture or video in the folder {shown_path(text)}", todo="give another --source")
    return inside


def _of_file(path: Path, root: Path) -> Source:
    """Below `root`; refused where it is a picture in a form that is not read, or a name without a file."""
    refusal = None
    if reason := why_no_file(path):
        reason = "is a link to what does not exist" if path.is_symlink() and not exists(path) else reason
        refusal = UserError(f"{shown_path(path)} {reason}", todo="replace or remove it")
    elif path.suffix.lower() not in KNOWN:
        todo = f"convert it to one of {', '.join(sorted(PICTURE_SUFFIXES))}"
        refusal = UserError(f"pictures of the form *{path.suffix} are not read", where=path, todo=todo)
    kind = VIDEO if path.suffix.lower() in VIDEO_SUFFIXES else PICTURE
    return Source(kind, str(path), path.relative_to(root), path, refusal=refusal)


def _matching(pattern: str, text: str) -> list[Source]:
    """What a pattern matches; the names are kept from the first folder on that the pattern leaves open."""
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    try:
        matched = sorted(map(Path, glob.glob(pattern, recursive=True)))
    except (ValueError, RecursionError) as error:
        raise UserError(f"--source {shown_path(text)} is no pattern: {error}", todo=WHAT) from error
    files = [item for item in matched if item.suffix.lower() in MEANT and not is_folder(item)]
    below = [source for item in matched if is_folder(item) for source in _in_folder(item, fixed)]
    if not files and not below:
        what = f"matches {len(matched)} files, none a picture or a video" if matched else "matches nothing"
        raise UserError(f"--source {shown_path(text)} {what}", todo=WHAT)
    return [*(_of_file(item, fixed) for item in files), *below]


def _in_folder(folder: Path, root: Path) -> list[Source]:
    return [_of_file(item, root) for item in files_under(folder, MEANT)[0]]


def _at_address(address: str) -> Source:
    """What is behind an address: its ending says it; where it has none, a web server is asked."""
    shown = without_secrets(address)
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UserError(f"--source {shown} is no address: {without_secrets(str(error))}", todo=WHAT) from None
    if not host:
        raise UserError(f"--source {shown} names no server", todo="rtsp://192.168.0.7/stream1")
    last = Path(unquote(parts.path)).name
    suffix = Path(last).suffix.lower()
    name = Path(_plain(Path(last).stem if last else host) + (suffix if suffix in KNOWN else ""))
    kind = PICTURE if suffix in PICTURE_SUFFIXES else VIDEO if suffix in VIDEO_SUFFIXES else LIVE
    if kind == LIVE and parts.scheme.lower() in ("http", "https"):
        with _answer(address, shown) as answer:
            if answer.headers.get_content_maintype() == "image":
                kind = PICTURE
    return Source(kind, shown, name, address=address)


def _plain(text: str) -> str:
    """`text` as a file may be called everywhere."""
    return "".join(each if each.isalnum() or each in "-_." else "_" for each in text)[:100].strip(".") or "stream"


def _told_apart(sources: list[Source]) -> list[Source]:
    """With names of which no two are written to one file: a.jpg beside a.png, or a.jpg of two folders."""
    alike = Counter(source.name.with_suffix("") for source in sources)
    taken: set[Path] = set()
    named = []
    for source in sources:
        name = source.name
        if alike[name.with_suffix("")] > 1 and name.suffix:
            name = name.with_name(f"{name.name}{name.suffix}")
        number = 1
        while name.with_suffix("") in taken:
            number += 1
            name = source.name.with_name(f"{source.name.stem}-{number}{source.name.suffix}")
        taken.add(name.with_suffix(""))
        named.append(replace(source, name=name))
    return named


class PictureReader:
    """Reads pictures, and says once where more than 8 bits are hardly used, `pixel_range` is not theirs, or where there
    are frames behind the first."""

    def __init__(self, pixel_range: tuple[float, float] | None = None):
        self.pixel_range, self.said, self.said_frames = pixel_range, False, False

    def read(self, source: Source) -> np.ndarray:
        """``(H, W, 3)`` uint8 RGB.

        Raises:
            UserError: it cannot be had, or is no picture.
        """
        if source.path is None:
            raw = np.frombuffer(_downloaded(str(source.address), source.shown), np.uint8)
            return decode_picture(raw, source.shown, self.pixel_range)
        path = source.path
        if not self.said_frames and has_frames(path):
            self.said_frames = True
            log.warning("%s has several frames or pages: of such pictures the first is looked at", path)
        if self.pixel_range is not None and not self.said:
            self.said = True
            facts = [fact for fact in picture_facts([path]) if isinstance(fact, Facts)]
            for problem in wrong_range(self.pixel_range, [path], facts):
                log.warning("%s\n  -> %s", problem, remedy(problem))
        if self.pixel_range is None and not self.said and (values := deep_range(path)) and values[1] < 2**15:
            self.said = True
            log.warning(
                "%s: its values lie in %d to %d, and read as 8 bits %d of 256 grey levels are left\n"
                "  -> --pixel-range %d,%d, or what the data set it was trained on has",
                path,
                *values,
                (values[1] >> 8) - (values[0] >> 8) + 1,
                *values,
            )
        return read_picture(path, self.pixel_range)


def _downloaded(address: str, shown: str) -> bytes:
    """What lies at an address of a web server, within `SECONDS` a read and `MOST_DOWNLOADED`."""
    with _answer(address, shown) as answer:
        content, until = bytearray(), time.monotonic() + 6 * SECONDS
        try:
            while part := answer.read(2**16):
                content += part
                if len(content) > MOST_DOWNLOADED or time.monotonic() > until:
                    raise UserError("is no picture: what comes does not end", where=shown, todo="check the address")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise UserError(f"broke off: {_said(error)}", where=shown, todo="try again") from None
    return bytes(content)


def _answer(address: str, shown: str) -> Any:
    """An open answer of a web server.

    Raises:
        UserError: there is none, or it is an error.
    """
    plain, login = split_login(address)
    try:
        request = urllib.request.Request(quote(plain, safe=string.punctuation), headers={"User-Agent": "thinyolo"})
        if login:  # to this server only, not to where it may send us on
            words = base64.b64encode(":".join(login).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {words}")
        return urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        problem, todo = f"the server answers {error.code} {error.reason}", "check the address"
        if error.code in (401, 403):
            todo = "name and password go before the server, as in NAME:PASSWORD@SERVER"
        raise UserError(problem, where=shown, todo=todo) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(f"cannot be reached: {_said(error)}", where=shown, todo="check address and network") from None


def _said(error: Exception) -> str:
    if isinstance(error, http.client.HTTPException):  # its text may hold the address
        return f"what answers speaks no HTTP ({type(error).__name__})"
    reason = getattr(error, "reason", error)
    return without_secrets(str(getattr(reason, "strerror", None) or reason))[:200]


class Film:
    """The frames of a video, a stream or a camera.

    Attributes:
        rate: frames a second.

    Raises:
        UserError: it cannot be opened.
    """

    def __init__(self, source: Source):
        self.source = source
        if isinstance(source.address, int):
            self._reader = cv2.VideoCapture(source.address)
            todo = "cameras are 0, 1, ...: is one plugged in, may you use it, and does no other program have it?"
        elif source.path is None:
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 1000 * SECONDS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 1000 * SECONDS]
            self._reader = cv2.VideoCapture(source.address, cv2.CAP_FFMPEG, limits)
            todo = "check address, name (NAME:PASSWORD@SERVER) and network, and whether another program can show it"
        else:
            self._reader = cv2.VideoCapture(str(source.path))
            todo = "convert it: ffmpeg -i IN out.mp4"
        self._todo = todo
        if not self._reader.isOpened():
            raise self.unreadable()
        rate = self._reader.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 1 <= rate <= 1000 else USUAL_RATE  # streams say 0, or the ticks of their clock

    def unreadable(self) -> UserError:
        """What to say where not a frame came."""
        what = {VIDEO: "no frame of this video can be read", LIVE: "there is no picture to be had from it"}
        return UserError(what[self.source.kind], where=self.source.shown, todo=self._todo)

    def frames(self, most: int = 0) -> Iterator[np.ndarray]:
        """``(H, W, 3)`` uint8 RGB, one after the other, `most` of them (0: all)."""
        number = 0
        while not most or number < most:
            good, frame = self._reader.read()
            if not good:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1

    def close(self) -> None:
        self._reader.release()
