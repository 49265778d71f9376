"""Files of Apache, Caddy, lighttpd and nginx: in parts, by version, and as they are where gzip is offered."""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from servers.web_servers import SERVERS, WebServer, web_server
from trusses import tree

from scenarios.cache.forks import ForkedTruss

SIZE = 20 << 20  # three parts


# Without an ETag there is the time of the last change.
SAID = {name: (name, "") for name in SERVERS} | {
    "apache without ETag": ("apache", "FileETag None"),
    "nginx without ETag": ("nginx", "etag off;"),
}


@pytest.fixture(scope="module", params=SAID)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    name, said = SAID[request.param]
    with web_server(name, tmp_path_factory.mktemp("web") / name, said) as running:
        yield running


def test_a_file_comes_in_parts_and_again_only_when_it_changed(web: WebServer, truss: ForkedTruss) -> None:
    first, second = os.urandom(SIZE), b"abc" * (SIZE // 3) + b"ab"
    web.put("m/w 1.bin", first)
    web.put("m/empty.bin", b"")
    web.put("m/text.json", b"text" * 10_000)
    truss.config(
        f"""
        model_cache:
        - repo_id: {web.url}/m/w%201.bin
        - repo_id: {web.url}/m/empty.bin
        - repo_id: {web.url}/m/text.json
        """
    )
    ran = truss.cli()
    assert ran.code == 0, ran.text
    folder = web.url.removeprefix("http://").replace(":", "_")
    shown = {f"{folder}/m/w 1.bin": first, f"{folder}/m/empty.bin": b"", f"{folder}/m/text.json": b"text" * 10_000}
    assert tree(truss.model_cache) == shown
    ran = truss.cli("-a")
    assert "fetched 0 files" in ran.text, ran.text
    web.put("m/w 1.bin", second, 1_700_000_009)
    assert "1 file changed" in truss.cli("why", "--remote").out
    ran = truss.cli("-a")
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {**shown, f"{folder}/m/w 1.bin": second}
    gzip = urllib.request.Request(f"{web.url}/m/text.json", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(gzip) as answer:
        offered = answer.headers["Content-Encoding"]
    assert offered == ("gzip" if web.name != "lighttpd" else None), "the server offers what we must not ask for"


def test_the_md5_that_apache_sends_with_a_range_is_that_of_the_file(tmp_path: Path, truss: ForkedTruss) -> None:
    with web_server("apache", tmp_path / "web", "ContentDigest On") as web:
        web.put("w.bin", os.urandom(SIZE))
        truss.config(f"model_cache:\n- repo_id: {web.url}/w.bin\n")
        ran = truss.cli()
        assert ran.code == 0, ran.text
        assert "all verified" in ran.text


def test_a_file_of_the_server_of_the_standard_library_has_one_connection(tmp_path: Path, truss: ForkedTruss) -> None:
    """It has neither ranges nor ETags, and HTTP/1.0."""
    body = os.urandom(SIZE)
    (tmp_path / "w.bin").write_bytes(body)
    os.utime(tmp_path / "w.bin", (1_700_000_000, 1_700_000_000))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        truss.config(f"model_cache:\n- repo_id: http://localhost:{server.server_port}/w.bin\n")
        ran = truss.cli()
        server.shutdown()
        thread.join()
    assert ran.code == 0, ran.text
    assert tree(truss.model_cache) == {f"localhost_{server.server_port}/w.bin": body}
