"""The errors for answers of Google Cloud Storage, of its token servers, and of proxies."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from truss_cache_tasks.errors import (
    RUN_LATER,
    AccessDenied,
    CacheTaskError,
    CredentialError,
    NotFound,
    PermanentError,
    TransientError,
)
from truss_cache_tasks.model.listing import wrong_answer
from truss_cache_tasks.network.exchange import TooSlow, UnreadableAnswer, find_cause
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.proxies import is_permanent, proxy_refuses, proxy_status
from truss_cache_tasks.network.retry import is_transient_status


@dataclass(frozen=True)
class Asked:
    """What an error message says about the request that failed.

    Attributes:
        what: the URI of the bucket that was listed, or of the object that was read.
        permission: the one that the request needs.
        origin: where the credential was found; "" for none.
        looked_at: the places where a credential was looked for.
        redirects: how many of them a request follows.
    """

    what: str
    permission: str
    origin: str
    looked_at: str
    redirects: int


def refusal(asked: Asked, status: int, body: bytes) -> CacheTaskError:
    """Return the error for an answer of the JSON API (or the XML API) that is no success."""
    what = asked.what
    reason, message = _reason_and_message(body)
    says = f" (the store says: {message})" if message else ""
    if is_transient_status(status) or reason in ("rateLimitExceeded", "userRateLimitExceeded"):
        return TransientError(f"{what}: the store answered {status}{says}", hint=RUN_LATER)
    if reason == "UserProjectMissing" or "requester pays" in message.lower():
        return AccessDenied(
            f"{what}: the bucket is requester pays, and no project to bill was named",
            hint="Use application-default credentials with a quota project, or ask the owner for a copy elsewhere.",
        )
    if status == 407:
        return proxy_refuses(what, status)
    if status in (401, 403):
        return _denied(asked, status, says)
    if status == 404 or (status == 400 and "bucket name" in message.lower()):
        return NotFound(f"{what}: there is no such bucket{says}", hint="Correct the bucket in repo_id.")
    return CacheTaskError(f"{what}: the store answered {status}{says}", hint="Check repo_id and the bucket.")


def _denied(asked: Asked, status: int, says: str) -> AccessDenied:
    if not asked.origin:
        return AccessDenied(
            f"{asked.what}: not public, and no credential found; {asked.looked_at}{says}",
            hint="Put the JSON key of a service account at the first of these places.",
        )
    if status == 401:
        return AccessDenied(
            f"{asked.what}: the store does not accept {asked.origin}{says}",
            hint="Replace this credential by a new key.",
        )
    return AccessDenied(
        f"{asked.what}: {asked.origin} is missing {asked.permission} on {asked.what}{says}",
        hint="Grant it roles/storage.objectViewer on the bucket.",
    )


@contextlib.contextmanager
def translate_errors(asked: Asked) -> Iterator[None]:
    """Translate the exceptions of google's libraries and of requests that are raised in the block into ours.

    The block holds no other code, since each ValueError or TypeError in it becomes the error for a malformed answer.
    """
    with IMPORTS:
        import requests
        from google.auth.exceptions import GoogleAuthError, OAuthError, RefreshError, TransportError

    what, who = asked.what, asked.origin or "the credential"
    try:
        yield
    except UnreadableAnswer as exc:
        raise wrong_answer(what, exc.found, exc.expected) from exc
    except requests.TooManyRedirects as exc:
        raise wrong_answer(what, f"more than {asked.redirects} redirects", "the answer itself") from exc
    except (TransportError, requests.RequestException) as exc:
        if (status := proxy_status(exc)) is not None:
            raise proxy_refuses(what, status) from exc
        said = f"{what}: the store or its token server {_what_happened(exc)}"
        if is_permanent(exc):
            raise PermanentError(said, hint="Let SSL_CERT_FILE name the bundle that has its CA.") from exc
        raise TransientError(said, hint=RUN_LATER) from exc
    except OAuthError as exc:  # of a token that was to be exchanged; the rest of the text is the server's
        code = re.match(r"Error code ([\w.-]{1,60})", str(exc.args[0] if exc.args else ""))
        raise AccessDenied(
            f"{what}: the token service refuses the token for {who} ({code[1] if code else 'no code'})",
            hint="Let the provider trust the issuer, audience and subject of the token; else correct the file.",
        ) from None
    except RefreshError as exc:
        if exc.retryable:
            raise TransientError(f"{what}: the token server is out of order", hint=RUN_LATER) from exc
        # Of an answer that google.auth could parse, args[0] is such as `invalid_grant: Invalid JWT Signature.`. Of any
        # other it is the only argument, and may be a whole page
        why = f" ({str(exc.args[0])[:200]})" if len(exc.args) > 1 else ""
        impersonates = "impersonated" in why
        raise AccessDenied(
            f"{what}: the token server refuses {who}{why}",
            hint="Grant roles/iam.workloadIdentityUser on the service account to the identity of the token."
            if impersonates
            else "Make a new key of this service account, and check this machine's clock.",
        ) from exc
    except GoogleAuthError as exc:
        raise CredentialError(
            f"{what}: {who} cannot be used: {type(exc).__name__}", hint="Replace this credential."
        ) from exc
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as exc:
        found = f"a field that cannot be read ({type(exc).__name__})"
        raise wrong_answer(what, found, "what Google Cloud Storage or its token server answers") from exc


def _reason_and_message(body: bytes) -> tuple[str, str]:
    """Return reason and message, "" where absent, of an error of the JSON API (or the XML API), on one line."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        error = json.loads(text)["error"]
        reason, message = str((error.get("errors") or [{}])[0].get("reason", "")), str(error.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        reason, message = (
            found[1] if (found := re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) else ""
            for tag in ("Code", "Message")
        )
    return reason, " ".join(message.split())[:300].rstrip(".")


def _what_happened(exc: BaseException | None) -> str:
    """Return what happened in a few words, without a URL."""
    text = f"{type(exc).__name__} {exc}"
    if find_cause(exc, TooSlow):
        return "does not answer in time"
    for sign, word in {
        "NameResolution": "has a name that cannot be resolved",
        "Timeout": "does not answer in time",
        "SSL": "has a certificate that is not accepted",
        "Proxy": "cannot be reached through the proxy",
        "refused": "refuses the connection",
    }.items():
        if sign in text:
            return word
    return "cannot be reached"
