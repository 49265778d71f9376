"""A forward proxy that takes every https host for one plain server, so that a client reaches it under any name."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from servers.certificates import make_authority


@dataclass
class Named:
    """A running proxy. Its clients trust `bundle`; `asked` is the host and port of each CONNECT, in order."""

    url: str
    bundle: Path
    asked: list[str] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The variables that lead a client here, and to no other server."""
        return {"HTTPS_PROXY": self.url, "SSL_CERT_FILE": str(self.bundle), "NO_PROXY": ""}


@contextlib.contextmanager
def named(server: str, folder: Path, *hosts: str) -> Iterator[Named]:
    """Run the proxy before the plain server at the URL `server`; its certificate, in `folder`, is for `hosts`."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle, context = make_authority(folder, *hosts)
    host, _, port = server.removeprefix("http://").partition(":")

    class Handler(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            running.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.close_connection = True
            with (
                contextlib.suppress(OSError),  # a client that hangs up, or that refuses the certificate
                context.wrap_socket(self.connection, server_side=True) as client,
                socket.create_connection((host, int(port))) as upstream,
            ):
                _pass_on(client, upstream)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads, proxy.block_on_close = True, False
        running = Named(f"http://127.0.0.1:{proxy.server_port}", bundle)
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield running
        finally:
            proxy.shutdown()
            thread.join()


def _pass_on(client: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        ready = [client] if client.pending() else select.select([client, server], [], [])[0]
        for sender in ready:
            data = sender.recv(1 << 16)
            if not data:
                return
            (server if sender is client else client).sendall(data)
