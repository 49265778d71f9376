"""Files of web servers: nginx for what servers do, and a server with a script of faults for what few of them do."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import entries
import pytest
from servers.nginx import Nginx, nginx

from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.https import HttpsSource
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract

QUICK = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.01, backoff_cap_s=0.02))
TOKEN = "good-token-0123456789"


def quoted(path: str) -> str:
    return urllib.parse.quote(path)


class Place:
    """A folder of nginx behind a token, and a Truss folder whose secret holds it."""

    secrets = (TOKEN, "wrong-token-9876543210")

    def __init__(self, web: Nginx, authority: Path, root: Path, folder: str) -> None:
        self.web, self.authority, self.root, self.folder = web, authority, root, folder
        self.last = ""
        self.token: str | None = TOKEN
        self._age = 0

    def put(self, path: str, data: bytes) -> None:
        file = self.web.put(f"{self.folder}/{path}", data)
        self._age += 1
        os.utime(file, (1_700_000_000 + self._age,) * 2)  # in seconds, as an ETag of nginx has it
        self.last = path

    def delete(self, path: str) -> None:
        (self.web.folder / "www" / self.folder / path).unlink()

    def source_of(self, path: str, **fields: Any) -> HttpsSource:
        if self.token is not None:
            (self.root / "secrets").mkdir(exist_ok=True)
            (self.root / "secrets" / "web").write_text(self.token + "\n")
            fields["runtime_secret_name"] = "web"
        url = f"{self.web.url}/{self.folder}/{quoted(path)}"
        settings = entries.settings(self.root / "secrets", HOME="/nowhere")
        return entries.open_with(HttpsSource, entries.entry(url, **fields), settings, limits=QUICK)

    def source(self, **fields: Any) -> HttpsSource:
        return self.source_of(self.last, **fields)

    def missing(self) -> HttpsSource:
        return self.source_of("no/such.bin")

    def refused(self) -> HttpsSource:
        self.token = self.secrets[1]
        return self.source()

    def public(self) -> Place:
        public = Place(self.web, self.authority, self.root, "public")
        public.token = None
        return public


@pytest.fixture(scope="module")
def behind_a_token(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("web") / "nginx", authority) as web:
        web.say(server=f'location /private/ {{ if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }} }}')
        yield web


@pytest.mark.slow
class TestHttps(SourceContract):
    folder = prefixes = digests = False
    names = (*PLAIN_NAMES, *ODD_NAMES, "a\\b.bin", "p//y.bin")

    @pytest.fixture
    def store(self, behind_a_token: Nginx, authority: Path, tmp_path: Path) -> Place:
        return Place(behind_a_token, authority, tmp_path, f"private/{tmp_path.name}")
