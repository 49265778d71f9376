"""A real WebDAV server: WsgiDAV over a folder, with a user and a password, and with a share for everyone."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from cheroot.wsgi import Server
from wsgidav.wsgidav_app import WsgiDAVApp

USER, PASSWORD = "reader", "a-password-of-the-tests"


class Dav:
    """A running server: `folder` is its root, `url` is for WEBDAV_URL."""

    def __init__(self, folder: Path) -> None:
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
