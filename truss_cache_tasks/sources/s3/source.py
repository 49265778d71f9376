"""S3 and stores with its API. botocore sends listings and HEADs; the GETs of bytes are signed by `signing.py`."""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from truss_cache_tasks.errors import RUN_AGAIN, AccessDenied, CacheTaskError, NotFound, SourceChanged
from truss_cache_tasks.model.credentials import Credential, NoCredential, Role
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Digest,
    FilePin,
    Listing,
    Location,
    PaginationGuard,
    Pins,
    RemoteFile,
    listed_file,
    quoted,
    wrong_answer,
)
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.objects import check_pins, under_prefix
from truss_cache_tasks.sources.s3.digests import digest_of_head, head_of_answer
from truss_cache_tasks.sources.s3.identity import SESSIONS, Identity, identify
from truss_cache_tasks.sources.s3.logs import unlogged
from truss_cache_tasks.sources.s3.refusals import Asked, is_transient, refusal_of_body, translate_errors
from truss_cache_tasks.sources.s3.signing import signed_headers

SIGNED_FOR_S = 600  # S3 accepts a signature for 15 minutes; clocks differ, and a request may have to wait
CHECKSUMS = {"x-amz-checksum-mode": "ENABLED"}  # asks for checksums; only an answer with the whole object has them
HEADS = 8  # requests at once, for the parts of an object or for pinned files


@dataclass(frozen=True)
class _Bucket:
    """The URL that a key is appended to, and the region to sign for, as the listing found them."""

    url: str
    region: str


class S3Source:
    """The objects below `s3://bucket/prefix`, or of another store with the S3 API (`Store.s3`).

    Safe to use from many threads; sends no request until it is asked.
    """

    def __init__(self, request: Request, credential: Credential | Role | NoCredential, network: Network) -> None:
        self._source = request.source
        self._name = request.source.store.s3.split(request.source.root)[1]  # of the bucket, at the server
        self._credential = credential
        self._network = network
        self._lock = threading.Lock()
        self._finding = threading.Lock()  # of the bucket; taken before `_lock`
        self._connected: tuple[Any, Identity] | None = None
        self._bucket: _Bucket | None = None
        self._digests: dict[RemoteFile, Digest | None] = {}

    def __repr__(self) -> str:
        return f"S3Source({str(self._source)!r})"

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return every object below the prefix.

        Each pinned file is looked up by a HEAD of its own, of its version id if the pin has one. The digest of a known
        file is left to `locate`, as that of a listed one is: the sizes of its parts are not known either.

        Raises:
            NothingSelected: there is no object, or there are only folder markers.
        """
        if pins.known is not None:
            return replace(pins.known, files=tuple(replace(file, digest=None) for file in pins.known.files))
        if pins.files is not None:
            return under_prefix(self._pinned(pins.files, in_detail=pins.in_detail), self._source)
        prefix = self._source.prefix
        if not prefix:
            return under_prefix(self._objects(""), self._source)
        below = list(self._objects(prefix + "/"))
        try:
            return under_prefix([*below, *self._itself(prefix)], self._source)
        except AccessDenied:  # a policy may allow the prefix `m/*` and not `m`
            if not below:
                raise
            return under_prefix(below, self._source)

    def locate(self, file: RemoteFile) -> Location:
        """Return a GET of `file`, signed now. Its `fetch_digest` sends HEADs, and may raise SourceChanged."""
        bucket = self._found_bucket()
        url = f"{bucket.url}/{urllib.parse.quote(file.key, safe='/~')}"
        if file.version_id:
            url += f"?versionId={urllib.parse.quote(file.version_id, safe='~')}"
        etag = f'"{file.version}"'
        headers, expires = CHECKSUMS, None
        _, identity = self._client()
        if identity.credentials is not None:
            with translate_errors(self._asked(file)), SESSIONS:  # only one thread refreshes an expired credential
                keys = identity.credentials.get_frozen_credentials()
            now = time.time()
            headers = signed_headers(url, CHECKSUMS, bucket.region, keys, now)
            expires = now + SIGNED_FOR_S
        return Location(
            url,
            {"If-Match": etag, **headers},
            validator=etag,
            pins_version=bool(file.version_id),
            expires=expires,
            fetch_digest=partial(self._fetch_digest, file),
            digest_from_headers=partial(self._digest_from_headers, file),
        )

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a GET of `file`'s bytes that S3 refused with `status`, `headers` and `body`."""
        return refusal_of_body(self._asked(file), status, headers, body)

    # Listing

    def _objects(self, prefix: str) -> Iterator[RemoteFile]:
        store = str(self._source)
        pages = PaginationGuard(store)
        cursor: dict[str, str] = {}
        while True:
            page = self._page(Prefix=prefix, **cursor)
            found = self._files(page)
            yield from found
            token = page.get("NextContinuationToken") if page.get("IsTruncated") else None
            pages.check((file.key for file in found), token)
            if token:
                cursor = {"ContinuationToken": token}
            elif page.get("IsTruncated"):
                raise wrong_answer(store, "a page that is not the last, and names no next one", "its token")
            else:
                return

    def _itself(self, key: str) -> Iterator[RemoteFile]:
        """Yield the object named `key`, if there is one: of all keys with this prefix it sorts first."""
        page = self._page(Prefix=key, MaxKeys=1)
        yield from (found for found in self._files(page) if found.key == key)

    def _page(self, **what: Any) -> Mapping[str, Any]:
        def ask() -> Mapping[str, Any]:
            client, _ = self._client()
            with translate_errors(self._asked()):
                page: Mapping[str, Any] = client.list_objects_v2(Bucket=self._name, **what)
                return page

        return self._network.with_retries(ask)

    def _files(self, page: Mapping[str, Any]) -> list[RemoteFile]:
        return [_remote_file(str(self._source), found) for found in page.get("Contents", ())]

    def _pinned(self, pins: Sequence[FilePin], *, in_detail: bool) -> list[RemoteFile]:
        self._found_bucket()
        with ThreadPoolExecutor(HEADS) as pool:
            found = list(pool.map(partial(self._find, in_detail=in_detail), pins))
        return check_pins([file for file in found if file], pins, self._source)

    def _found_bucket(self) -> _Bucket:
        """Return where the bucket is. A short listing finds it if nothing was listed yet: botocore finds the region."""
        with self._finding:
            if self._bucket is None:
                self._page(Prefix=f"{self._source.prefix}/" if self._source.prefix else "", MaxKeys=1)
        assert self._bucket is not None, "a listing noted it"
        return self._bucket

    def _find(self, pin: FilePin, *, in_detail: bool) -> RemoteFile | None:
        """Return the object, or the version of it, that a pin names; None where it is gone."""
        client, _ = self._client()
        named = RemoteFile(pin.key, 0, pin.version, pin.key, version_id=pin.version_id)
        try:
            head = self._network.with_retries(partial(self._head, client, named))
        except (NotFound, SourceChanged):
            return None
        size, etag = head.get("ContentLength"), _plain(head.get("ETag"))
        file = listed_file(str(self._source), path=pin.key, size=size, version=etag, key=pin.key)
        if not in_detail:
            return replace(file, version_id=pin.version_id)
        file = replace(file, version_id=pin.version_id or str(head.get("VersionId") or ""))
        digest = digest_of_head(head, self._name, partial(self._look_at_parts, client, file))
        return replace(file, digest=digest)

    # Looking at one object

    def _fetch_digest(self, file: RemoteFile) -> Digest | None:
        if file in self._digests:
            return self._digests[file]
        client, _ = self._client()
        head = self._head(client, file)
        etag = _plain(head.get("ETag"))
        if etag != file.version or head.get("ContentLength") != file.size:
            raise SourceChanged(
                f"{self._uri(file)}: replaced since it was listed (ETag {quoted(etag)}, listed {file.version})",
                hint=RUN_AGAIN,
            )
        digest = digest_of_head(head, self._name, partial(self._look_at_parts, client, file))
        self._digests[file] = digest
        return digest

    def _digest_from_headers(self, file: RemoteFile, headers: Mapping[str, str]) -> Digest | None:
        """Return the digest in the headers of a GET of the whole file; for a composite one, ask for its parts too."""
        client, _ = self._client()
        head = {**head_of_answer(headers), "ContentLength": file.size}
        return digest_of_head(head, self._name, partial(self._look_at_parts, client, file))

    def _head(self, client: Any, file: RemoteFile) -> Mapping[str, Any]:
        with IMPORTS:
            from botocore.exceptions import ClientError

        where = self._where(file)
        with translate_errors(self._asked(file)):
            try:
                head: Mapping[str, Any] = client.head_object(**where, ChecksumMode="ENABLED")
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (400, 401, 403):
                    raise
                # A refused HEAD has no body that says why. Send a GET, which is refused with a body.
                client.get_object(**where, Range="bytes=0-0")["Body"].close()
                raise
        return head

    def _look_at_parts(self, client: Any, file: RemoteFile, count: int) -> Sequence[Mapping[str, Any]]:
        """Return the exact Size of each of the `count` parts of `file`; () if they cannot be learnt.

        Each part also has its checksums, if the store gives them, as S3 does.

        1. HEAD of the first part: shows whether the store knows parts at all. One that does not may answer
           GetObjectAttributes with the whole object.
        2. GetObjectAttributes: lists a thousand parts at once, but needs a permission of its own, and not every store
           has it.
        3. HEAD of each other part: needs no further permission.

        Equal sizes are not assumed: with wrong sizes good bytes would be taken for corrupt ones.
        """
        with IMPORTS:
            from botocore.exceptions import ClientError

        where = self._where(file)

        def look(number: int) -> Mapping[str, Any]:
            with unlogged():  # in a thread of the pool
                head: Mapping[str, Any] = client.head_object(**where, PartNumber=number, ChecksumMode="ENABLED")
            return {**head, "Size": head["ContentLength"]}

        with translate_errors(self._asked(file)), ThreadPoolExecutor(HEADS) as pool:
            try:
                first = look(1)
                if first.get("PartsCount") != count:
                    return ()
                with suppress(ClientError):
                    parts = _attributed_parts(client, where)
                    if len(parts) == count and sum(part["Size"] for part in parts) == file.size:
                        return parts
                return [first, *pool.map(look, range(2, count + 1))]
            except ClientError as error:
                if is_transient(error.response):
                    raise  # transient: to go on without sizes would leave the file unverified
                return ()

    def _uri(self, file: RemoteFile) -> str:
        return f"{self._source.scheme}://{self._source.root}/{file.key}"

    def _where(self, file: RemoteFile) -> dict[str, str]:
        version = {"VersionId": file.version_id} if file.version_id else {}
        return {"Bucket": self._name, "Key": file.key, **version}

    # The client

    def _client(self) -> tuple[Any, Identity]:
        with self._lock:
            if self._connected is None:
                self._connected = self._connect()
            return self._connected

    def _connect(self) -> tuple[Any, Identity]:
        with IMPORTS:
            from truss_cache_tasks.sources.s3.session import open_client

        identity = identify(self._credential, self._network, self._source)
        client = open_client(identity, self._network, self._source)
        client.meta.events.register("after-call.s3.ListObjectsV2", self._note_bucket)
        return client, identity

    def _note_bucket(self, http_response: Any, context: Mapping[str, Any], **_: Any) -> None:
        """Keep the URL that botocore chose and the region that it signed for, after it followed a redirect, if any.

        `generate_presigned_url` is not used for this: its URL is that of the global endpoint, for any region.
        """
        region = str(context.get("signing", {}).get("region") or context.get("client_region"))
        self._bucket = _Bucket(http_response.url.partition("?")[0].rstrip("/"), region)

    def _asked(self, file: RemoteFile | None = None) -> Asked:
        client, identity = self._client()
        return Asked(
            source=self._source,
            what=self._uri(file) if file else str(self._source),
            action=_action(file),
            origin=identity.origin,
            endpoint=urllib.parse.urlsplit(client.meta.endpoint_url).netloc.rpartition("@")[2],
            region=client.meta.region_name,
        )


def _action(file: RemoteFile | None) -> str:
    """Return the permission to read `file`; without a file, the permission to list."""
    if file is None:
        return "s3:ListBucket"
    return "s3:GetObjectVersion" if file.version_id else "s3:GetObject"


def _remote_file(store: str, found: Mapping[str, Any]) -> RemoteFile:
    key = found.get("Key")
    return listed_file(store, path=key, size=found.get("Size"), version=_plain(found.get("ETag")), key=key)


def _plain(etag: object) -> object:
    return etag.removeprefix("W/").strip('"') if isinstance(etag, str) else etag


def _attributed_parts(client: Any, where: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    marker = 0
    while True:
        page = client.get_object_attributes(**where, ObjectAttributes=["ObjectParts"], PartNumberMarker=marker)
        parts = page.get("ObjectParts", {})
        found += parts.get("Parts", ())
        following = int(parts.get("NextPartNumberMarker") or 0)
        if not parts.get("IsTruncated") or following <= marker:
            return found
        marker = following
