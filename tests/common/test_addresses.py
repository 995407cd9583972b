"""What of an address may be shown."""

from __future__ import annotations

import logging

import pytest

from common.addresses import is_address, split_login, without_secrets
from common.errors import UserError
from common.log import log, show_log


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://me:pass@host:554/live", "rtsp://***@host:554/live"),
        ("http://me:p@ss@host/a.jpg", "http://***@host/a.jpg"),
        ("https://me:pa/ss#word?@host/a", "https://***@host/a"),
        ("http://host/a.jpg?token=abc", "http://host/a.jpg?***"),
        ("see http://me:x@host/a?k=v: not found", "see http://***@host/a?***: not found"),
        ("rtsp:/me:pass@host/live", "rtsp:/***@host/live"),
        ("/a/path: no address", "/a/path: no address"),
        ("http://host/plain.jpg: said", "http://host/plain.jpg: said"),
    ],
)
def test_nothing_that_lets_somebody_in_is_shown(text, shown):
    assert without_secrets(text) == shown
    assert without_secrets(shown) == shown


def test_only_what_is_typed_as_an_address_is_one():
    assert is_address("RTSP://host")
    assert not is_address("rtsp")
    assert not is_address("file:///etc/passwd")
    assert not is_address("pictures/http.jpg")


def test_the_login_is_taken_out_and_decoded():
    assert split_login("http://me:se%2Fcret@host:80/a?b=c") == ("http://host:80/a?b=c", ("me", "se/cret"))
    assert split_login("http://host/a") == ("http://host/a", None)


def test_errors_and_the_log_hide_logins_whoever_wrote_them(capsys):
    error = UserError("cannot read http://me:pass@host/x", where="rtsp://me:pass@host", todo="try http://a:pass@b")
    assert "pass" not in str(error) + error.problem + error.todo
    before = log.handlers[:]
    log.handlers.clear()
    show_log(logging.INFO)
    try:
        log.warning("left out: %s", "rtsp://me:pass@host/live")
        assert capsys.readouterr().err == "left out: rtsp://***@host/live\n"
    finally:
        log.handlers[:] = before
        log.propagate = True
