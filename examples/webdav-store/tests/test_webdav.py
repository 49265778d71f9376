"""The source passes the tests that every source of truss-cache-tasks passes, against a real server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from dav import PASSWORD, USER, Dav
from truss_cache_webdav import WEBDAV
from truss_cache_webdav.source import WebDavSource

from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.sources.testing import SourceContract
from truss_cache_tasks.stores import Credential, Network, NoCredential, Request, Secret, SourceRef, register_store

register_store(WEBDAV)  # what the entry point does for a command


class Share:
    """The contract's view of the folder `m` of a share."""

    secrets = (PASSWORD, "wrong-password")
    puts = 1_700_000_000

    def __init__(self, dav: Dav, share: str = "weights") -> None:
        self.dav = dav
        self.share = share
        self.folder = dav.folder / share / "m"

    def put(self, path: str, data: bytes) -> None:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        self.puts += 1  # WsgiDAV's ETag has the time in whole seconds
        os.utime(target, (self.puts, self.puts))

    def put_beside(self, suffix: str, data: bytes) -> None:
        beside = Path(f"{self.folder}{suffix}")
        if suffix.endswith("/"):  # WebDAV's folder marker is the folder
            beside.mkdir(parents=True, exist_ok=True)
            return
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)

    def delete(self, path: str) -> None:
        (self.folder / path).unlink()

    def at(self, share: str, prefix: str, password: str = PASSWORD, **fields: Any) -> WebDavSource:
        request = Request(
            source=SourceRef("dav", share, prefix),
            revision="",
            allow=fields.get("allow"),
            ignore=fields.get("ignore", ()),
            layout="bucket",
        )
        network = Network.from_env({"WEBDAV_URL": self.dav.url})
        if share == "public":
            return WebDavSource(request, NoCredential(), network)
        secrets = {"user": Secret(USER), "password": Secret(password)}
        return WebDavSource(request, Credential("data/webdav_credentials.json", secrets), network)

    def source(self, **fields: Any) -> WebDavSource:
        return self.at(self.share, "m", **fields)

    def whole(self) -> WebDavSource:
        return self.at(self.share, "")

    def source_of(self, path: str) -> WebDavSource:
        return self.at(self.share, f"m/{path}")

    def missing(self) -> WebDavSource:
        return self.at("none", "m")

    def refused(self) -> WebDavSource:
        return self.at(self.share, "m", password="wrong-password")

    def public(self) -> Share:
        return Share(self.dav, "public")


class TestWebDav(SourceContract):
    digests = False  # WebDAV has none
    many = 300  # it has no pages either
    # A path of a WebDAV server is a file or a folder, never both.
    test_an_object_beside_the_prefix_of_its_name_loses_with_a_warning = None

    @pytest.fixture
    def store(self, dav: Dav) -> Share:
        return Share(dav)


@pytest.mark.parametrize("url", ["", "cloud.example.com", "ftp://host", "https://me:secret@host/dav"])
def test_a_wrong_url_is_refused_and_not_repeated(url: str) -> None:
    request = Request(source=SourceRef("dav", "s"), revision="", allow=None, ignore=(), layout="bucket")
    with pytest.raises(ConfigError, match=r"^WEBDAV_URL: ") as caught:
        WebDavSource(request, NoCredential(), Network.from_env({"WEBDAV_URL": url}))
    assert "secret" not in str(caught.value)
