"""Addresses of cameras and servers: what may be shown of them, and how their names and passwords are sent."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https")
"""What begins so, with ``://`` behind it, is an address and no path."""
HIDDEN = "***"
# All up to the last @ is hidden: a password may itself hold one, or a slash that should have been written %2F. Of a
# query, where tokens are, only that there is one is shown.
_SECRETS = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}:/{1,2})(\S*@)?([^\s?'\"]*)(\?[^\s'\"]*[^\s'\":;,.)])?")


def is_address(text: str) -> bool:
    """Whether somebody typed an address: only then anything is asked of a network."""
    return text.strip().lower().startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def without_secrets(text: str) -> str:
    """`text` with nothing of any address in it that would let somebody in: no name, password or query."""
    if ":/" not in text:
        return text
    return _SECRETS.sub(_hidden, text)


def _hidden(found: re.Match[str]) -> str:
    scheme, login, rest, query = found.groups()
    return f"{scheme}{f'{HIDDEN}@' if login else ''}{rest}{f'?{HIDDEN}' if query else ''}"


def split_login(address: str) -> tuple[str, tuple[str, str] | None]:
    """The address without name and password, and these, if there are any."""
    parts = urlsplit(address)
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return address, None
    name, _, password = login.partition(":")
    return urlunsplit(parts._replace(netloc=host)), (unquote(name), unquote(password))
