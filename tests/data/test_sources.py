"""What `--source` may name: files, folders, patterns, cameras, addresses; servers stand in this process."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UserError
from data.sources import LIVE, PICTURE, VIDEO, Film, PictureReader, find_sources

JPEG = cv2.imencode(".jpg", np.full((40, 60, 3), 90, np.uint8))[1].tobytes()
LOGIN = "Basic " + base64.b64encode(b"me:se/cret").decode()


class Handler(BaseHTTPRequestHandler):
    """/a.jpg and /snapshot are pictures, /closed/ wants a login, /moved sends on, /endless never ends."""

    asked: list[tuple[str, str | None]] = []

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        if path.startswith("/closed/") and self.headers.get("Authorization") != LOGIN:
            self._head(401)
        elif path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/a.jpg")
            self.end_headers()
        elif path == "/mjpeg":
            self._head(200, "multipart/x-mixed-replace; boundary=x")
            for _ in range(4):
                self.wfile.write(b"--x\r\nContent-Type: image/jpeg\r\n\r\n" + JPEG + b"\r\n")
        elif path.endswith(("/a.jpg", "/snapshot")):
            self._head(200, "image/jpeg")
            self.wfile.write(JPEG)
        elif path == "/text.jpg":
            self._head(200, "text/html")
            self.wfile.write(b"<html>")
        else:
            self._head(404)

    def _head(self, status: int, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("in/a.jpg", "in/b.png", "in/deep/a.jpg", "in/deep/[1].jpg", "other/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    (tmp_path / "in/notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*words: str) -> list[str]:
    return [source.name.as_posix() for source in find_sources(words)]


def test_patterns_are_matched_here_where_no_shell_did(folder):
    assert names("in/*.jpg") == ["a.jpg"]
    assert names("in/**/*.jpg") == ["a.jpg", "deep/[1].jpg", "deep/a.jpg"]
    assert names("in/*") == ["a.jpg", "b.png", "deep/[1].jpg", "deep/a.jpg"]
    assert names("in/deep/[1].jpg") == ["[1].jpg"], "what exists is meant, pattern or not"
    for pattern, said in (("in/*.bmp", "matches nothing"), ("in/*.txt", "none a picture or a video")):
        with pytest.raises(UserError, match=said):
            find_sources([pattern])


def test_of_several_sources_each_picture_comes_once_and_overwrites_no_other(folder):
    found = find_sources(["in/a.jpg", "in/*.jpg", "in", "other/a.jpg"])
    assert len({source.path for source in found}) == len(found) == 5
    assert len({source.name.with_suffix("") for source in found}) == 5


def test_what_cannot_be_looked_at_ends_nothing_else(folder):
    (folder / "in/c.gif").write_bytes(b"GIF89a")
    (folder / "in/d.png").symlink_to("nowhere.png")
    found = {source.shown: source.refusal for source in find_sources(["in/a.jpg", "nope.jpg", "no/*.jpg", "in"])}
    said = {Path(name).name: str(refusal) for name, refusal in found.items() if refusal}
    assert sorted(said) == ["*.jpg", "c.gif", "d.png", "nope.jpg"]
    assert "--source nope.jpg does not exist" in said["nope.jpg"]
    assert "matches nothing" in said["*.jpg"]
    assert "of the form *.gif are not read" in said["c.gif"]
    assert "is a link to what does not exist" in said["d.png"]
    with pytest.raises(UserError, match=r"\*\.gif are not read"):
        find_sources(["in/c.gif"])
    with pytest.raises(UserError, match=r"nope\.jpg does not exist"):
        find_sources(["nope.jpg", "neither.png"])


def test_links_to_folders_are_followed_and_hidden_files_left(folder):
    (folder / "in/linked").symlink_to(folder / "other")
    (folder / "in/back").symlink_to(folder / "in")
    (folder / "in/._a.jpg").write_bytes(b"what macOS says of a.jpg")
    assert names("in") == ["a.jpg", "b.png", "deep/[1].jpg", "deep/a.jpg", "linked/a.jpg"]


def test_a_number_is_a_camera_unless_there_is_such_a_folder(folder):
    (camera,) = find_sources(["0"])
    assert (camera.kind, camera.address, camera.shown) == (LIVE, 0, "camera 0")
    (folder / "in/deep").rename(folder / "0")
    assert names("0") == ["[1].jpg", "a.jpg"]


def test_a_camera_that_is_not_there_is_an_error_and_nothing_else_is_said(capfd):
    (camera,) = find_sources(["87"])
    with pytest.raises(UserError, match="camera 87: there is no picture"):
        Film(camera)
    assert capfd.readouterr().err == ""


def test_a_picture_at_an_address(server):
    by_name, by_kind = find_sources([f"http://{server}/a.jpg", f"http://{server}/snapshot?size=2"])
    assert (by_name.kind, by_kind.kind) == (PICTURE, PICTURE)
    assert by_kind.shown == f"http://{server}/snapshot?***"
    assert PictureReader().read(by_name).shape == (40, 60, 3)
    assert PictureReader().read(by_kind).shape == (40, 60, 3)


def test_a_login_goes_to_its_server_only_and_is_shown_nowhere(server):
    (closed,) = find_sources([f"http://me:se%2Fcret@{server}/closed/a.jpg"])
    assert closed.shown == f"http://***@{server}/closed/a.jpg"
    assert PictureReader().read(closed).shape == (40, 60, 3)
    (moved,) = find_sources([f"http://me:se%2Fcret@{server}/moved/a.jpg"])
    assert PictureReader().read(moved).shape == (40, 60, 3)
    assert Handler.asked[-2:] == [("/moved/a.jpg", LOGIN), ("/a.jpg", None)]
    (wrong,) = find_sources([f"http://me:wrong@{server}/closed/a.jpg"])
    with pytest.raises(UserError, match="401") as refused:
        PictureReader().read(wrong)
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(("path", "said"), [("no.jpg", "404"), ("text.jpg", "not a picture")])
def test_what_is_no_picture_at_an_address_is_said(server, path, said):
    (source,) = find_sources([f"http://{server}/{path}"])
    with pytest.raises(UserError, match=said):
        PictureReader().read(source)


def test_a_stream_of_pictures_is_read_frame_by_frame(server):
    (source,) = find_sources([f"http://{server}/mjpeg"])
    assert source.kind == LIVE
    film = Film(source)
    assert [frame.shape for frame in film.frames(most=2)] == [(40, 60, 3)] * 2
    film.close()


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a.jpg", "http://127.0.0.1:99999/a.jpg", "http:///a.jpg", "rtsp://"]
)
def test_addresses_that_lead_nowhere_are_user_errors(address):
    with pytest.raises(UserError):
        PictureReader().read(find_sources([address])[0])


def test_a_stream_that_nobody_sends_is_a_user_error_without_its_password(capfd):
    (source,) = find_sources(["rtsp://me:secret@127.0.0.1:9/live.sdp"])
    with pytest.raises(UserError, match="no picture to be had") as refused:
        Film(source)
    assert "secret" not in str(refused.value) + capfd.readouterr().err


def test_a_video_of_an_address_is_a_video():
    (source,) = find_sources(["https://host/films/street.mp4?sig=1"])
    assert (source.kind, source.name.as_posix(), source.shown) == (
        VIDEO,
        "street.mp4",
        "https://host/films/street.mp4?***",
    )
