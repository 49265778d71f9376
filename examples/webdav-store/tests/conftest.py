"""A real WebDAV server: WsgiDAV over a folder, with a user and a password, and with a share for everyone."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("truss_cache_tasks.sources.testing")  # failures show values

USER, PASSWORD = "reader", "a-password-of-the-tests"


class Dav:
    """A running server: `folder` is its root, `url` is for WEBDAV_URL."""

    def __init__(self, folder: Path) -> None:
        from cheroot.wsgi import Server
        from wsgidav.wsgidav_app import WsgiDAVApp

        self.folder = folder
        (folder / "public").mkdir(parents=True)
        app = WsgiDAVApp(
            {
                "provider_mapping": {"/": str(folder), "/public": str(folder / "public")},
                "simple_dc": {"user_mapping": {"*": {USER: {"password": PASSWORD}}, "/public": True}},
                "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
                "property_manager": None,
                "lock_storage": None,
                "verbose": 0,
            }
        )
        self._server = Server(("127.0.0.1", 0), app, numthreads=8, shutdown_timeout=1)
        self._server.prepare()
        self.url = f"http://127.0.0.1:{self._server.bind_addr[1]}"
        self._thread = threading.Thread(target=self._server.serve)
        self._thread.start()

    def clear(self) -> None:
        shutil.rmtree(self.folder / "weights", ignore_errors=True)
        shutil.rmtree(self.folder / "public" / "m", ignore_errors=True)
        (self.folder / "weights").mkdir()

    def stop(self) -> None:
        self._server.stop()
        self._thread.join()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dav]:
    server = Dav(tmp_path_factory.mktemp("dav"))
    yield server
    server.stop()


@pytest.fixture
def dav(server: Dav) -> Dav:
    server.clear()
    return server
