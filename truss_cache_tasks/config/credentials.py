"""Find an entry's credential, in files, variables and the login. No other module reads secrets."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, assert_never

from truss_cache_tasks.config.entries import DEFAULT_SECRET, Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import CredentialError
from truss_cache_tasks.model.credentials import (
    Credential,
    JsonCredential,
    LoginCredential,
    NoCredential,
    Role,
    Secret,
    TokenCredential,
)

_LARGEST = 1 << 20  # bytes of a credential file


def find_credential(entry: Entry, settings: Settings) -> Credential | Role | NoCredential:
    """Return the entry's credential: a file in the data folder, else a secret, a variable, the login token, or netrc.

    The role of an entry takes the place of a secret. NoCredential where only the credential chain of the vendor's SDK
    or anonymous access remains.

    Raises:
        CredentialError: the file exists and cannot be used (names a missing field, never a value); or the store knows
            no such role.
    """
    _check_role(entry)
    path = next(filter(_is_there, _candidates(entry, settings)), None)
    match entry.request.source.store.credential:
        case TokenCredential() as spec:
            if path is not None:
                return _named_token(path, entry, spec)
            return _ambient_token(spec, settings) or _no_token(entry, spec, settings)
        case JsonCredential() as spec:
            if path is None:
                return entry.role or _no_file(entry, spec)
            origin = _shown(path, entry)
            return Credential(origin, _fields(_text(path, origin), spec, origin))
        case LoginCredential() as spec:
            return _login(path, entry, spec, settings)
        case None:
            return NoCredential()
        case spec:
            assert_never(spec)


def fingerprint(entry: Entry, settings: Settings) -> str | None:
    """Return SHA-256 of the bytes of the credential file that `find_credential` would use; None if there is none.

    Variables and the login token have no fingerprint, because they rotate. Raises nothing for the contents of the file,
    since reading a status must not fail on a malformed secret; a file that cannot be read has no fingerprint.
    """
    for path in _candidates(entry, settings):
        try:
            if _is_there(path):
                return hashlib.sha256(_bytes(path, "")).hexdigest()
        except CredentialError:
            return None
    return None


def _candidates(entry: Entry, settings: Settings) -> Iterator[Path]:
    """Yield the paths of this entry's credential file, in order; the first that exists is used."""
    has_secret = entry.secret_is_named
    match entry.request.source.store.credential:
        case None:
            return
        case LoginCredential():
            pass
        case TokenCredential() as spec:
            has_secret = has_secret or spec.is_hub
        case JsonCredential() as spec:
            yield entry.data_dir / spec.file
        case spec:
            assert_never(spec)
    if has_secret:
        yield from _secrets(entry, settings)


def _secrets(entry: Entry, settings: Settings) -> list[Path]:
    return [folder / entry.runtime_secret_name for folder in settings.secrets_dirs]


def _check_role(entry: Entry) -> None:
    """Raise CredentialError for a role of a method that the entry's store does not know."""
    store = entry.request.source.store
    if entry.role is None or entry.role.method in store.auth_methods:
        return
    methods = ("CUSTOM_SECRET", *store.auth_methods)
    _fail(
        f"{entry.where}.auth",
        f"{entry.role.method} gives no access to {store.scheme}://, expected {' or '.join(methods)}",
        "Correct auth_method, or remove auth for what is public.",
    )


def _no_token(entry: Entry, spec: TokenCredential, settings: Settings) -> NoCredential:
    looked_at = [str(path) for path in _candidates(entry, settings)]
    if spec.is_hub and not settings.sends_implicit_token:
        return NoCredential(tuple(looked_at), "HF_HUB_DISABLE_IMPLICIT_TOKEN is set")
    looked_at += spec.variables[:1]
    return NoCredential((*looked_at, "the login of `hf auth login`") if spec.is_hub else tuple(looked_at))


def _login(path: Path | None, entry: Entry, spec: LoginCredential, settings: Settings) -> Credential | NoCredential:
    from urllib.parse import urlsplit  # neither is needed by the other stores

    from truss_cache_tasks.config.logins import find_in_netrc, read_secret

    host = urlsplit(entry.request.source.url).hostname or ""
    if path is not None:
        return read_secret(_text(path, str(path)), str(path), host)
    netrc = settings.named_file(spec.variables, "~/.netrc")
    places = (*map(str, _candidates(entry, settings)), str(netrc))
    return find_in_netrc(netrc, host) or NoCredential(places)


def _no_file(entry: Entry, spec: JsonCredential) -> NoCredential:
    secret = [f"the secret {entry.runtime_secret_name}"] if entry.secret_is_named else []
    return NoCredential((str(entry.data_dir / spec.file), *secret, *spec.ambient))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as why:
        _fail(str(path), f"cannot be looked at ({why.strerror})", "Make it readable for this user, or remove it.")
    return True


def _shown(path: Path, entry: Entry) -> str:
    """Return the path for messages: relative to the config's folder where it is below that."""
    try:
        return str(path.relative_to(entry.config.parent))
    except ValueError:
        return str(path)


def _bytes(path: Path, origin: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO or a device of that name must not wait; it is refused below.
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


def _named_token(path: Path, entry: Entry, spec: TokenCredential) -> Credential:
    """Return the token in a secret file; refuse one that is not a token of the entry's store.

    A config from elsewhere may name any secret of this machine, and must not send it to a server. The default name is
    not checked: it is the Hub's.
    """
    credential = _token_file(path, str(path))
    named = entry.runtime_secret_name != DEFAULT_SECRET
    if named and spec.begins_with and not credential.fields["token"].reveal().startswith(spec.begins_with):
        found = "is no token of the Hub" if spec.is_hub else f"is no token of {entry.request.source.scheme}://"
        _fail(
            str(path),
            f"{found}, expected one that begins with {' or '.join(spec.begins_with)}",
            f"Let the entry name no secret, and set {spec.variables[0]} to a token that its server takes."
            if spec.variables
            else "Put a token of this store there.",
        )
    return credential


def _ambient_token(spec: TokenCredential, settings: Settings) -> Credential | None:
    if spec.is_hub and not settings.sends_implicit_token:
        return None
    for name in spec.variables:
        if value := settings.variable(name).strip():
            return _token(value, name)
    path = settings.token_file()
    return _token_file(path, str(path)) if spec.is_hub and _is_there(path) else None


def _token(text: str, origin: str) -> Credential:
    """Return the token in `text`, without the white space around it (the newline of an editor)."""
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
    except (ValueError, RecursionError):  # a number with too many digits; nested too deeply
        _fail(origin, "is JSON that no credential file holds", "Put the credential file there whole.")
    if not isinstance(found, dict):
        _fail(origin, "is JSON, but no object", 'Write {"KEY": "VALUE", ...}.')
    return found


def _fields(text: str, spec: JsonCredential, origin: str) -> dict[str, Secret]:
    """Return the fields of a credential file that the source gets.

    A field may be written without the store's prefix; `aws_region` takes precedence over `region`.
    """
    found = _mapping(text, origin)
    for name, value in spec.fixed:
        if found.get(name, value) != value:
            _fail(origin, f"{name}: expected {value}", spec.remedy or f'Write "{name}": "{value}".')
    fields = {}
    required = spec.required + _alternative(found, spec, origin)
    for name in required + spec.optional:
        given = name if found.get(name) not in (None, "") else name.removeprefix(spec.prefix)
        if found.get(given) not in (None, ""):
            fields[name] = Secret(_string(found, given, origin).strip())
        elif name in required:
            _fail(origin, f"{name} is missing", spec.remedy or f'Add "{name}" to it.')
    added = {}
    for name, value in spec.defaults:
        if found.get(name) in (None, ""):
            added[name] = value
        else:
            _string(found, name, origin)
    if spec.is_whole:
        return {"json": Secret(json.dumps({**found, **added}) if added else text)}
    return {**{name: Secret(value) for name, value in added.items()}, **fields}


def _alternative(found: Mapping[str, Any], spec: JsonCredential, origin: str) -> tuple[str, ...]:
    """Return the one set of fields among the alternatives that a credential file holds, at least in part."""
    given = [fields for fields in spec.alternatives if any(found.get(name) not in (None, "") for name in fields)]
    if len(given) == 1 or not spec.alternatives:
        return given[0] if given else ()
    expected = " | ".join(" + ".join(fields) for fields in spec.alternatives)
    held = " and ".join(fields[0] for fields in given) or "none of its fields"
    _fail(origin, f"holds {held}, expected one of {expected}", spec.remedy or "Write the fields of one credential.")


def _string(found: Mapping[str, Any], name: str, origin: str) -> str:
    if not isinstance(found[name], str):
        _fail(origin, f"{name}: expected a string", f'Write "{name}": "VALUE".')
    return str(found[name])


def _fail(origin: str, message: str, hint: str) -> NoReturn:
    """Raise CredentialError without a cause, because the error of a decoder holds the text that it could not read."""
    raise CredentialError(f"{origin}: {message}", hint=hint) from None
