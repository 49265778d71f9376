"""Google Cloud Storage: google.auth authenticates; the listing is its JSON API, the bytes are plain ranged GETs."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from truss_cache_tasks.config.credentials import find_credential
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.settings import Settings
from truss_cache_tasks.errors import (
    AccessDenied,
    CacheTaskError,
    CredentialError,
    NotFound,
    SourceChanged,
    TransientError,
)
from truss_cache_tasks.model.listing import (
    Digest,
    Listing,
    Location,
    Pages,
    RemoteFile,
    listed_digest,
    listed_file,
    shown,
    wrong_answer,
)
from truss_cache_tasks.model.stores import Credential
from truss_cache_tasks.network.exchange import DEFAULT_LIMITS, BadResponse, ExchangeLimits, TooSlow, find_cause
from truss_cache_tasks.network.proxies import is_hopeless, proxy_refuses, proxy_status
from truss_cache_tasks.network.retry import (
    NEVER,
    CancelToken,
    PermanentError,
    is_passing,
    retry_after_s,
    run_with_retries,
)
from truss_cache_tasks.sources.gcs.identity import Identity, from_environment, from_key
from truss_cache_tasks.sources.objects import under_prefix

# A composed object has no md5; every object has a crc32c
FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"

_NUMBER = re.compile("[0-9]{1,19}")


class GcsSource:
    """The objects of one `gs://bucket/prefix`. Every method may be called from many threads."""

    def __init__(
        self,
        entry: Entry,
        settings: Settings,
        *,
        limits: ExchangeLimits = DEFAULT_LIMITS,
        cancel: CancelToken = NEVER,
    ) -> None:
        """Bind the entry; nothing is asked yet. `limits` are of each request, `cancel` ends its waits."""
        self._entry = entry
        self._settings = settings
        self._limits, self._cancel = limits, cancel
        self._source = entry.request.source
        self._lock = threading.Lock()
        self._found: tuple[Identity | None] | None = None

    def listing(self, pinned: str | None = None) -> Listing:
        """Return the objects under the prefix, or the one object of this name (`sources/objects.py` has the rules)."""
        return under_prefix(self._objects(), self._source)

    def locate(self, file: RemoteFile) -> Location:
        """Return the media URL of exactly this generation. Asks nobody, save for a token that is due."""
        identity = self._identity()
        # A stored gzip object comes as it is stored; without this header GCS decodes it, and ranges do not work
        headers, expires = {"Accept-Encoding": "gzip"}, None
        with self._our_errors():
            endpoint = self._endpoint(identity)
            if identity:
                more, expires = identity.headers()
                headers |= more
        bucket, name = quote(self._source.root, safe=""), quote(file.key, safe="")
        return Location(
            url=f"{endpoint}/storage/v1/b/{bucket}/o/{name}?alt=media&generation={file.version}",
            headers=headers,
            validator=file.version,
            validator_header="X-Goog-Generation",
            pins_version=True,
            expires=expires,
        )

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return what a refused GET of `file` means."""
        what = f"gs://{self._source.root}/{file.key}"
        if status in (404, 412):
            return SourceChanged(
                f"{what}: generation {file.version} is gone, replaced or deleted since it was listed", hint="Run again."
            )
        return self._refused(what, status, body, "storage.objects.get")

    def _objects(self) -> Iterator[RemoteFile]:
        """Yield every object whose name begins with the prefix, siblings too, in the order of their names."""
        from truss_cache_tasks.sources.gcs.session import bounded_session

        store = str(self._source)
        pages = Pages(store)
        token: str | None = None
        with bounded_session(self._settings.env, self._limits, self._cancel) as session:
            while True:
                ask = partial(self._page, session, token)
                items, token = run_with_retries(ask, self._limits.retry, self._cancel)
                found = [_remote_file(store, item) for item in items]
                yield from found
                pages.take((file.key for file in found), token)
                if token is None:
                    return

    def _page(self, session: Any, token: str | None) -> tuple[list[Any], str | None]:
        """Return the items of the page that `token` names, None for the first, and the token of the next one."""
        prefix, identity = self._source.prefix, self._identity()
        query: dict[str, str | int | None] = {
            "prefix": prefix or None,
            "endOffset": prefix + "0" if prefix else None,  # "0" follows "/": not a page of `m2/...` for `m`
            "fields": FIELDS,
            "maxResults": 1000,  # the store's most, and its default; emulators differ
            "prettyPrint": "false",
            "pageToken": token,
        }
        with self._our_errors():
            url = f"{self._endpoint(identity)}/storage/v1/b/{quote(self._source.root, safe='')}/o"
            headers = identity.headers()[0] if identity else {}
            response = session.get(url, params=query, headers=headers)
        if response.status_code >= 300:
            error = self._refused(
                f"gs://{self._source.root}", response.status_code, response.content, "storage.objects.list"
            )
            if isinstance(error, TransientError):
                error.retry_after_s = retry_after_s(response.headers)
            raise error
        return self._read(response.content)

    def _read(self, body: bytes) -> tuple[list[Any], str | None]:
        try:
            page = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise PermanentError(
                f"{self._source}: the answer is not that of Google Cloud Storage",
                hint="Check STORAGE_EMULATOR_HOST, and the network for a login page.",
            ) from exc
        items = page.get("items", []) if isinstance(page, dict) else page
        if not isinstance(page, dict) or not isinstance(items, list):
            raise wrong_answer(str(self._source), f"a page that is {shown(page)}", "an object with a list of items")
        following = page.get("nextPageToken") or None
        if following is not None and not isinstance(following, str):
            raise wrong_answer(str(self._source), f"nextPageToken {shown(following)}", "text")
        return items, following

    def _endpoint(self, identity: Identity | None) -> str:
        host = self._settings.env.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        if host:
            return host if "://" in host else f"http://{host}"
        return f"https://storage.{identity.credentials.universe_domain if identity else 'googleapis.com'}"

    def _identity(self) -> Identity | None:
        with self._lock:
            if self._found is None:
                with self._our_errors():
                    credential = find_credential(self._entry, self._settings)
                    env = self._settings.env
                    if isinstance(credential, Credential):
                        self._found = (from_key(credential, env, self._limits),)
                    else:
                        self._found = (from_environment(env, self._limits),)
            return self._found[0]

    @contextlib.contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Translate what google's libraries raise. Guards calls of theirs alone."""
        import requests
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError

        what = f"gs://{self._source.root}"
        wait = "Check the network, or wait and run again."
        try:
            yield
        except BadResponse as exc:
            raise wrong_answer(what, exc.found, exc.expected) from exc
        except requests.TooManyRedirects as exc:
            raise wrong_answer(what, f"more than {self._limits.redirects} redirects", "the answer itself") from exc
        except (TransportError, requests.RequestException) as exc:
            if (status := proxy_status(exc)) is not None:
                raise proxy_refuses(what, status) from exc
            said = f"{what}: the store or its token server {_network_word(exc)}"
            if is_hopeless(exc):
                raise PermanentError(said, hint="Let SSL_CERT_FILE name the bundle that has its CA.") from exc
            raise TransientError(said, hint=wait) from exc
        except RefreshError as exc:
            if exc.retryable:
                raise TransientError(f"{what}: the token server is out of order", hint=wait) from exc
            # With a parsed answer the text is `invalid_grant: Invalid JWT Signature.`; else it is a page of anything
            why = f" ({str(exc.args[0])[:200]})" if len(exc.args) > 1 else ""
            raise AccessDenied(
                f"{what}: the token server refuses {self._who()}{why}",
                hint="Make a new key of this service account, and check this machine's clock.",
            ) from exc
        except GoogleAuthError as exc:
            raise CredentialError(
                f"{what}: {self._who()} cannot be used: {type(exc).__name__}", hint="Replace this credential."
            ) from exc
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as exc:
            found = f"a field that cannot be read ({type(exc).__name__})"
            raise wrong_answer(what, found, "what Google Cloud Storage or its token server answers") from exc

    def _refused(self, what: str, status: int, body: bytes, permission: str) -> CacheTaskError:
        """Return what an answer of the JSON API (or the XML API) that is no success means."""
        reason, message = _words(body)
        says = f" (the store says: {message})" if message else ""
        if is_passing(status) or reason in ("rateLimitExceeded", "userRateLimitExceeded"):
            return TransientError(f"{what}: the store answered {status}{says}", hint="Wait, and run again.")
        if reason == "UserProjectMissing" or "requester pays" in message.lower():
            return AccessDenied(
                f"{what}: the bucket is requester pays, and no project to bill was named",
                hint="Use application-default credentials with a quota project, or ask the owner for a copy elsewhere.",
            )
        if status == 407:
            return proxy_refuses(what, status)
        if status in (401, 403):
            return self._denied(what, status, says, permission)
        if status == 404 or (status == 400 and "bucket name" in message.lower()):
            return NotFound(f"{what}: there is no such bucket{says}", hint="Correct the bucket in repo_id.")
        return CacheTaskError(f"{what}: the store answered {status}{says}", hint="Check repo_id and the bucket.")

    def _denied(self, what: str, status: int, says: str, permission: str) -> AccessDenied:
        if self._found is None or self._found[0] is None:
            return AccessDenied(
                f"{what}: not public, and no credential found; looked at {self._places()}{says}",
                hint="Put the JSON key of a service account at the first of these places.",
            )
        if status == 401:
            return AccessDenied(
                f"{what}: the store does not accept {self._who()}{says}", hint="Replace this credential by a new key."
            )
        return AccessDenied(
            f"{what}: {self._who()} is missing {permission} on {what}{says}",
            hint="Grant it roles/storage.objectViewer on the bucket.",
        )

    def _who(self) -> str:
        identity = self._found[0] if self._found else None
        return identity.origin if identity else "the credential"

    def _places(self) -> str:
        places = [str(self._entry.data_dir / "service_account.json")]
        if self._entry.secret_is_named:
            places.append(f"the secret {self._entry.runtime_secret_name}")
        return ", ".join([*places, "GOOGLE_APPLICATION_CREDENTIALS", "gcloud's login", "the metadata server"])


def _remote_file(store: str, item: object) -> RemoteFile:
    """Read an item of a listing; the JSON API has its numbers as text."""
    if not isinstance(item, dict):
        raise wrong_answer(store, f"an item is {shown(item)}", "an object")
    name, size, generation = item.get("name"), item.get("size", "0"), item.get("generation")
    if not isinstance(generation, str) or not _NUMBER.fullmatch(generation):
        raise wrong_answer(store, f"path {shown(name)}: generation {shown(generation)}", "a number as text")
    return listed_file(
        store,
        path=name,
        size=int(size) if isinstance(size, str) and _NUMBER.fullmatch(size) else size,
        version=generation,
        key=name,
        digest=_digest(store, name, item.get("crc32c")),
        encoding="gzip" if str(item.get("contentEncoding")).lower() == "gzip" else "",
    )


def _digest(store: str, name: object, crc32c: object) -> Digest | None:
    """Read base64 of four big-endian bytes.

    >>> str(_digest("gs://b", "w.bin", "4waSgw=="))
    'crc32c e3069283'
    """
    if crc32c is None:
        return None
    value = crc32c
    with contextlib.suppress(ValueError):  # then it is judged, and shown, as it is
        value = base64.b64decode(crc32c, validate=True).hex() if isinstance(crc32c, str) else crc32c
    return listed_digest(store, name, "crc32c", value)


def _words(body: bytes) -> tuple[str, str]:
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


def _network_word(exc: BaseException | None) -> str:
    """Return what happened, in words without a URL."""
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
