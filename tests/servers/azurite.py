"""Azure Blob Storage on loopback: Azurite, which checks keys, SAS and tokens, and a stand-in for Entra's token server.

    with azurite() as azure:
        container = azure.container()                     # a new one; public=True: anyone may list and read it
        azure.put(container, "m/w.bin", b"...")
        azure.env                                         # the endpoint, without any credential
        azure.sas(container)                              # a SAS that lists and reads it

`sh .ci/azurite` installs it. It answers as the service does, but for what docs/adr/0033 lists.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import hmac
import http.client
import json
import os
import ssl
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from servers.tools import die_with_parent, free_ports, require, wait_until

ACCOUNT = "acctone"
OTHER_ACCOUNT = "accttwo"
KEYS = {name: base64.b64encode(hashlib.sha256(name.encode()).digest()).decode() for name in (ACCOUNT, OTHER_ACCOUNT)}
WRONG_KEY = base64.b64encode(b"not the key of any account......").decode()
TENANT, CLIENT, CLIENT_SECRET = str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), "hush-hush~of~the~application"
AUDIENCE = "https://storage.azure.com"
VERSION = "2021-12-02"


@dataclass
class Azurite:
    """A running Azurite with two accounts; puts go in by a SAS of the whole account."""

    host: str
    bundle: Path | None = None  # of the authority, over https
    _connections: dict[int, http.client.HTTPConnection] = field(default_factory=dict, repr=False)  # by thread

    @property
    def url(self) -> str:
        """The endpoint of the first account."""
        return f"{'https' if self.bundle else 'http'}://{self.host}/{ACCOUNT}"

    @property
    def env(self) -> dict[str, str]:
        """The variables of a client of this store, without a credential; nothing of the machine's own login."""
        return {
            "AZURE_STORAGE_SERVICE_ENDPOINT": self.url,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",  # no managed identity: nothing listens there
            **({"SSL_CERT_FILE": str(self.bundle)} if self.bundle else {}),
        }

    def container(self, name: str = "", *, public: str = "") -> str:
        """Make a container and return its name; `public` is `container` (anyone may list) or `blob` (may read)."""
        name = name or f"c{uuid.uuid4().hex[:12]}"
        self.ask("PUT", f"/{name}", "restype=container", headers={"x-ms-blob-public-access": public} if public else {})
        return name

    def put(self, container: str, name: str, data: bytes, metadata: str = "") -> None:
        """Store a block blob by one request, so that it gets an md5; `metadata` is a name, whose value is `true`."""
        more = {f"x-ms-meta-{metadata}": "true"} if metadata else {}
        self.ask("PUT", _path(container, name), body=data, headers={"x-ms-blob-type": "BlockBlob", **more})

    def put_in_blocks(self, container: str, name: str, *blocks: bytes, md5: bytes | None = None) -> None:
        """Store a blob as large ones are: without md5, or with one that the service does not check."""
        ids = [base64.b64encode(b"%08d" % number).decode() for number in range(len(blocks))]
        for block_id, data in zip(ids, blocks, strict=True):
            self.ask("PUT", _path(container, name), f"comp=block&blockid={urllib.parse.quote(block_id)}", body=data)
        latest = "".join(f"<Latest>{block_id}</Latest>" for block_id in ids)
        told = {"x-ms-blob-content-md5": base64.b64encode(md5).decode()} if md5 else {}
        body = f"<?xml version='1.0'?><BlockList>{latest}</BlockList>".encode()
        self.ask("PUT", _path(container, name), "comp=blocklist", body=body, headers=told)

    def delete(self, container: str, name: str) -> None:
        self.ask("DELETE", _path(container, name))

    def archive(self, container: str, name: str) -> None:
        """Move a blob to the archive tier."""
        self.ask("PUT", _path(container, name), "comp=tier", headers={"x-ms-access-tier": "Archive"})

    def sas(self, container: str = "", **parts: str) -> str:
        """Return a SAS that lists and reads: of a container, or of the account; `parts` replaces what it signs."""
        if not container:
            said = {"sv": VERSION, "ss": "b", "srt": "sco", "sp": "rl", "se": _in_s(3600), **parts}
            lines = [
                ACCOUNT,
                *(said.get(name, "") for name in ("sp", "ss", "srt", "st", "se", "sip", "spr", "sv")),
                "",
                "",
            ]
        else:
            said = {"sv": VERSION, "sr": "c", "sp": "rl", "se": _in_s(3600), **parts}
            resource = f"/blob/{ACCOUNT}/{container}"
            lines = [*(said.get(name, "") for name in ("sp", "st", "se")), resource, "",
                     *(said.get(name, "") for name in ("sip", "spr", "sv", "sr")), *[""] * 7]  # fmt: skip
        key = base64.b64decode(KEYS[ACCOUNT])
        signature = base64.b64encode(hmac.digest(key, "\n".join(lines).encode(), "sha256")).decode()
        return urllib.parse.urlencode({**said, "sig": signature})

    def ask(
        self, method: str, path: str, query: str = "", *, body: bytes = b"", headers: Mapping[str, str] = {}
    ) -> bytes:
        """Send a request with all rights; return the body of its answer, which must be a success."""
        rights = self.sas(sp="racwdlt")
        sent = {"x-ms-version": VERSION, "Content-Length": str(len(body)), **(headers or {})}
        target = f"/{ACCOUNT}{path}?{query + '&' if query else ''}{rights}"
        connection = self._connections.setdefault(threading.get_ident(), self._connect())
        try:
            connection.request(method, target, body, sent)
            response = connection.getresponse()
        except ConnectionError:  # Azurite closes a connection that was idle for some seconds
            connection.close()
            connection.request(method, target, body, sent)
            response = connection.getresponse()
        answer = bytes(response.read())
        assert response.status < 300, (response.status, answer)
        return answer

    def close(self) -> None:
        """Close the connections of puts."""
        for connection in self._connections.values():
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        if self.bundle is None:
            return http.client.HTTPConnection(self.host, timeout=60)
        return http.client.HTTPSConnection(
            self.host, timeout=60, context=ssl.create_default_context(cafile=self.bundle)
        )


def connection_string(azure: Azurite, account: str = ACCOUNT) -> str:
    """Return the connection string of an account, as the portal shows one."""
    endpoint = azure.url.replace(ACCOUNT, account)
    return f"DefaultEndpointsProtocol=http;AccountName={account};AccountKey={KEYS[account]};BlobEndpoint={endpoint};"


@contextlib.contextmanager
def azurite(authority: Path | None = None) -> Iterator[Azurite]:
    """Run Azurite in memory; with an authority (a folder of `make_authority`) over https, and with tokens of Entra."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "truss-cache-tasks"
    found = sorted(cache.glob("azurite-*/azurite"))
    program = str(found[-1]) if found else require("azurite", "sh .ci/azurite")
    (port,) = free_ports(1)
    azure = Azurite(f"127.0.0.1:{port}", authority / "ca.pem" if authority else None)
    secure = (
        ["--oauth", "basic", "--cert", authority / "server.pem", "--key", authority / "server.key"] if authority else []
    )
    command = [
        *(program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"),
        *("--skipApiVersionCheck", "--disableTelemetry", "--silent", *map(str, secure)),
    ]
    accounts = ";".join(f"{name}:{key}" for name, key in KEYS.items())
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "AZURITE_ACCOUNTS": accounts},
        preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call, and takes no lock
    ) as process:
        try:
            # it reads thousands of modules, which takes half a minute on a busy machine
            wait_until(lambda: _answers(azure), "Azurite", alive=lambda: process.poll() is None, timeout_s=90)
            yield azure
        finally:
            azure.close()
            process.kill()


def _answers(azure: Azurite) -> bool:
    connection = azure._connect()
    with contextlib.closing(connection):
        connection.request("GET", f"/{ACCOUNT}?comp=list")
        return connection.getresponse().status > 0


def _path(container: str, name: str) -> str:
    return f"/{container}/{urllib.parse.quote(name, safe='/~')}"


def _in_s(seconds: float) -> str:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# Entra


@dataclass
class Entra:
    """A token server for one application; each request for a token uses up a status of `faults`, from the front."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    faults: list[int] = field(default_factory=list)
    lifetime_s: int = 3600

    @property
    def env(self) -> dict[str, str]:
        return {"AZURE_AUTHORITY_HOST": self.url}


def token(lifetime_s: float = 3600, **claims: Any) -> str:
    """Return a token that Azurite accepts: it reads the claims, and checks no signature."""
    now = int(time.time())
    issuer = f"https://sts.windows.net/{TENANT}/"
    said = {"aud": AUDIENCE, "iss": issuer, "iat": now - 60, "nbf": now - 60, "exp": now + int(lifetime_s), **claims}
    parts = [{"alg": "HS256", "typ": "JWT"}, said]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(b"any key", signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


@contextlib.contextmanager
def entra(authority: Path) -> Iterator[Entra]:
    """Run a token server over https, with a certificate of `authority`."""
    running = Entra()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            running.asked.append(self.path)
            base = f"{running.url}/{TENANT}"
            self._answer(200, {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
            })  # fmt: skip

        def do_POST(self) -> None:
            running.asked.append(self.path)
            form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            if running.faults:
                self._answer(running.faults.pop(0), {"error": "temporarily_unavailable"})
            elif form.get("client_secret") == [CLIENT_SECRET] or "client_assertion" in form:
                lifetime = running.lifetime_s
                self._answer(200, {"access_token": token(lifetime), "expires_in": lifetime, "token_type": "Bearer"})
            else:
                said = f"AADSTS7000215: Invalid client secret provided: {form.get('client_secret')}. Trace ID: 1"
                self._answer(401, {"error": "invalid_client", "error_description": said, "error_codes": [7000215]})

        def _answer(self, status: int, said: dict[str, Any]) -> None:
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        running.url = f"https://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
