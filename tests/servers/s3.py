"""Two real S3 servers that check keys (SeaweedFS, moto with IAM on), and a stub of a bucket in another region."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from servers.named import Named, named
from servers.tools import die_with_parent, free_ports, require, wait_until

REGION = "us-east-1"
# Names under which both servers answer: a bucket is the first part of the path, or the label before such a name.
R2_ACCOUNT = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
HOSTS = (
    f"{R2_ACCOUNT}.r2.cloudflarestorage.com",
    f"{R2_ACCOUNT}.eu.r2.cloudflarestorage.com",
    "cwobject.com",
    "s3.test",
)


@dataclass(frozen=True)
class Keys:
    """One identity of a server."""

    access: str
    secret: str
    token: str | None = None

    def fields(self) -> dict[str, str]:
        """Return them as `s3_credentials.json` has them."""
        fields = {"aws_access_key_id": self.access, "aws_secret_access_key": self.secret}
        return fields | ({"aws_session_token": self.token} if self.token else {})

    def env(self) -> dict[str, str]:
        """Return them as boto3's chain reads them from the environment."""
        return {name.upper(): value for name, value in self.fields().items()}


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Args:
        url: its endpoint.
        identities: `admin` (everything), `ro` (list and read), `getonly`, `listonly`.
        public: a bucket that anyone may list and read; None where the server has no such thing.
    """

    url: str
    identities: Mapping[str, Keys]
    public: str | None = None
    bucket: str = "weights"
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def env(self) -> dict[str, str]:
        """The variables that lead a client here, without any key."""
        return {"AWS_ENDPOINT_URL_S3": self.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def client(self, identity: str = "admin", service: str = "s3") -> Any:
        """Return boto3's own client, the judge of what is in a bucket."""
        name = f"{service}:{identity}"
        if name not in self._clients:
            self._clients[name] = client_of(self.url, self.identities[identity], service)
        return self._clients[name]


def client_of(url: str, keys: Keys, service: str = "s3") -> Any:
    """Return a boto3 client for `keys`."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        service,
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        aws_session_token=keys.token,
        config=Config(signature_version="s3v4" if service == "s3" else None, max_pool_connections=32),
    )


@contextlib.contextmanager
def _process(command: list[str], log: Path, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (
        log.open("wb") as out,
        subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={**os.environ, **env},
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call, and takes no lock
        ) as process,
    ):
        try:
            yield process
        finally:
            # SeaweedFS lives on for minutes after SIGTERM, and answers 500.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def under_names(url: str, folder: Path) -> contextlib.AbstractContextManager[Named]:
    """Run a proxy that leads to the server at `url` under all of `HOSTS`, its certificates in `folder`."""
    return named(url, folder, *HOSTS, *(f"*.{host}" for host in HOSTS))


# SeaweedFS


@contextlib.contextmanager
def seaweedfs() -> Iterator[S3Server]:
    """Run SeaweedFS in a temporary folder (ready in about 4 s, 200 to 400 MB); its `public` bucket is public."""
    identities = {name: Keys(f"AK{name.upper()}", f"SK-of-{name}-0123456789") for name in SEAWEED_ACTIONS}
    with tempfile.TemporaryDirectory(prefix="weed-") as folder:
        config, data, log = (Path(folder) / name for name in ("s3.json", "d", "log"))
        data.mkdir()
        config.write_text(json.dumps({"identities": _seaweed_identities(identities)}))
        ports = free_ports(8)
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
                 "filer.port.grpc", "s3.port", "s3.port.grpc")  # fmt: skip
        command = [
            *(require("weed"), "-logtostderr=true", "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
            *("-filer", "-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"),
            f"-s3.domainName={','.join(HOSTS)}",
            *("-master.volumeSizeLimitMB=64", "-volume.max=200", "-master.telemetry=false"),
        ]
        server = S3Server(f"http://127.0.0.1:{ports[6]}", identities, public="public")
        with _process(command, log, {}) as process:
            alive = lambda: process.poll() is None  # noqa: E731 - a word for it
            try:
                wait_until(lambda: _status(f"{server.url}/healthz") == 200, "SeaweedFS", alive=alive)
                wait_until(lambda: _accepts_writes(server), "a volume of SeaweedFS", alive=alive)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from None
            yield server


SEAWEED_ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "ro": ["Read", "List"],
    "getonly": ["Read"],
    "listonly": ["List"],
}


def _seaweed_identities(identities: Mapping[str, Keys]) -> list[dict[str, Any]]:
    known = [
        {
            "name": name,
            "credentials": [{"accessKey": keys.access, "secretKey": keys.secret}],
            "actions": SEAWEED_ACTIONS[name],
        }
        for name, keys in identities.items()
    ]
    return [{"name": "anonymous", "actions": ["Read:public", "List:public"]}, *known]


def _accepts_writes(server: S3Server) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    try:
        for bucket in (server.bucket, server.public):
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"ready")
            client.delete_object(Bucket=bucket, Key="ready")
    except (BotoCoreError, ClientError):
        return False
    return True


def _status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return int(answer.status)


# moto

MOTO_PAGE = 100  # keys of a page of a listing; in S3 they are 1000, and moto takes 20 ms for each object


@contextlib.contextmanager
def moto_server() -> Iterator[S3Server]:
    """Run moto in a process of its own, with IAM users whose signatures and rights it checks; nothing is public."""
    require("moto_server")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    nobody = Keys("AKNOBODY", "nothing-is-checked-yet")
    with tempfile.TemporaryDirectory(prefix="moto-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        env = {
            "AWS_EC2_METADATA_DISABLED": "true",
            "MOTO_S3_DEFAULT_MAX_KEYS": str(MOTO_PAGE),
            "MOTO_S3_CUSTOM_ENDPOINTS": ",".join(f"https://{host}" for host in HOSTS),
        }
        with _process(command, log, env) as process:
            try:
                wait_until(lambda: _status(f"{url}/moto-api/") == 200, "moto", alive=lambda: process.poll() is None)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from None
            iam = client_of(url, nobody, "iam")
            server = S3Server(url, {name: _moto_user(iam, name, actions) for name, actions in MOTO_ACTIONS.items()})
            client_of(url, nobody).create_bucket(Bucket=server.bucket)
            enforce = urllib.request.Request(
                f"{url}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"}, method="POST"
            )
            with urllib.request.urlopen(enforce, timeout=5):
                yield server


MOTO_ACTIONS = {
    "admin": ["s3:*", "sts:*", "iam:*"],
    "ro": ["s3:GetObject", "s3:GetObjectAttributes", "s3:ListBucket"],
    "getonly": ["s3:GetObject"],
    "listonly": ["s3:ListBucket"],
}


def _moto_user(iam: Any, name: str, actions: list[str]) -> Keys:
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(policy))
    made = iam.create_access_key(UserName=name)["AccessKey"]
    return Keys(made["AccessKeyId"], made["SecretAccessKey"])


# A server with a permission less, or that tells more


@dataclass
class PartChecksums:
    """What S3 tells of the parts of an object, and neither server does: put into the answers of one.

    Args:
        algorithm: `crc32`, `sha256`, ...
        values: of each part, base64, in order.
    """

    algorithm: str
    values: list[str]

    def put_in(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """Add them to the headers of a HEAD of a part; return the body, that of GetObjectAttributes with them."""
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query, keep_blank_values=True))
        if "partNumber" in query:
            headers[f"x-amz-checksum-{self.algorithm}"] = self.values[int(query["partNumber"]) - 1]
        if "attributes" not in query:
            return body
        name = f"Checksum{self.algorithm.upper()}".encode()

        def told(match: re.Match[bytes]) -> bytes:
            return b"%b<%b>%b</%b>" % (match[0], name, self.values[int(match[1]) - 1].encode(), name)

        return re.sub(rb"<PartNumber>(\d+)</PartNumber>", told, body)


@dataclass
class Watched:
    """A server seen through `watched`: every request as (method, path with query), in order, and its User-Agent."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)


@contextlib.contextmanager
def watched(server: S3Server, *, denied: str | None = None, parts: PartChecksums | None = None) -> Iterator[Watched]:
    """Run a proxy before `server` that notes each GET and HEAD, and answers 403 to those with `denied` in them.

    Answers about parts tell `parts` too.

    The refusal quotes the access key that it got, as no server should.

    The Host header is passed on as it came, so that signatures stay right.
    """
    seen = Watched()
    behind = server.url.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.asked.append((self.command, self.path))
            seen.agents.append(self.headers.get("User-Agent", ""))
            if denied is not None and denied in self.path:
                text = f"<Error><Code>AccessDenied</Code><Message>{self.headers['Authorization']}</Message></Error>"
                self._answer(403, text.encode(), {"Content-Type": "application/xml"})
                return
            connection = http.client.HTTPConnection(behind, timeout=20)
            with contextlib.closing(connection):
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders()
                answer = connection.getresponse()
                hop = ("connection", "transfer-encoding", "date", "server")
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
                data = answer.read()
                if parts is not None:
                    data = parts.put_in(self.path, headers, data)
                    headers |= {"Content-Length": str(len(data))} if data else {}
                self._answer(answer.status, data, headers)

        do_HEAD = do_GET

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as url:
        seen.url = url
        yield seen


@contextlib.contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


# A bucket in another region


@dataclass
class RegionStub:
    """What a `region_stub` was asked: (region signed for, method, path with query), in order."""

    url: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)


@contextlib.contextmanager
def region_stub(home: str, *, listing: bytes = b"", objects: Mapping[str, bytes] | None = None) -> Iterator[RegionStub]:
    """Run an S3 whose only bucket `far` is in region `home`: 301 for requests signed for another one, as S3 answers.

    Args:
        home: a region; `moving` names a new one in each answer, so that nobody ever arrives.
        listing: the answer to ListObjectsV2.
        objects: path with query -> the body of its answer; ETag is "e".
    """
    stub = RegionStub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            scope = self.headers.get("Authorization", "").partition("Credential=")[2].split("/")
            signed_for = scope[2] if len(scope) > 2 else ""
            stub.asked.append((signed_for, self.command, self.path))
            there = f"eu-west-{len(stub.asked)}" if home == "moving" else home
            if signed_for != there:
                text = "<Error><Code>PermanentRedirect</Code><Message>x</Message><Bucket>far</Bucket></Error>"
                self._answer(301, text.encode(), {"x-amz-bucket-region": there, "Content-Type": "application/xml"})
            elif "list-type=2" in self.path:
                self._answer(200, listing, {"Content-Type": "application/xml"})
            elif (objects or {}).get(self.path) is not None:
                self._answer(200, (objects or {})[self.path], {"ETag": '"e"'})
            else:
                self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})

        do_HEAD = do_GET

        def do_POST(self) -> None:  # the token service speaks so; it refuses everybody
            stub.asked.append(("", self.command, self.path))
            self.rfile.read(int(self.headers["Content-Length"]))
            text = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
            self._answer(403, text, {"Content-Type": "text/xml"})

        def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    with _serving(Handler) as url:
        stub.url = url
        yield stub
