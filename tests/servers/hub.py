"""A loopback stand-in for the Hugging Face Hub: the HTTP surface that huggingface_hub and our source speak.

    with Hub() as hub:
        hub.tokens["good"] = Rights()
        repo = hub.create("org/name", gated=True)
        commit = repo.commit({"config.json": b"{}", "w.safetensors": weights})
        repo.tag("v1")
        repo.commit({"config.json": None}, branch="refs/pr/1")     # None removes; a new ref starts at main
        hub.fail("w.safetensors", "503", "429 Retry-After=1", "cut", host="cdn")
    hub.rewrite = lambda path, answer: ...                     # lies in the JSON of the API
        ... hub.url ... hub.requests ... hub.leaks

Two sockets: the Hub at 127.0.0.1, and its CDN at localhost, to which LFS files redirect and which must never see a
token. tests/servers/test_hub.py has huggingface_hub as its judge.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

from servers.hub_repos import ANYONE, Repo, Rights, tree_item, tree_items

__all__ = ["Hub", "Repo", "Request", "Rights"]

Host = Literal["hub", "cdn"]
CHUNK = 64 << 10


@dataclass(frozen=True)
class Request:
    """One request as it arrived; `headers` have lower-case names and hide nothing."""

    host: Host
    method: str
    path: str  # decoded, without the query
    query: str
    headers: dict[str, str]

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization", "").removeprefix("Bearer ") or None


class Hub:
    """The two servers and what they know. Faults are taken in order, one for each GET whose path ends as named."""

    def __init__(self) -> None:
        self.tokens: dict[str, Rights] = {}
        self.repos: dict[str, Repo] = {}
        self.page = 1000  # entries of a tree page
        self.requests: list[Request] = []  # list.append is atomic
        self.faults: list[tuple[Host, str, list[str]]] = []
        self.released = threading.Event()  # set it to let stalled answers go on
        self.cdn_etag = "cdn"  # what the ETags of the CDN begin with; a mirror has its own
        self.rate: int | None = None  # bytes a second of each answer of the CDN; None: as fast as it goes
        self.sent: Counter[Host] = Counter()  # bytes of bodies; counted before they are written
        self.rewrite: Callable[[str, Any], Any] = lambda path, answer: answer  # of an answer of the API
        self.relink: Callable[[str | None], str | None] = lambda link: link  # of the URL of a tree's next page
        self._lock = threading.Lock()
        self._servers = {"hub": _Server(self, "hub"), "cdn": _Server(self, "cdn")}
        self.url = f"http://127.0.0.1:{self._servers['hub'].server_port}"
        self.cdn_url = f"http://localhost:{self._servers['cdn'].server_port}"

    def start(self) -> Hub:
        for server in self._servers.values():
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.released.set()
        for server in self._servers.values():
            server.stop()

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def create(self, name: str, *, gated: bool = False, private: bool = False) -> Repo:
        self.repos[name] = Repo(name, gated, private)
        return self.repos[name]

    def fail(self, path: str, *faults: str, host: Host = "hub") -> None:
        """Script the coming GETs of URL paths that end in `path` (decoded), one fault each.

        A fault is a status with headers (`503`, `429 Retry-After=2`, `403 X-Error-Code=GatedRepo`), `cut` (half the
        body, then the end), `flip` (one bit), `stall` (half the body, then nothing until `released`),
        `ignore-range` (200 and the whole), or `pass` (no fault).
        """
        self.faults.append((host, path, list(faults)))

    def next_fault(self, host: Host, path: str) -> str:
        with self._lock:
            for where, ending, faults in self.faults:
                if where == host and path.endswith(ending) and faults:
                    return faults.pop(0)
        return "pass"

    def count(self, host: Host, size: int) -> None:
        with self._lock:
            self.sent[host] += size

    @property
    def leaks(self) -> list[Request]:
        """The requests that brought a token to the CDN."""
        return [request for request in self.requests if request.host == "cdn" and "authorization" in request.headers]

    def asked(self, method: str = "", ending: str = "") -> list[Request]:
        """Return the requests of `method` whose path ends in `ending`."""
        return [r for r in self.requests if r.method.startswith(method) and r.path.endswith(ending)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hub: Hub, host: Host) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler if host == "hub" else _CdnHandler)
        self.hub, self.host = hub, host
        self._open: set[Any] = set()

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a client that hangs up is its own business."""

    def stop(self) -> None:
        self.shutdown()
        for connection in tuple(self._open):  # kept alive by a client's pool
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] = {}) -> None:
        super().__init__(message)
        named = {"X-Error-Code": code} if code else {}
        self.status, self.headers = status, {**named, "X-Error-Message": message, **headers}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.url_path, self.query = parts.path, {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.form = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        hub, path = self.server.hub, unquote(parts.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.requests.append(Request(self.server.host, self.command, path, parts.query, headers))
        self.fault = hub.next_fault(self.server.host, path) if self.command == "GET" else "pass"
        try:
            if self.fault[0].isdigit():
                status, *named = self.fault.split(" ")
                self.answer(int(status), b"", dict(header.split("=", 1) for header in named))
            else:
                self.route()
        except _Refused as refused:
            body = json.dumps({"error": str(refused)}).encode()
            self.answer(refused.status, body, refused.headers)

    do_HEAD = do_POST = do_GET

    def route(self) -> None:
        raise NotImplementedError

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault == "flip" and body:
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.fault not in ("cut", "stall"):
            self.send(memoryview(body))
            return
        half = len(body) // 2
        self.send(memoryview(body)[:half])
        self.wfile.flush()
        if self.fault == "stall":
            self.server.hub.released.wait()
            self.send(memoryview(body)[half:])
        self.close_connection = True

    def send(self, body: memoryview) -> None:
        hub, host = self.server.hub, self.server.host
        rate = hub.rate if host == "cdn" else None
        for at in range(0, len(body), CHUNK):
            chunk = body[at : at + CHUNK]
            hub.count(host, len(chunk))
            self.wfile.write(chunk)
            if rate is not None:
                hub.released.wait(len(chunk) / rate)

    def answer_file(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Answer a GET of `data`, by range where one is asked."""
        headers = {**headers, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked or self.fault == "ignore-range":
            self.answer(200, data, headers)
            return
        size, (first, last) = len(data), asked.groups()
        start = int(first) if first else max(size - int(last), 0)
        end = min(int(last) + 1, size) if first and last else size
        if start >= end:
            self.answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
            return
        self.answer(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})


class _CdnHandler(_Handler):
    """The other host: /lfs/{sha256}/{path in repo}?Signature=..., for which no token is needed, or forgiven."""

    def route(self) -> None:
        sha256 = self.url_path.split("/")[2]
        if "Authorization" in self.headers:
            raise _Refused(400, "", "Only one auth mechanism allowed")
        for repo in self.server.hub.repos.values():
            for tree in repo.trees.values():
                for file in tree.values():
                    if file.lfs and file.sha256 == sha256:
                        self.answer_file(file.data, {"ETag": f'"{self.server.hub.cdn_etag}-{sha256[:8]}"'})
                        return
        raise _Refused(404, "", "NoSuchKey")


class _HubHandler(_Handler):
    """The Hub itself: /api/models/... and /{repo}/resolve/..."""

    def route(self) -> None:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.url_path):
            self.info(*self.open(found, "list"))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.url_path):
            self.tree(*self.open(found, "list"), unquote(found[3] or ""))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", self.url_path):
            self.paths_info(*self.open(found, "list"))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/refs()", self.url_path):
            self.refs(self.open(found, "list")[0])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.url_path):
            self.file(*self.open(found, "read"), unquote(found[3]))
        else:
            raise _Refused(404, "", "Not Found")

    def open(self, found: re.Match[str], need: Literal["list", "read"]) -> tuple[Repo, str]:
        """Return repo and commit that the URL names, if the request's token gives what it needs."""
        name, revision = found[1], unquote(found[2] or "main")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        rights = self.server.hub.tokens.get(token) if token else ANYONE
        if rights is None:
            raise _Refused(401, "", "Invalid credentials in Authorization header")
        repo = self.server.hub.repos.get(name)
        if repo is None or (repo.private and not rights.private):
            raise _Refused(404 if token else 401, "RepoNotFound", "Repository not found")
        if need == "read" and repo.gated and not rights.gated:
            message = f"Access to model {name} is restricted"
            raise _Refused(403 if token else 401, "GatedRepo", message)
        if not getattr(rights, need):
            raise _Refused(403, "", f"This token lacks the permission to {need}")
        commit = repo.resolve(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def answer_json(self, value: Any, headers: Mapping[str, str] = {}) -> None:
        value = self.server.hub.rewrite(self.url_path, value)
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.answer(200, body, {"Content-Type": "application/json", **headers})

    def info(self, repo: Repo, commit: str) -> None:
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in repo.trees[commit]]
        if self.query.get("blobs", "").lower() in ("true", "1"):
            siblings = [
                {"rfilename": path, "size": len(file.data), "blobId": file.git_oid, **file.lfs_info("sha256")}
                for path, file in repo.trees[commit].items()
            ]
        gated = "auto" if repo.gated else False
        answer = {"id": repo.name, "modelId": repo.name, "sha": commit, "private": repo.private, "gated": gated}
        self.answer_json({**answer, "tags": [], "downloads": 0, "siblings": siblings})

    def tree(self, repo: Repo, commit: str, folder: str) -> None:
        items = list(tree_items(repo.trees[commit], folder, self.query.get("recursive", "").lower() == "true"))
        if folder and not items:
            raise _Refused(404, "EntryNotFound", f"{folder} does not exist", {"X-Repo-Commit": commit})
        start = int(self.query.get("cursor", 0))
        link = None
        if start + self.server.hub.page < len(items):
            query = "&".join(f"{k}={v}" for k, v in {**self.query, "cursor": start + self.server.hub.page}.items())
            link = f"{self.server.hub.url}{self.url_path}?{query}"
        link = self.server.hub.relink(link)
        headers = {} if link is None else {"Link": f'<{link}>; rel="next"'}
        self.answer_json(items[start : start + self.server.hub.page], headers)

    def paths_info(self, repo: Repo, commit: str) -> None:
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.form)["paths"]
        else:
            paths = parse_qs(self.form).get("paths", [])
        tree = repo.trees[commit]
        self.answer_json([tree_item(path, tree[path]) for path in paths if path in tree])

    def refs(self, repo: Repo) -> None:
        kinds: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
        for ref, commit in repo.refs.items():
            kind = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[ref.split("/")[1]]
            name = ref if kind == "pullRequests" else ref.split("/", 2)[2]
            kinds[kind].append({"name": name, "ref": ref, "targetCommit": commit})
        if "include_prs" not in self.query:
            del kinds["pullRequests"]
        self.answer_json(kinds)

    def file(self, repo: Repo, commit: str, path: str) -> None:
        file = repo.trees[commit].get(path)
        if file is None:
            raise _Refused(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if file.xet:
            token_url = f"{self.server.hub.url}/api/models/{repo.name}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": file.sha256[::-1], "Link": f'<{token_url}>; rel="xet-auth"'}
        if not file.lfs:
            self.answer_file(file.data, {"ETag": f'"{file.etag}"', **headers})
            return
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.data))}
        url = f"{self.server.hub.cdn_url}/lfs/{file.sha256}/{quote(path)}?Signature=signed-for-{file.sha256[:8]}"
        self.answer(302, b"", {"Location": url, "ETag": f'"{file.etag}"', **headers})
