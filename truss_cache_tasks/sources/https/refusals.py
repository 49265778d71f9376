"""The errors for answers of web servers that bring no file."""

from __future__ import annotations

from http import HTTPStatus

from truss_cache_tasks.errors import (
    RUN_AGAIN,
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    NotFound,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.credentials import Credential, NoCredential
from truss_cache_tasks.network.proxies import proxy_refuses
from truss_cache_tasks.network.retry import is_transient_status


def refusal(
    what: str, status: int, credential: Credential | NoCredential, *, is_listed: bool = False
) -> CacheTaskError:
    """Return the error for a status that is neither 200 nor 206. What the server says beside it is not shown.

    Args:
        what: the URL without its query.
        is_listed: an earlier answer had the file.
    """
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    said = f"{what}: the server answers {status} {phrase}".rstrip()
    if is_transient_status(status):
        return TransientError(said, hint=RUN_LATER)
    if status == 407:
        return proxy_refuses(what, status)
    if status in (401, 403):
        return _denied(said, credential)
    if is_listed and status in (404, 410, 412):
        return SourceChanged(f"{said}: the file changed after it was listed", hint=RUN_AGAIN)
    if status in (404, 410):
        return NotFound(said, hint="Correct the URL in the config; some servers answer so where a login is missing.")
    return CacheTaskError(said, hint="Check the URL in the config with curl.")


def _denied(said: str, credential: Credential | NoCredential) -> AccessDenied:
    if isinstance(credential, NoCredential):
        return AccessDenied(
            f"{said}, and no login was found; {credential}",
            hint="Let the entry name a secret with a token or user:password, or add the host to ~/.netrc.",
        )
    return AccessDenied(
        f"{said} to the login of {credential.origin}",
        hint="Check that this login may read the file, and that it or its signature has not expired.",
    )
