"""Files of Apache, Caddy, lighttpd and nginx: in parts, by version, and as they are where gzip is offered."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator

import pytest
from servers.web_servers import SERVERS, WebServer, web_server
from trusses import tree

from scenarios.cache.forks import ForkedTruss

SIZE = 20 << 20  # three parts


@pytest.fixture(scope="module", params=SERVERS)
def web(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with web_server(request.param, tmp_path_factory.mktemp("web") / request.param) as running:
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
