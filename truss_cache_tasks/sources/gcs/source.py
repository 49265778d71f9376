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

from truss_cache_tasks.errors import RUN_AGAIN, CacheTaskError, PermanentError, SourceChanged, TransientError
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Digest,
    Listing,
    Location,
    PaginationGuard,
    Pins,
    RemoteFile,
    listed_digest,
    listed_file,
    quoted,
    wrong_answer,
)
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.retry import retry_after_s
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.gcs.identity import Identity, identify
from truss_cache_tasks.sources.gcs.refusals import Asked, refusal, translate_errors
from truss_cache_tasks.sources.objects import check_pins, under_prefix

# A composed object has no md5; every object has a crc32c
FIELDS = "items(name,size,generation,crc32c,contentEncoding),nextPageToken"

_NUMBER = re.compile("[0-9]{1,19}")


class GcsSource:
    """The objects of one `gs://bucket/prefix`. Every method may be called from many threads."""

    def __init__(self, request: Request, credential: Credential | Role | NoCredential, network: Network) -> None:
        self._source = request.source
        self._credential = credential
        self._network = network
        self._lock = threading.Lock()
        self._found: tuple[Identity | None] | None = None  # None: not looked for yet; (None,): anonymous

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return the objects under the prefix, or the one object of this name (`sources/objects.py` has the rules).

        Pinned files are looked up among all generations of the bucket, so a pin holds after its file was replaced.
        """
        if pins.known is not None:
            return pins.known
        if pins.files is None:
            return under_prefix(self._objects(), self._source)
        kept = {(pin.key, pin.version) for pin in pins.files}
        known = list(self._objects(versions=True))
        found = [file for file in known if (file.key, file.version) in kept]
        if any(not pin.version for pin in pins.files):
            found += [file for file in self._objects() if (file.key, "") in kept]
        return under_prefix(check_pins(found, pins.files, self._source, known), self._source)

    def locate(self, file: RemoteFile) -> Location:
        """Return the media URL of exactly this generation. Sends no request, except to refresh an expired token."""
        identity = self._identity()
        # Without this header GCS decodes an object that is stored as gzip, and then ranges do not work
        headers, expires = {"Accept-Encoding": "gzip"}, None
        with translate_errors(self._asked()):
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
        """Return the error for a refused GET of `file`."""
        asked = self._asked(file)
        if status in (404, 412):
            return SourceChanged(
                f"{asked.what}: generation {file.version} is gone, replaced or deleted since it was listed",
                hint=RUN_AGAIN,
            )
        return refusal(asked, status, body)

    def _objects(self, *, versions: bool = False) -> Iterator[RemoteFile]:
        """Yield the object named like the prefix, those below it, and some siblings (`m-hf/x` beside `m`), by name.

        Args:
            versions: every generation of each, replaced and deleted ones too, as far as the bucket keeps them.
        """
        with IMPORTS:
            from truss_cache_tasks.sources.requests_session import bounded_session

        store = str(self._source)
        pages = PaginationGuard(store)
        token: str | None = None
        with bounded_session(self._network) as session:
            while True:
                items, token = self._network.with_retries(partial(self._page, session, token, versions))
                found = [_remote_file(store, item) for item in items]
                yield from found
                pages.check((f"{file.key}@{file.version}" for file in found), token)
                if token is None:
                    return

    def _page(self, session: Any, token: str | None, versions: bool) -> tuple[list[Any], str | None]:
        """Return the items of the page that `token` names, None for the first, and the token of the next one."""
        prefix, identity = self._source.prefix, self._identity()
        query: dict[str, str | int | None] = {
            "prefix": prefix or None,
            "endOffset": prefix + "0" if prefix else None,  # "0" follows "/": for `m`, `m2/...` is not listed
            "fields": FIELDS,
            "maxResults": 1000,  # the store's maximum and default; emulators have others
            "prettyPrint": "false",
            "pageToken": token,
            "versions": "true" if versions else None,
        }
        asked = self._asked()
        with translate_errors(asked):
            url = f"{self._endpoint(identity)}/storage/v1/b/{quote(self._source.root, safe='')}/o"
            headers = identity.headers()[0] if identity else {}
            response = session.get(url, params=query, headers=headers)
        if response.status_code >= 300:
            error = refusal(asked, response.status_code, response.content)
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
            raise wrong_answer(str(self._source), f"a page that is {quoted(page)}", "an object with a list of items")
        following = page.get("nextPageToken") or None
        if following is not None and not isinstance(following, str):
            raise wrong_answer(str(self._source), f"nextPageToken {quoted(following)}", "text")
        return items, following

    def _endpoint(self, identity: Identity | None) -> str:
        host = self._network.variable("STORAGE_EMULATOR_HOST").rstrip("/")
        if host:
            return host if "://" in host else f"http://{host}"
        return f"https://storage.{identity.credentials.universe_domain if identity else 'googleapis.com'}"

    def _identity(self) -> Identity | None:
        with self._lock:
            if self._found is None:
                with translate_errors(self._asked()):
                    self._found = (identify(self._credential, self._network, self._source),)
            return self._found[0]

    def _asked(self, file: RemoteFile | None = None) -> Asked:
        identity = self._found[0] if self._found else None
        return Asked(
            what=f"gs://{self._source.root}{f'/{file.key}' if file else ''}",
            permission="storage.objects.get" if file else "storage.objects.list",
            origin=identity.origin if identity else "",
            looked_at=str(self._credential) if isinstance(self._credential, NoCredential) else "",
            redirects=self._network.limits.redirects,
        )


def _remote_file(store: str, item: object) -> RemoteFile:
    """Return an item of a listing as a RemoteFile. Numbers are texts in the JSON API."""
    if not isinstance(item, dict):
        raise wrong_answer(store, f"an item is {quoted(item)}", "an object")
    name, size, generation = item.get("name"), item.get("size", "0"), item.get("generation")
    if not isinstance(generation, str) or not _NUMBER.fullmatch(generation):
        raise wrong_answer(store, f"path {quoted(name)}: generation {quoted(generation)}", "a number as text")
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
    """Return the digest of a `crc32c` field, which is base64 of four big-endian bytes; None where there is none.

    >>> str(_digest("gs://b", "w.bin", "4waSgw=="))
    'crc32c e3069283'
    """
    if crc32c is None:
        return None
    value = crc32c
    with contextlib.suppress(ValueError):  # `listed_digest` refuses what is not base64, and shows it
        value = base64.b64decode(crc32c, validate=True).hex() if isinstance(crc32c, str) else crc32c
    return listed_digest(store, name, "crc32c", value)
