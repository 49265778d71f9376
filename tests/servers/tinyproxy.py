"""Debian's tinyproxy on loopback: a real forward proxy that wants a password."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servers.tools import free_ports, require, wait_until

CONFIG = """
Port {port}
Listen 127.0.0.1
Timeout 60
MaxClients 64
LogFile "{folder}/log"
LogLevel Connect
BasicAuth {user} {password}
DisableViaHeader Yes
"""


@dataclass(frozen=True)
class Tinyproxy:
    """A running proxy."""

    folder: Path
    port: int
    user: str
    password: str

    def address(self, password: str | None = None) -> str:
        """Return what HTTPS_PROXY is to hold, with the right password or another one."""
        return f"http://{self.user}:{password or self.password}@127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """Return the request lines that came, refused or not: `CONNECT host:port`, `GET http://...`."""
        return re.findall(r"Request \(file descriptor \d+\): (\S+ \S+)", (self.folder / "log").read_text())


@contextlib.contextmanager
def tinyproxy(folder: Path, user: str, password: str, *, connect: Sequence[int]) -> Iterator[Tinyproxy]:
    """Run tinyproxy, its files in `folder`; CONNECT may lead to the ports of `connect` alone."""
    program = require("tinyproxy", "apt-get install tinyproxy")
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG.format(port=port, folder=folder, user=user, password=password)
    (folder / "conf").write_text(text + "".join(f"ConnectPort {allowed}\n" for allowed in connect))
    with (
        (folder / "out").open("wb") as out,
        subprocess.Popen([program, "-d", "-c", str(folder / "conf")], stdout=out, stderr=out) as process,
    ):
        try:
            wait_until(lambda: _answers(port), "tinyproxy", alive=lambda: process.poll() is None)
            yield Tinyproxy(folder, port, user, password)
        finally:
            process.kill()


def _answers(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=1).close()
    return True
