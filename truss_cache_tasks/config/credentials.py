"""The only reader of secrets; a Secret prints as ***."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from truss_cache_tasks.config.entries import DEFAULT_SECRET, Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.request import StoreKind

_LARGEST = 1 << 20  # bytes of a credential file
_HUB_TOKENS = ("hf_", "api_org_")  # what the tokens of users and of organisations begin with
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_DATA_FILES = {StoreKind.GCS: "service_account.json", StoreKind.S3: "s3_credentials.json"}
_S3_REQUIRED = ("aws_access_key_id", "aws_secret_access_key")
_S3_OPTIONAL = ("aws_region", "aws_session_token")
_GCS_REQUIRED = ("client_email", "private_key")
# What a service-account file names itself; the newer Truss form of the secret leaves it out.
_GOOGLE_TOKENS = "https://oauth2.googleapis.com/token"


class Secret:
    """A value that must not be printed; `reveal()` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret itself, for the one request that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__


@dataclass(frozen=True)
class Credential:
    """What an entry authenticates with.

    Args:
        origin: where it was found, for people (`data/s3_credentials.json`, `HF_TOKEN`); never a value.
        fields: Hugging Face: `token`. S3: `aws_access_key_id`, `aws_secret_access_key`, and where given `aws_region`,
            `aws_session_token`. GCS: `json`, the whole service-account file as text.
    """

    origin: str
    fields: Mapping[str, Secret]


def find_credential(entry: Entry, settings: Settings) -> Credential | None:
    """Return the entry's credential by the order of DESIGN section 5, as far as it is a file, a variable or the login
    token; None where only the vendor's ambient chain or anonymous access is left.

    Raises:
        CredentialError: the file is there and cannot be used; names the key that is missing, never a value.
    """
    path = next(filter(_is_there, _files(entry, settings)), None)
    if entry.request.source.kind is StoreKind.HUGGINGFACE:
        return _named_token(path, entry) if path else _ambient_token(settings)
    if path is None:
        return None
    origin = _shown(path, entry)
    text = _text(path, origin)
    fields = _s3_fields(text, origin) if entry.request.source.kind is StoreKind.S3 else _gcs_fields(text, origin)
    return Credential(origin, fields)


def fingerprint(entry: Entry, settings: Settings) -> str | None:
    """Return SHA-256 of the bytes of the credential *file* that `find_credential` would use; None if there is none.

    Ambient credentials (variables, the login token) are no file here: they rotate. Never raises for what is in the
    file: judging an entry must not fail on a malformed secret; a file that cannot be read has no fingerprint.
    """
    for path in _files(entry, settings):
        try:
            if _is_there(path):
                return hashlib.sha256(_bytes(path, "")).hexdigest()
        except CredentialError:
            return None
    return None


def _files(entry: Entry, settings: Settings) -> Iterator[Path]:
    """Yield where this entry's credential file may be, the first that is there is the one."""
    kind = entry.request.source.kind
    if kind is StoreKind.LOCAL:
        return
    if kind in _DATA_FILES:
        yield entry.data_dir / _DATA_FILES[kind]
    if kind is StoreKind.HUGGINGFACE or entry.secret_is_named:
        for folder in settings.secrets_dirs:
            yield folder / entry.runtime_secret_name


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as why:
        _fail(str(path), f"cannot be looked at ({why.strerror})", "Make it readable for this user, or remove it.")
    return True


def _shown(path: Path, entry: Entry) -> str:
    """Return the path as messages show it: relative to the config where it lies below that."""
    try:
        return str(path.relative_to(entry.config.parent))
    except ValueError:
        return str(path)


def _bytes(path: Path, origin: str) -> bytes:
    try:
        # Not blocking: a FIFO or a device of that name is refused, not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                _fail(origin, "is no file", "Put the credential file there, or remove it.")
            with open(descriptor, "rb", closefd=False) as stream:
                data = stream.read(_LARGEST + 1)
        finally:
            os.close(descriptor)
    except OSError as why:
        _fail(origin, f"cannot be read ({why.strerror})", "Make it readable for this user, or remove it.")
    if len(data) > _LARGEST:
        _fail(origin, f"is larger than {_LARGEST >> 20} MiB", "Put the credential file there, nothing else.")
    return data


def _text(path: Path, origin: str) -> str:
    try:
        return _bytes(path, origin).decode("utf-8-sig")
    except UnicodeDecodeError:
        _fail(origin, "is not UTF-8", "Save it as UTF-8 text.")


def _token_file(path: Path, origin: str) -> Credential:
    return _token(_text(path, origin), origin)


def _named_token(path: Path, entry: Entry) -> Credential:
    """Return the token of a secret, whose name a config that others wrote may have chosen.

    Such a config must not send whatever lies among the secrets to a server; only the default name is for the Hub alone.
    """
    credential = _token_file(path, str(path))
    named = entry.runtime_secret_name != DEFAULT_SECRET
    if named and not credential.fields["token"].reveal().startswith(_HUB_TOKENS):
        _fail(
            str(path),
            f"is no token of the Hub, expected one that begins with {' or '.join(_HUB_TOKENS)}",
            "Let the entry name no secret, and set HF_TOKEN to a token that its server takes.",
        )
    return credential


def _ambient_token(settings: Settings) -> Credential | None:
    if not settings.sends_implicit_token:
        return None
    for name in _TOKEN_VARIABLES:
        if value := settings.env.get(name, "").strip():
            return _token(value, name)
    path = settings.token_file()
    return _token_file(path, str(path)) if _is_there(path) else None


def _token(text: str, origin: str) -> Credential:
    """Return the token; white space around it (the newline of an editor) does not belong to it."""
    token = text.strip()
    if not token:
        _fail(origin, "is empty", "Put a token into it, or remove it to go on without.")
    if not token.isascii() or not token.isprintable() or " " in token:
        _fail(origin, "is no token: it holds white space or characters that no token has", "Put one token into it.")
    return Credential(origin, {"token": Secret(token)})


def _mapping(text: str, origin: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError as why:
        _fail(origin, f"is not JSON (line {why.lineno}, column {why.colno})", "Put the credential file there whole.")
    except (ValueError, RecursionError):  # a number of 5000 digits; brackets 10,000 deep
        _fail(origin, "is JSON that no credential file holds", "Put the credential file there whole.")
    if not isinstance(found, dict):
        _fail(origin, "is JSON, but no object", 'Write {"KEY": "VALUE", ...}.')
    return found


def _s3_fields(text: str, origin: str) -> dict[str, Secret]:
    """Read both namings: `aws_access_key_id` (Truss v1, BDN) and `access_key_id` (v2); the prefixed one wins."""
    found = _mapping(text, origin)
    fields = {}
    for name in _S3_REQUIRED + _S3_OPTIONAL:
        given = name if found.get(name) not in (None, "") else name.removeprefix("aws_")
        if found.get(given) not in (None, ""):
            fields[name] = Secret(_string(found, given, origin).strip())
        elif name in _S3_REQUIRED:
            _fail(origin, f"{name} is missing", f'Add "{name}" to it.')
    return fields


def _gcs_fields(text: str, origin: str) -> dict[str, Secret]:
    found = _mapping(text, origin)
    if found.get("type", "service_account") != "service_account":
        _fail(origin, "type: want service_account", "Download a key of a service account.")
    for name in _GCS_REQUIRED:
        if found.get(name) in (None, ""):
            _fail(origin, f"{name} is missing", "Download the key of the service account again.")
        _string(found, name, origin)
    if found.get("token_uri") in (None, ""):
        text = json.dumps({**found, "token_uri": _GOOGLE_TOKENS})
    else:
        _string(found, "token_uri", origin)
    return {"json": Secret(text)}


def _string(found: Mapping[str, Any], name: str, origin: str) -> str:
    if not isinstance(found[name], str):
        _fail(origin, f"{name}: want a string", f'Write "{name}": "VALUE".')
    return str(found[name])


def _fail(origin: str, message: str, hint: str) -> NoReturn:
    """Raise without a cause: a decoder's own error carries the text that it could not read."""
    raise CredentialError(f"{origin}: {message}", hint=hint) from None
