"""Apache, Caddy, lighttpd and nginx on loopback, as they serve a folder: each with its own idea of versions and ranges.

    with web_server("apache", folder) as web:
        web.put("w.bin", b"...")
        web.url                     # http://127.0.0.1:...

All but lighttpd offer gzip to whoever accepts it. Debian has them: `apache2-bin`, `caddy`, `lighttpd`, `nginx-light`.
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

SERVERS = ("apache", "caddy", "lighttpd", "nginx")

_APACHE = """
ServerRoot {folder}
PidFile {folder}/pid
Listen 127.0.0.1:{port}
ServerName localhost
ErrorLog {folder}/error.log
DocumentRoot {folder}/www
{modules}
Mutex posixsem
AddOutputFilterByType DEFLATE application/octet-stream text/plain
TypesConfig /dev/null
AddType application/octet-stream .bin .json
<Directory {folder}/www>
    Require all granted
    {said}
</Directory>
"""
_MODULES = ("mpm_event", "authz_core", "mime", "deflate", "filter", "headers")

_CADDY = """
{{
    admin off
    auto_https off
    storage file_system {folder}
}}
http://127.0.0.1:{port} {{
    root * {folder}/www
    encode {{
        gzip
        match {{
            header Content-Type application/*
        }}
    }}
    file_server
}}
"""

_LIGHTTPD = """
server.document-root = "{folder}/www"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{folder}/error.log"
server.stat-cache-engine = "disable"
mimetype.assign = (".bin" => "application/octet-stream", "" => "application/octet-stream")
"""

_NGINX = """
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp; fastcgi_temp_path {folder}/tmp;
    uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
    default_type application/octet-stream; gzip on; gzip_types application/octet-stream;
    server {{ listen 127.0.0.1:{port}; root {folder}/www; {said} }}
}}
"""


@dataclass
class WebServer:
    """A running server."""

    name: str
    folder: Path
    url: str

    def put(self, path: str, body: bytes, mtime: int = 1_700_000_000) -> None:
        """Serve `body` at `path`, last changed at `mtime`, seconds since the epoch."""
        file = self.folder / "www" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        os.utime(file, (mtime, mtime))


@contextlib.contextmanager
def web_server(name: str, folder: Path, said: str = "") -> Iterator[WebServer]:
    """Run one of SERVERS, its files in `folder`.

    Args:
        said: further directives of the folder that is served (Apache) or of the server (nginx).
    """
    (port,) = free_ports(1)
    (folder / "www").mkdir(parents=True)
    config = folder / "config"
    template, command = _config_and_command(name, config)
    user = "user root;" if os.geteuid() == 0 else ""
    modules = "\n".join(f"LoadModule {one}_module /usr/lib/apache2/modules/mod_{one}.so" for one in _MODULES)
    config.write_text(template.format(folder=folder, port=port, user=user, modules=modules, said=said))
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, cwd=folder, start_new_session=True)

    def answers() -> bool:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True

    try:
        wait_until(answers, name, alive=lambda: process.poll() is None)
        yield WebServer(name, folder, f"http://127.0.0.1:{port}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def _config_and_command(name: str, config: Path) -> tuple[str, list[str]]:
    match name:
        case "apache":
            return _APACHE, [require("apache2", "apt-get install apache2-bin"), "-f", str(config), "-DFOREGROUND"]
        case "caddy":
            tool = require("caddy", "apt-get install caddy")
            return _CADDY, [tool, "run", "--config", str(config), "--adapter", "caddyfile"]
        case "lighttpd":
            return _LIGHTTPD, [require("lighttpd", "apt-get install lighttpd"), "-D", "-f", str(config)]
        case "nginx":
            return _NGINX, [
                require("nginx", "apt-get install nginx-light"),
                "-c",
                str(config),
                "-p",
                str(config.parent),
            ]
    raise ValueError(name)
