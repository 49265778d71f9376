"""olah, a real mirror of the Hub, with a Hub stand-in as its upstream."""

from __future__ import annotations

import contextlib
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from servers.hub import Hub
from servers.tools import die_with_parent, free_ports, require, wait_until


@contextlib.contextmanager
def olah(folder: Path, hub: Hub) -> Iterator[str]:
    """Run olah with its cache in `folder`; yield its URL."""
    program = require("olah-cli")
    (port,) = free_ports(1)
    folder.mkdir(parents=True)
    mirror, upstream, cdn = (url.rpartition("/")[2] for url in (f"http://127.0.0.1:{port}", hub.url, hub.cdn_url))
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--hf-scheme", "http", "--hf-netloc", upstream]
    command += ["--hf-lfs-netloc", cdn, "--mirror-netloc", mirror, "--mirror-lfs-netloc", mirror]
    command += ["--repos-path", str(folder / "repos"), "--log-path", str(folder / "logs")]
    with (folder / "output").open("w") as output:
        running = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call, and takes no lock
        )

    def answers() -> bool:
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(f"http://{mirror}/", timeout=5).close()
        return True

    try:
        wait_until(answers, "olah", alive=lambda: running.poll() is None)
        yield f"http://{mirror}"
    finally:
        running.kill()
        running.wait()
