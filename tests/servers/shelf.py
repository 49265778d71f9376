"""A store that this package does not know: its row, its source and its server, as somebody else would write them.

    with registered(SHELF), Shelf() as shelf:
        shelf.put("books", "m/w.bin", b"...")
        env = {"SHELF_URL": shelf.url, "SHELF_TOKEN": shelf.token}
        ... a config with `repo_id: shelf://books/m` ...

The server answers `/{bucket}` with a JSON list of what is there, and `/{bucket}/{key}` with bytes, by ranges too.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import urllib3

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, NotFound, TransientError
from truss_cache_tasks.model.credentials import Credential, NoCredential, TokenCredential
from truss_cache_tasks.model.listing import (
    UNPINNED,
    Listing,
    Location,
    Pins,
    RemoteFile,
    listed_digest,
    listed_file,
)
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.model.stores import Store
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.objects import check_pins, under_prefix

SHELF = Store(
    schemes=("shelf", "shelves"),
    kind="bookshop",
    opens="servers.shelf:ShelfSource",
    credential=TokenCredential(variables=("SHELF_TOKEN",)),
    variables=("SHELF_URL",),
)


class ShelfSource:
    def __init__(self, request: Request, credential: Credential | NoCredential, network: Network) -> None:
        self._source, self._network = request.source, network
        self._headers: dict[str, str] = {}
        self._places = ""
        if isinstance(credential, Credential):
            self._headers["Authorization"] = f"Bearer {credential.fields['token'].reveal()}"
        else:
            self._places = f" ({credential})"
        self._url = f"{network.variable('SHELF_URL')}/{urllib.parse.quote(request.source.root)}"

    def listing(self, pins: Pins = UNPINNED) -> Listing:
        found = self._network.with_retries(lambda: list(self._objects()))
        if pins.files is not None:
            found = check_pins(found, pins.files, self._source)
        return under_prefix(found, self._source)

    def locate(self, file: RemoteFile) -> Location:
        return Location(f"{self._url}/{urllib.parse.quote(file.key)}", headers=self._headers)

    def explain(self, file: RemoteFile, status: int, headers: Mapping[str, str], body: bytes) -> CacheTaskError:
        return self._refusal(status)

    def _objects(self) -> Iterator[RemoteFile]:
        with urllib3.PoolManager() as http:
            answer = http.request("GET", self._url, headers=self._headers, retries=False)
        if answer.status != 200:
            raise self._refusal(answer.status)
        store = str(self._source)
        for item in json.loads(answer.data):
            digest = listed_digest(store, item["key"], "sha256", item["sha256"])
            yield listed_file(
                store,
                path=item["key"],
                size=item["size"],
                version=digest.value,
                key=item["key"],
                digest=digest,
            )

    def _refusal(self, status: int) -> CacheTaskError:
        if status >= 500:
            return TransientError(f"{self._source}: the shelf answered {status}", hint="Wait.")
        if status == 404:
            return NotFound(f"{self._source}: no such shelf", hint="Correct its name.")
        return AccessDenied(f"{self._source}: refused{self._places}", hint="Set SHELF_TOKEN.")


class Shelf:
    """A running server."""

    token = "good-token"

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, bytes]] = {}
        self.faults: list[int] = []  # statuses that the next requests get instead
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.shelf = self  # type: ignore[attr-defined]  # for its handler
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Shelf:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.objects.setdefault(bucket, {})[key] = data


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        shelf: Shelf = self.server.shelf  # type: ignore[attr-defined]  # set by Shelf
        shelf.asked.append(self.path)
        bucket, _, key = urllib.parse.unquote(self.path.strip("/")).partition("/")
        if shelf.faults:
            self._answer(shelf.faults.pop(0), b"")
        elif self.headers.get("Authorization") != f"Bearer {shelf.token}":
            self._answer(401, b"")
        elif bucket not in shelf.objects or (key and key not in shelf.objects[bucket]):
            self._answer(404, b"")
        elif not key:
            items = [
                {"key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for key, data in shelf.objects[bucket].items()
            ]
            self._answer(200, json.dumps(items).encode())
        else:
            self._bytes(shelf.objects[bucket][key])

    def _bytes(self, data: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, data)
            return
        first, last = int(asked[1]), int(asked[2] or len(data) - 1)
        self._answer(206, data[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass
