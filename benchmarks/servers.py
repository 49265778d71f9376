"""The stores, as fast as they get: nginx as S3, made for one set of weights."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

BUCKET, PREFIX = "bench", "m"
BLOCK = 1 << 20


@dataclass(frozen=True)
class Weights:
    """`count` files of `size` bytes in `folder`; with `alike` all are one file under several names."""

    folder: Path
    count: int
    size: int
    alike: bool = False

    @property
    def names(self) -> list[str]:
        return [f"model-{number:05}.safetensors" for number in range(self.count)]

    @property
    def total(self) -> int:
        return self.count * self.size

    @property
    def label(self) -> str:
        return f"{self.count:,} x {human(self.size)}"

    def make(self) -> Weights:
        """Write them: random blocks, so that no file and no part of one is like another."""
        self.folder.mkdir(parents=True)
        for name in self.names:
            if self.alike and name != self.names[0]:
                os.link(self.folder / self.names[0], self.folder / name)
                continue
            with (self.folder / name).open("wb") as file:
                left = self.size
                while left:
                    left -= file.write(os.urandom(min(BLOCK, left)))
        return self

    @cached_property
    def crc64nvme(self) -> dict[str, str]:
        """Base64, as S3 says it, by name."""
        from awscrt import checksums

        found = {}
        for name in self.names:
            crc = 0
            for block in _blocks(self.folder / name):
                crc = checksums.crc64nvme(block, crc)
            found[name] = base64.b64encode(crc.to_bytes(8, "big")).decode()
        return found

    @cached_property
    def sha256(self) -> dict[str, str]:
        found = {}
        for name in self.names:
            with (self.folder / name).open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        return found


def human(size: int) -> str:
    """Return a size in the unit that fits.

    >>> human(1 << 30), human(64 << 20), human(20_000)
    ('1 GiB', '64 MiB', '20 kB')
    """
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size / 1000:g} kB"


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block


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
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        probe = [*inside, "bash", "-c", f"exec 3<>/dev/tcp/{address[0]}/{address[1]}"]
        for _ in range(100):
            if subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                break
            if process.poll() is not None:
                raise RuntimeError((folder / "error.log").read_text())
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


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
    port = free_port()
    offered = (
        "\n".join(f"/{BUCKET}/{PREFIX}/{name} {crc};" for name, crc in weights.crc64nvme.items()) if digests else ""
    )
    http = f"""
      map $uri $crc {{ {offered} default ""; }}
      map $http_range $crc_of_whole {{ "" $crc; default ""; }}
      map $crc_of_whole $kind {{ "" ""; default FULL_OBJECT; }}
      server {{
        listen {host}:{port}{" ssl" if tls else ""} backlog=1024;
        {certificate(folder) if tls else ""}
        location = /{BUCKET} {{ default_type application/xml; alias {folder}/list.xml; }}
        location = /{BUCKET}/ {{ default_type application/xml; alias {folder}/list.xml; }}
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


def certificate(folder: Path) -> str:
    """Make a certificate for 127.0.0.1 that is its own authority; return nginx's lines for it."""
    key, pem = folder / "server.key", folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return f"ssl_certificate {pem}; ssl_certificate_key {key};"
