"""One file of a web server: asked for by a GET of its first byte, whose answer has its size, version and digest.

HEAD is not used: some servers refuse it, and URLs that are signed for GET do not allow it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import unquote

from truss_cache_tasks.errors import CacheTaskError, IntegrityError, NotFound, TransientError, WrongAnswer
from truss_cache_tasks.model.credentials import Credential, NoCredential, Secret
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Digest,
    Listing,
    Location,
    Pins,
    RemoteFile,
    listed_file,
    quoted,
)
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.network.exchange import UnreadableAnswer
from truss_cache_tasks.network.retry import retry_after_s
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.https.digests import WANT, digest_of_file, knows_more
from truss_cache_tasks.sources.https.refusals import refusal
from truss_cache_tasks.sources.https.session import Head, ask
from truss_cache_tasks.sources.https.validators import new_version, validator_of, version_of
from truss_cache_tasks.sources.objects import check_pins
from truss_cache_tasks.version import USER_AGENT

_RANGE = re.compile(r"bytes 0-0/([0-9]{1,19})")
_LENGTH = re.compile("[0-9]{1,19}")
_LOOK_AT_SERVER = "Look at the server, or at the proxy before it: `curl -v -r 0-0 URL` shows what it sends."
_PAGES = ("text/html", "application/xhtml+xml")


class HttpsSource:
    """The file that a URL names. Safe to use from many threads; sends no request until it is asked."""

    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._source = request.source
        self._given = Digest("sha256", request.digest.partition(":")[2]) if request.digest else None
        self._credential = credential
        self._network = network
        fields = credential.fields if isinstance(credential, Credential) else {}
        self._headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT, **WANT}
        if "authorization" in fields:
            self._headers["Authorization"] = fields["authorization"].reveal()
        queries = (self._source.query, fields["query"].reveal() if "query" in fields else "")
        self._query = Secret("&".join(filter(None, queries)))

    def __repr__(self) -> str:
        return f"HttpsSource({str(self._source)!r})"

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Return the one file. A known file is not asked for.

        Raises:
            IntegrityError: the server tells another digest than the user gave.
        """
        if pins.known is not None:
            return replace(pins.known, files=tuple(map(self._known, pins.known.files)))
        if pins.files is None:
            return Listing("", (self._ask(),), single=True)
        try:
            found = [self._ask()]
        except NotFound:
            found = []
        return Listing("", tuple(check_pins(found, pins.files, self._source)), single=True)

    def locate(self, file: RemoteFile) -> Location:
        """Return the URL of the file. Sends no request."""
        validator = validator_of(file.version)
        return Location(
            self._source.url,
            {**self._headers, **validator.condition},
            secret_query=self._query if self._query.reveal() else None,
            validator=validator.value,
            validator_header=validator.header,
            digest_from_headers=partial(digest_of_file, is_whole=True),
        )

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET of the file."""
        return refusal(str(self._source), status, self._credential, is_listed=True)

    def _known(self, file: RemoteFile) -> RemoteFile:
        """Return a file of a lock, which has a version of its own where the lock has none."""
        return self._with_digest(file if file.version else replace(file, version=new_version()))

    def _ask(self) -> RemoteFile:
        return self._network.with_retries(self._ask_once)

    def _ask_once(self) -> RemoteFile:
        head = self._get({"Range": "bytes=0-0"})
        digest = digest_of_file(head.headers, is_whole=head.status == 200)
        # 416: an empty file has no first byte
        if head.status == 416 or (head.status == 206 and digest is None and knows_more(head.headers)):
            whole = self._get({})
            digest = digest_of_file(whole.headers, is_whole=whole.status == 200)
            head = whole if head.status == 416 else head
        if head.status not in (200, 206):
            raise self._refusal(head)
        store, key = str(self._source), self._source.prefix
        size = self._size(head)
        name = unquote(key.partition("?")[0].rpartition("/")[2])
        file = listed_file(store, path=name, size=size, version=version_of(head.headers), key=key, digest=digest)
        self._refuse_page(head, file)
        return self._with_digest(file)

    def _get(self, headers: Mapping[str, str]) -> Head:
        url = Location(self._source.url, secret_query=self._query).secret_url
        try:
            return ask(url, {**self._headers, **headers}, self._network, str(self._source))
        except UnreadableAnswer as exc:
            raise self._unusable(exc.found, exc.expected, _LOOK_AT_SERVER) from exc

    def _refusal(self, head: Head) -> CacheTaskError:
        error = refusal(str(self._source), head.status, self._credential)
        if isinstance(error, TransientError):
            error.retry_after_s = retry_after_s(head.headers)
        return error

    def _size(self, head: Head) -> int:
        """Return the size of the file, by an answer with its first byte or with all of it."""
        coding = head.headers.get("Content-Encoding", "").strip().lower()
        if coding not in ("", "identity"):
            hint = (
                "Let the server send the file as it is, without Content-Encoding: ranges of encoded bytes mean nothing."
            )
            raise self._unusable(f"the encoding {quoted(coding)}", "none", hint)
        if head.status == 206:
            said = head.headers.get("Content-Range", "")
            if (match := _RANGE.fullmatch(said.strip())) is None:
                raise self._unusable(f"Content-Range {quoted(said)}", "'bytes 0-0/SIZE'", _LOOK_AT_SERVER)
            return int(match[1])
        length = head.headers.get("Content-Length", "").strip()
        if not _LENGTH.fullmatch(length):
            raise self._unusable("no size of the file", "Content-Length or Content-Range", _LOOK_AT_SERVER)
        return int(length)

    def _refuse_page(self, head: Head, file: RemoteFile) -> None:
        """Raise WrongAnswer for a page in place of a file: that of a login, or one that describes the file."""
        kind = head.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        is_page = kind in _PAGES and not file.path.lower().endswith((".html", ".htm", ".xhtml"))
        if is_page and self._given is None and file.digest is None:
            hint = (
                "Open the URL in a browser: write the address of the file itself, or give a login; "
                "if it is the file, give its digest."
            )
            raise self._unusable(f"a page ({kind}) of {head.host}", "the file", hint)

    def _unusable(self, found: str, expected: str, hint: str) -> WrongAnswer:
        return WrongAnswer(f"{self._source}: the server sends {found}, expected {expected}", hint=hint)

    def _with_digest(self, file: RemoteFile) -> RemoteFile:
        """Return the file with the digest that the user gave, if that is not contradicted."""
        given, known = self._given, file.digest
        if given is None:
            return file
        if known is not None and known.algorithm == given.algorithm and known != given:
            raise IntegrityError(
                f"{self._source}: found {known}, expected {given}",
                hint="Check the digest in cache_tasks(digests=) or TRUSS_CACHE_DIGESTS, and the file of the server.",
            )
        return replace(file, digest=given)
