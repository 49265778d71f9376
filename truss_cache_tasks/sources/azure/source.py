"""List a container of Azure Blob Storage, and locate its blobs."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from urllib.parse import quote, urlencode

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, TransientError
from truss_cache_tasks.model.credentials import Credential, NoCredential
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Listing,
    Location,
    PaginationGuard,
    Pins,
    RemoteFile,
    with_query,
    wrong_answer,
)
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.client import HttpClient
from truss_cache_tasks.network.exchange import UnreadableAnswer, find_cause
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.azure.identity import Identity, identify
from truss_cache_tasks.sources.azure.pages import ListedBlob, read_page
from truss_cache_tasks.sources.azure.refusals import LIST, READ, Asked, archived, refusal
from truss_cache_tasks.sources.objects import check_pins, under_prefix

PAGE = 5000  # blobs, the most that the store gives; it may give fewer at any time


class AzureSource:
    """The blobs of one `azure://account/container/prefix`. Every method may be called from many threads."""

    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._source = request.source
        self._container = request.source.root.partition("/")[2]
        self._credential = credential
        self._network = network
        self._lock = threading.Lock()
        self._found: Identity | None = None
        self._archived: dict[str, str] = {}  # key -> why it cannot be read, of the last listing

    def __repr__(self) -> str:
        return f"AzureSource({str(self._source)!r})"

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return the blobs below the prefix, or the one blob of this name (`sources/objects.py` has the rules)."""
        if pins.known is not None:
            return pins.known
        files = list(self._files())
        if pins.files is not None:
            files = check_pins(files, pins.files, self._source)
        return under_prefix(files, self._source)

    def locate(self, file: RemoteFile) -> Location:
        """Return the URL of a blob. Sends no request, except to get a token of Entra."""
        if file.key in self._archived:
            raise archived(self._asked(file).what, self._archived[file.key])
        identity = self._identity()
        authorization = identity.authorize()
        etag = f'"{file.version}"'
        return Location(
            url=f"{identity.endpoint}/{self._container}/{quote(file.key, safe='/~')}",
            headers={"If-Match": etag, **authorization.headers},
            validator=etag,
            expires=authorization.expires,
            secret_query=authorization.query,
        )

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET of `file`."""
        return refusal(self._asked(file), status, headers, body)

    # Listing

    def _files(self) -> Iterator[RemoteFile]:
        """Yield all blobs below the prefix, and the one that is named like it."""
        self._archived = {}
        prefix = self._source.prefix
        with HttpClient(self._identity().endpoint, self._network) as client:
            below = list(self._blobs(client, f"{prefix}/" if prefix else "", PAGE))
            yield from below
            if not prefix:
                return
            try:  # of all names that begin so, it sorts first
                first = next(self._blobs(client, prefix, 1), None)
            except AccessDenied:  # a SAS may be of the folder `m/` alone
                if not below:
                    raise
                return
            if first is not None and first.key.rstrip("/") == prefix:
                yield first

    def _blobs(self, client: HttpClient, prefix: str, page_size: int) -> Iterator[RemoteFile]:
        pages = PaginationGuard(str(self._source), first="")
        marker = ""
        while True:
            found, marker = self._network.with_retries(partial(self._page, client, prefix, page_size, marker))
            self._archived |= {blob.file.key: blob.archived for blob in found if blob.archived}
            yield from (blob.file for blob in found)
            pages.check((blob.file.key for blob in found), marker or None)
            if not marker:
                return

    def _page(self, client: HttpClient, prefix: str, page_size: int, marker: str) -> tuple[list[ListedBlob], str]:
        identity = self._identity()
        authorization = identity.authorize()
        # metadata tell the folders of a hierarchical namespace from empty files
        query = {"restype": "container", "comp": "list", "include": "metadata", "maxresults": page_size}
        query |= {name: value for name, value in {"prefix": prefix, "marker": marker}.items() if value}
        url = f"{identity.endpoint}/{self._container}?{urlencode(query)}"
        secret = authorization.query.reveal() if authorization.query is not None else ""
        store = str(self._source)
        try:
            answer = client.get(with_query(url, secret), authorization.headers, store)
        except UnreadableAnswer as exc:
            raise wrong_answer(store, exc.found, exc.expected) from exc
        except TransientError as exc:
            raise self._unknown_account(exc) or exc from exc
        if answer.status != 200:
            raise refusal(self._asked(), answer.status, answer.headers, answer.body)
        return read_page(store, answer.body)

    def _unknown_account(self, error: TransientError) -> NotFound | None:
        """Return the error for an account whose host is not known: Azure gives each account a host of its own."""
        failure = find_cause(error, socket.gaierror)
        if failure is None or failure.errno != socket.EAI_NONAME:
            return None
        asked = self._asked()
        return NotFound(
            f"{asked.what}: there is no account {asked.account!r}: the name {asked.host} cannot be resolved",
            hint="Correct the account in repo_id; if it is right, check this machine's network (DNS).",
        )

    # The identity

    def _identity(self) -> Identity:
        with self._lock:
            if self._found is None:
                self._found = self._network.with_retries(
                    partial(identify, self._source, self._credential, self._network)
                )
            return self._found

    def _asked(self, file: RemoteFile | None = None) -> Asked:
        return Asked(
            source=self._source,
            what=f"{self._source.scheme}://{self._source.root}/{file.key}" if file else str(self._source),
            permission=READ if file else LIST,
            identity=self._identity(),
            looked_at=str(self._credential) if isinstance(self._credential, NoCredential) else "",
        )
