"""Read the login of a web server from the text of a secret, or from netrc."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import Credential, Secret, TokenCredential
from truss_cache_tasks.model.stores import stores

_FIELDS = ("token", "username", "password", "query", "host")
_ALIASES = {"bearer": "token", "user": "username"}
_TOKEN = re.compile("[A-Za-z0-9._~+/-]+=*")  # https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_QUERY = re.compile("[!$-~]+")
_FORMS = 'Write a token, or user:password, or ?QUERY, or JSON: {"token": ..} | {"username": .., "password": ..}.'


def read_secret(text: str, origin: str, host: str) -> Credential:
    """Return the login in a secret.

    A config from elsewhere may name any secret of this machine. So a secret that is of another store (a token of the
    Hub, JSON with other fields) is refused, and one that names a `host` is used for that host alone.

    Args:
        text: one of: a token; `user:password`; `?` and a query, such as that of a signed URL; a JSON object with
            `token`, or `username` and `password`, or `query`, and with `host` or not.
        origin: where it was found, for messages.
        host: that it would be sent to, without a port.

    Raises:
        CredentialError: it is none of these, or not for this host. The message shows no value.
    """
    found = _fields(text.strip(), origin)
    if found.get("host", host).lower() != host:
        _fail(origin, f"is a login of another host, expected one of {host}", "Let the entry name another secret.")
    values = [parameter.partition("=")[2] for parameter in found.get("query", "").split("&")]
    for value in (*(found.get(name, "") for name in ("token", "username", "password")), *values):
        _refuse_other_stores(value, origin, host)
    fields = {}
    if "token" in found:
        _require(bool(_TOKEN.fullmatch(found["token"])), origin, "is no token: it holds characters that no token has")
        fields["authorization"] = Secret(f"Bearer {found['token']}")
    elif "username" in found:
        fields["authorization"] = _basic(found["username"], found.get("password", ""))
    if query := found.get("query", "").lstrip("?&"):
        _require(bool(_QUERY.fullmatch(query)), origin, "holds a query with characters that no URL has")
        fields["query"] = Secret(query)
    _require(bool(fields), origin, "holds no login")
    return Credential(origin, fields)


def find_in_netrc(path: Path, host: str) -> Credential | None:
    """Return the login of `host` in a netrc file; None without one. `default` is not used: it would match any host.

    Raises:
        CredentialError: the file cannot be read.
    """
    import netrc

    if path.is_fifo():  # to open it would wait
        _fail(str(path), "is no file", "Put the file there, or let NETRC name another one.")
    try:
        hosts = netrc.netrc(str(path)).hosts
    except (FileNotFoundError, NotADirectoryError):
        return None
    except netrc.NetrcParseError as why:  # its text shows the word that it could not read
        _fail(str(path), f"cannot be read, line {why.lineno}", "Repair that line, or let NETRC name another file.")
    except (OSError, UnicodeDecodeError) as why:
        said = getattr(why, "strerror", None) or "it is not UTF-8"
        _fail(str(path), f"cannot be read ({said})", "Make it readable for this user, or let NETRC name another file.")
    for machine, (login, _, password) in hosts.items():
        if machine.lower() == host and machine != "default" and password:
            return Credential(str(path), {"authorization": _basic(login, password)})
    return None


def _fields(text: str, origin: str) -> dict[str, str]:
    if not text:
        _fail(origin, "is empty", "Put a login into it, or remove it to go on without.")
    if text.startswith("{"):
        return _checked(_json(text, origin), origin)
    if text.startswith("?"):
        return {"query": text}
    username, colon, password = text.partition(":")  # a token has no ':'
    if not colon:
        return {"token": text}
    _require(text.isprintable() and not password.startswith("//"), origin, "is no user:password")  # a file; a URL
    return {"username": username, "password": password}


def _json(text: str, origin: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        _fail(origin, "begins with '{' and is not JSON", _FORMS)
    assert isinstance(found, dict), "JSON that begins with '{' is an object"
    return found


def _checked(found: Mapping[str, Any], origin: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for given, value in found.items():
        name = _ALIASES.get(given, given)
        if name not in _FIELDS:
            _fail(origin, f"has a field that is none of {', '.join(_FIELDS)}", _FORMS)
        if not isinstance(value, str):
            _fail(origin, f"{given}: expected a string", f'Write "{given}": "VALUE".')
        if value.strip():
            fields[name] = value.strip()
    if {"token", "username"} <= set(fields):
        _fail(origin, "has a token and a username", "Keep one of the two.")
    return fields


def _refuse_other_stores(value: str, origin: str, host: str) -> None:
    for store in stores():
        spec = store.credential
        if isinstance(spec, TokenCredential) and spec.begins_with and value.startswith(spec.begins_with):
            hint = f"Let the entry name a secret of {host}, or write the source as {store.scheme}://..."
            _fail(origin, f"is a token of {store.scheme}://, which is not sent to {host}", hint)


def _basic(username: str, password: str) -> Secret:
    return Secret(f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}")


def _require(is_right: bool, origin: str, message: str) -> None:
    if not is_right:
        _fail(origin, message, _FORMS)


def _fail(origin: str, message: str, hint: str) -> NoReturn:
    """Raise CredentialError without a cause, because the error of a parser holds the text that it could not read."""
    raise CredentialError(f"{origin}: {message}", hint=hint) from None
