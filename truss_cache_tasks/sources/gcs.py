"""Google Cloud Storage: google-cloud-storage lists and authenticates; the bytes are plain ranged GETs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
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
    Unavailable,
)
from truss_cache_tasks.planning.listing import Digest, Listing, Location, RemoteFile
from truss_cache_tasks.sources.gcs_identity import REQUEST_S, Identity, asking, from_environment, from_key, trust
from truss_cache_tasks.sources.network import is_hopeless, proxy_refuses, proxy_status
from truss_cache_tasks.sources.prefix import under_prefix

# A composed object has no md5; every object has a crc32c
FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"
BUSY = frozenset({408, 429, 500, 502, 503, 504})


class GcsSource:
    """The objects of one `gs://bucket/prefix`. Every method may be called from many threads."""

    def __init__(self, entry: Entry, settings: Settings, *, patience_s: float = 20.0) -> None:
        """Bind the entry; nothing is asked yet. `patience_s`: how long a listing's request is tried again."""
        self._entry = entry
        self._settings = settings
        self._patience_s = patience_s
        self._source = entry.request.source
        self._lock = threading.Lock()
        self._found: tuple[Identity | None] | None = None

    def listing(self, pinned: str | None = None) -> Listing:
        """Return the objects under the prefix, or the one object of this name (`sources/prefix.py` has the rules)."""
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
        identity = self._identity()
        with self._our_errors():
            if identity:
                identity.headers()  # one refresh, under its lock, before the session can think of its own
            client = self._client(identity)
        prefix = self._source.prefix
        with contextlib.closing(client):
            with self._our_errors():
                blobs = self._list(client, prefix)
            while True:
                with self._our_errors():
                    blob = next(blobs, None)
                if blob is None:
                    return
                crc32c = None if blob.crc32c is None else Digest("crc32c", _hex(blob.crc32c))
                encoding = "gzip" if str(blob.content_encoding).lower() == "gzip" else ""
                yield RemoteFile(blob.name, blob.size or 0, str(blob.generation), blob.name, crc32c, encoding)

    def _client(self, identity: Identity | None) -> Any:
        # Else the client asks for the bucket's metadata too, in a thread, with a permission that readers lack
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        from google.auth.credentials import AnonymousCredentials
        from google.auth.transport.requests import AuthorizedSession
        from google.cloud import storage

        credentials = identity.credentials if identity else AnonymousCredentials()  # type: ignore[no-untyped-call]
        session = AuthorizedSession(  # type: ignore[no-untyped-call]
            credentials,
            refresh_status_codes=(),  # a 401 to a token of this moment is an answer; do not ask three times
            auth_request=asking(self._settings.env),
        )
        session.verify = trust(self._settings.env)
        return storage.Client(
            project="<none>",
            credentials=credentials,
            _http=session,
            client_options={"api_endpoint": self._endpoint(identity), "universe_domain": credentials.universe_domain},
        )

    def _list(self, client: Any, prefix: str) -> Iterator[Any]:
        from google.cloud.storage.retry import DEFAULT_RETRY

        return iter(
            client.list_blobs(
                self._source.root,
                prefix=prefix or None,
                end_offset=prefix + "0" if prefix else None,  # "0" follows "/": not a page of `m2/...` for `m`
                fields=FIELDS,
                page_size=1000,  # the store's most, and its default; emulators differ
                timeout=REQUEST_S,
                retry=DEFAULT_RETRY.with_predicate(_may_pass)
                .with_delay(initial=0.2, maximum=5.0)
                .with_timeout(self._patience_s),
            )
        )

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
                    self._found = (from_key(credential, env) if credential else from_environment(env),)
            return self._found[0]

    @contextlib.contextmanager
    def _our_errors(self) -> Iterator[None]:
        """Translate what google's libraries raise. Guards calls of theirs alone."""
        import requests
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError

        what = f"gs://{self._source.root}"
        wait = "Check the network, or wait and run again."
        try:
            yield
        except RetryError as exc:
            cause = exc.cause
            seen = f"answered {cause.code}" if isinstance(cause, GoogleAPICallError) else _network_word(cause)
            raise Unavailable(f"{what}: no listing within {self._patience_s:g} s: the store {seen}", hint=wait) from exc
        except GoogleAPICallError as exc:
            body = getattr(exc.response, "content", b"")
            raise self._refused(what, int(exc.code or 0), body, "storage.objects.list") from exc
        except (TransportError, requests.RequestException) as exc:
            if (status := proxy_status(exc)) is not None:
                raise proxy_refuses(what, status) from exc
            hint = "Let SSL_CERT_FILE name the bundle that has its CA." if is_hopeless(exc) else wait
            raise Unavailable(f"{what}: the store or its token server {_network_word(exc)}", hint=hint) from exc
        except RefreshError as exc:
            if exc.retryable:
                raise Unavailable(f"{what}: the token server is out of order", hint=wait) from exc
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

    def _refused(self, what: str, status: int, body: bytes, permission: str) -> CacheTaskError:
        """Return what an answer of the JSON API (or the XML API) that is no success means."""
        reason, message = _words(body)
        says = f" (the store says: {message})" if message else ""
        if status in BUSY or reason in ("rateLimitExceeded", "userRateLimitExceeded"):
            return Unavailable(f"{what}: the store answered {status}{says}", hint="Wait, and run again.")
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


def _may_pass(exc: Exception) -> bool:
    """Whether a failed request of a listing is worth another: google's own rule, save for what is hopeless."""
    import requests
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import TransportError

    if isinstance(exc, GoogleAPICallError):
        return exc.code in BUSY
    passing = (ConnectionError, TransportError, requests.ConnectionError, requests.Timeout)
    return isinstance(exc, (*passing, requests.exceptions.ChunkedEncodingError)) and not is_hopeless(exc)


def _hex(crc32c: str) -> str:
    """Return base64 of four big-endian bytes as eight hex digits.

    >>> _hex("4waSgw==")
    'e3069283'
    """
    import base64

    return base64.b64decode(crc32c).hex()


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
