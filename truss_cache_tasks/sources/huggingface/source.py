"""Hugging Face Hub: one call resolves the commit, then its tree is listed; bytes are read from the resolve URL.

The calls go through huggingface_hub's own HTTP session, bounded as an `Exchange`. So they use its proxies, its
certificates, `HF_HUB_OFFLINE`, and the client that the user gave `set_client_factory`.

`HfApi.list_repo_tree` (2.4.0) is not used: it has no time limit, sleeps as long as a 429 asks, sends the token to any
host that a page's `Link` names, and also sends a request to `/api/agent-harnesses`.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from truss_cache_tasks.errors import RUN_AGAIN, CacheTaskError, NotFound, TransientError
from truss_cache_tasks.model.credentials import Credential, NoCredential
from truss_cache_tasks.model.listing import (
    UNPINNED,
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
from truss_cache_tasks.network.exchange import Exchange, TooSlow, UnreadableAnswer, find_cause
from truss_cache_tasks.network.imports import IMPORTS
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.huggingface.endpoints import Endpoint, Endpoints
from truss_cache_tasks.sources.huggingface.refusals import MirrorRefusals, Refusals, header
from truss_cache_tasks.sources.huggingface.session import Answer, get, open_session
from truss_cache_tasks.version import USER_AGENT

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST_REF = 255  # characters that a name on a disk can have


class _EndpointChanged(Exception):
    """The endpoint whose pages are read is unavailable, and another one is asked from now on."""


class HuggingFaceSource:
    """The files of one model repo at the Hub, read with the entry's token or without one."""

    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._request, self._network = request, network
        self._repo = request.source.root
        self._endpoints = Endpoints(network)
        self._commit: str | None = None  # of the last listing
        self._token: dict[str, str] = {}
        origin, looked_at = None, str(credential)
        if isinstance(credential, Credential):
            origin, looked_at = credential.origin, ""
            self._token["Authorization"] = f"Bearer {credential.fields['token'].reveal()}"
        self._refusals = Refusals(self._repo, self._endpoints.first.url, origin, looked_at)

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        """Resolve the revision (one call, none for a full commit) and list the whole tree of that commit.

        A commit names all its files, so only the revision of `pins` is read; `known` files are not listed.
        """
        if pins.known is not None:
            self._commit = pins.known.revision
            return pins.known
        commit = pins.revision or self._resolve(self._request.revision)
        files = self._files(commit)
        self._commit = commit
        return Listing(revision=commit, files=files)

    def locate(self, file: RemoteFile) -> Location:
        """Return the resolve URL of `file` at the listed commit; sends no request.

        It redirects to a CDN for large files. There is no validator: the final answer's ETag is that of a CDN or a
        mirror, and the files of a commit do not change.
        """
        if self._commit is None:
            raise RuntimeError("locate() is for the files of a listing: call listing() first")
        endpoint = self._endpoints.current
        return Location(
            f"{endpoint.url}/{self._repo}/resolve/{self._commit}/{quote(file.key)}",
            headers=self._headers_for(endpoint),
            validator_header="",
            pins_version=True,
            elsewhere=endpoint.elsewhere,
            explain=self._mirror_refusals(endpoint).explain if endpoint.is_mirror else None,
        )

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        """Return the error for a refused GET of `file`'s bytes, by the Hub or by the CDN behind it."""
        if 400 <= status < 500 and body.lstrip().startswith((b"<?xml", b"<Error")):  # the Hub answers in JSON
            return TransientError(
                f"{file.path}: the CDN refuses the link that the Hub gave for it ({status})",
                hint=f"{RUN_AGAIN} Such links expire, and each attempt gets a new one.",
            )
        return self._refusals.refusal(status, headers, file.path)

    def _headers_for(self, endpoint: Endpoint) -> dict[str, str]:
        """Return the headers of each request: a mirror gets no token."""
        return {"User-Agent": USER_AGENT, **({} if endpoint.is_mirror else self._token)}

    def _mirror_refusals(self, mirror: Endpoint) -> MirrorRefusals:
        return MirrorRefusals(self._repo, mirror.url, self._endpoints.first.url)

    # Requests

    def _resolve(self, revision: str) -> str:
        if _COMMIT.fullmatch(revision):
            return revision
        answer, _ = self._ask(f"revision/{quote(revision, safe='')}", {}, revision)
        if not isinstance(answer, dict) or "sha" not in answer:
            raise self._refusals.not_a_hub()
        commit = answer["sha"]
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):  # it becomes the name of a folder
            raise wrong_answer(self._repo, f"commit {quoted(commit)}", "40 lower-case hex digits")
        return commit

    def _files(self, commit: str) -> tuple[RemoteFile, ...]:
        """Return the files of the tree. All its pages are of one endpoint, as cursors are the server's own."""
        while True:
            with contextlib.suppress(_EndpointChanged):
                return tuple(self._tree(commit, self._endpoints.current))

    def _tree(self, commit: str, endpoint: Endpoint) -> Iterator[RemoteFile]:
        whole = {"recursive": "true", "expand": "false"}
        query: Mapping[str, str] | None = whole
        pages = PaginationGuard(self._repo, first=frozenset(whole.items()))
        while query is not None:
            items, following = self._ask(f"tree/{commit}", query, commit, endpoint)
            if not isinstance(items, list):
                raise self._refusals.not_a_hub()
            found = [_item(self._repo, item) for item in items]
            yield from [_remote_file(self._repo, item) for item in found if item["type"] == "file"]
            query = None if following is None else {**following, **whole}
            pages.check((item["path"] for item in found), None if query is None else frozenset(query.items()))

    def _ask(
        self, what: str, query: Mapping[str, str], revision: str, only: Endpoint | None = None
    ) -> tuple[Any, Mapping[str, str] | None]:
        """GET `what` of this repo from the API; return its JSON, and the query of the next page if there is one.

        Raises:
            _EndpointChanged: another endpoint than `only` is asked from now on.
        """
        with IMPORTS:
            from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:  # read when huggingface_hub was imported; its session refuses every request then
            raise self._refusals.offline()
        endpoint = self._endpoints.current

        def attempt() -> Answer:
            nonlocal endpoint
            endpoint = self._endpoints.current
            if only is not None and endpoint is not only:
                raise _EndpointChanged
            return self._get(endpoint, what, query, revision)

        def elsewhere() -> bool:  # of the endpoint that failed last
            return endpoint.elsewhere()

        return self._read(self._network.with_retries(attempt, elsewhere))

    def _get(self, endpoint: Endpoint, what: str, query: Mapping[str, str], revision: str = "") -> Answer:
        """GET `what` of this repo once. Raise the error that explains a refusal."""
        with IMPORTS:
            from huggingface_hub.errors import HfHubHTTPError

        session = open_session(self._network)
        http_error = HfHubHTTPError.__bases__[0]  # of httpx or httpx2, by huggingface_hub's version
        library: Any = sys.modules[http_error.__module__.partition(".")[0]]
        url = f"{endpoint.url}/api/models/{self._repo}/{what}"
        headers = self._headers_for(endpoint)
        try:
            answer = get(session, url, query, headers, Exchange(self._network.limits, self._network.cancel))
        except Exception as exc:
            if (bad := find_cause(exc, UnreadableAnswer)) is not None:
                raise wrong_answer(self._repo, bad.found, bad.expected) from exc
            if not isinstance(exc, (http_error, library.InvalidURL, TooSlow, UnicodeError)):
                raise
            raise self._refusals.unreachable(endpoint.host, exc) from exc
        if answer.status < 400:
            return answer
        if endpoint.is_mirror:
            raise self._mirror_refusals(endpoint).refusal(answer.status, answer.headers)
        if revision and header(answer.headers, "X-Error-Code") == "RevisionNotFound":
            raise self._no_revision(revision)
        raise self._refusals.refusal(answer.status, answer.headers)

    def _read(self, answer: Answer) -> tuple[Any, Mapping[str, str] | None]:
        try:
            # Only the query is used: the URL may have another host (a mirror's upstream), which must not get the token.
            query = None if answer.following is None else dict(parse_qsl(urlsplit(answer.following).query))
            return json.loads(answer.body), query
        except (ValueError, RecursionError) as exc:  # not a URL, not JSON, nested too deeply
            raise self._refusals.not_a_hub() from exc

    def _no_revision(self, revision: str) -> NotFound:
        asked = self._request.revision
        if revision != asked:
            return self._refusals.lost_commit(revision, asked)
        names: list[str] = []
        with contextlib.suppress(CacheTaskError):  # only for the hint: the error is known already
            refs, _ = self._read(
                self._get(self._endpoints.current, "refs", {"include_prs": "1"} if asked.startswith("refs/") else {})
            )
            names = _names_of_refs(refs)
        near = difflib.get_close_matches(asked, names, n=1)
        return self._refusals.no_revision(asked, near[0] if near else None, tuple(names[:5]))


def _names_of_refs(refs: object) -> list[str]:
    """Return the names of branches, tags and pull requests in `refs`; skip all that is malformed or unprintable."""
    kinds = [refs.get(kind) for kind in ("branches", "tags", "pullRequests")] if isinstance(refs, dict) else []
    found = [
        ref.get("name") for kind in kinds if isinstance(kind, list) for ref in kind[:1000] if isinstance(ref, dict)
    ]
    return [name for name in found if isinstance(name, str) and name.isprintable() and 0 < len(name) <= _LONGEST_REF]


def _item(repo: str, item: object) -> Mapping[str, Any]:
    """Return `item` of a tree if its type and path are strings, else raise. What they hold is checked elsewhere."""
    if not isinstance(item, dict) or not isinstance(item.get("type"), str) or not isinstance(item.get("path"), str):
        raise wrong_answer(repo, f"an item of the tree is {quoted(item)}", "an object with type and path")
    return item


def _remote_file(repo: str, item: Mapping[str, Any]) -> RemoteFile:
    """Return a tree item as a RemoteFile. An LFS file (Xet-backed ones are too) has a sha256, others git's SHA-1."""
    path, lfs = item["path"], item.get("lfs")
    if lfs is None:
        digest = listed_digest(repo, path, "git-sha1", item.get("oid"))
    elif isinstance(lfs, dict):
        digest = listed_digest(repo, path, "sha256", lfs.get("oid"))
    else:
        raise wrong_answer(repo, f"path {quoted(path)}: lfs {quoted(lfs)}", "an object")
    return listed_file(repo, path=path, size=item.get("size"), version=digest.value, key=path, digest=digest)
