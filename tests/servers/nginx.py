"""nginx on loopback, in the place of a CDN or a bucket: plain and over TLS, with the faults that nginx itself has.

    with nginx(folder, authority=folder_of_make_authority) as web:
        web.put("lfs/abc/w.bin", b"...")
        web.url, web.secure_url            # http://localhost:..., https://localhost:...
        web.say("limit_rate 4m;")          # directives of every location from now on
        web.log()                          # what was asked: Asked(method, path, status, sent, range)

Debian's `nginx-light` has it all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from servers.tools import free_ports, require, wait_until

CONFIG = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 256; }}
http {{
    log_format told "$request_method $uri $status $body_bytes_sent $http_range";
    access_log {folder}/access.log told;
    client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp; fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
    sendfile on;
    limit_conn_zone $binary_remote_addr zone=one:1m;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{secure_port} ssl;
        ssl_certificate {authority}/server.pem;
        ssl_certificate_key {authority}/server.key;
        root {folder}/www;
        location @busy {{ add_header Retry-After 1 always; return 503; }}
        {server}
        location / {{ {said} }}
    }}
}}
"""


@dataclass(frozen=True)
class Asked:
    """One request, noted once its answer ended."""

    method: str
    path: str
    status: int
    sent: int  # bytes of body
    range: str | None


class Nginx:
    """A running server."""

    def __init__(self, folder: Path, authority: Path) -> None:
        self.folder = folder
        self.authority = authority
        self.port, self.secure_port = free_ports(2)
        self.url, self.secure_url = f"http://localhost:{self.port}", f"https://localhost:{self.secure_port}"
        (folder / "www").mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def put(self, path: str, body: bytes) -> Path:
        """Serve `body` at `path`."""
        file = self.folder / "www" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        return file

    def say(self, said: str = "", *, server: str = "") -> None:
        """Begin anew with these directives in the location of all files, and those beside it."""
        self.stop()
        user = "user root;" if os.geteuid() == 0 else ""  # else files in a private folder are refused
        (self.folder / "nginx.conf").write_text(
            CONFIG.format(
                folder=self.folder, user=user, authority=self.authority, port=self.port,
                secure_port=self.secure_port, said=said, server=server,
            )
        )  # fmt: skip
        command = [require("nginx", "apt-get install nginx-light"), "-c", str(self.folder / "nginx.conf")]
        with (self.folder / "out").open("wb") as out:
            self._process = process = subprocess.Popen([*command, "-p", str(self.folder)], stdout=out, stderr=out)
        wait_until(self._answers, "nginx", alive=lambda: process.poll() is None)

    def stop(self) -> None:
        """End it; its ports stay reserved for nobody."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(20)
            self._process = None

    def log(self) -> list[Asked]:
        """Return the requests whose answers ended, in that order."""
        told = []
        for line in (self.folder / "access.log").read_text().splitlines():
            method, path, status, sent, span = line.split(" ", 4)
            told.append(Asked(method, path, int(status), int(sent), None if span == "-" else span))
        return told

    def _answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.secure_port), timeout=1).close()
        return True


@contextlib.contextmanager
def nginx(folder: Path, authority: Path) -> Iterator[Nginx]:
    """Run nginx, its files in `folder`.

    Args:
        authority: a folder in which `make_authority` worked.
    """
    server = Nginx(folder, authority)
    try:
        server.say()
        yield server
    finally:
        server.stop()
