"""An object store of a few lines that speaks what our S3 and GCS sources ask, for tests of thousands of steps.

    with Objects() as store:
        store.put("bucket", "m/w.bin", b"...")         # one store, seen through both protocols
        store.delete("bucket", "m/w.bin")
        ... store.env ...                              # AWS_ENDPOINT_URL_S3, STORAGE_EMULATOR_HOST

S3: ListObjectsV2 with pages, HEAD and GET with ranges, `If-Match` and checksums; an object of `PARTS_FROM` bytes has
two parts and a composite checksum, as multipart uploads leave them. GCS: the JSON listing, media GETs by generation. No
signature is checked: real servers do that in the tests of the sources (SeaweedFS, moto, fake-gcs-server).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from xml.sax.saxutils import escape

PAGE = 4  # keys of a page of a listing: small, so that every listing has some
PARTS_FROM = 1000  # bytes


@dataclass(frozen=True)
class Object:
    """The bytes of one generation of an object, and the names that the stores have for them."""

    data: bytes
    generation: int

    @property
    def parts(self) -> list[bytes]:
        half = len(self.data) // 2
        return [self.data[:half], self.data[half:]] if len(self.data) >= PARTS_FROM else [self.data]

    @property
    def etag(self) -> str:
        digests = [hashlib.md5(part, usedforsecurity=False).digest() for part in self.parts]
        if len(digests) == 1:
            return digests[0].hex()
        return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"

    @property
    def checksum_headers(self) -> dict[str, str]:
        """What S3 adds where checksums are asked for; a small object has its MD5 alone."""
        if len(self.parts) == 1:
            return {}
        joined = b"".join(_crc32c(part) for part in self.parts)
        value = base64.b64encode(_crc32c(joined)).decode()
        return {"x-amz-checksum-crc32c": f"{value}-{len(self.parts)}", "x-amz-checksum-type": "COMPOSITE"}


class Objects:
    """A server on loopback with the objects of any number of buckets."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self._generations = itertools.count(1)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.objects = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def env(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": "AKTEST",
            "AWS_SECRET_ACCESS_KEY": "SK-test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "STORAGE_EMULATOR_HOST": self.url,
            "NO_GCE_CHECK": "true",
        }

    def put(self, bucket: str, key: str, data: bytes) -> None:
        self.buckets.setdefault(bucket, {})[key] = Object(data, next(self._generations))

    def delete(self, bucket: str, key: str) -> None:
        del self.buckets[bucket][key]

    def __enter__(self) -> Objects:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    objects: Objects

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay silent: a client that was killed is what the tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if found := re.fullmatch(r"/storage/v1/b/([^/]+)/o(?:/([^/]+))?", url.path):
            bucket, key = urllib.parse.unquote(found[1]), urllib.parse.unquote(found[2] or "")
            self.gcs_media(bucket, key) if key else self.gcs_list(bucket)
            return
        bucket, _, key = urllib.parse.unquote(url.path).removeprefix("/").partition("/")
        self.s3_object(bucket, key) if key else self.s3_list(bucket)

    do_HEAD = do_GET

    def page(self, bucket: str, prefix: str, after: str) -> tuple[list[tuple[str, Object]], str]:
        """Return the next objects below `prefix`, and the key to go on after, "" at the end."""
        objects = self.server.objects.buckets.get(bucket, {})
        keys = sorted(key for key in tuple(objects) if key.startswith(prefix) and key > after)
        size = min(PAGE, int(self.query.get("max-keys") or PAGE))
        return [(key, objects[key]) for key in keys[:size]], keys[size - 1] if len(keys) > size else ""

    def s3_list(self, bucket: str) -> None:
        found, more = self.page(bucket, self.query.get("prefix", ""), self.query.get("continuation-token", ""))
        contents = "".join(
            f"<Contents><Key>{escape(urllib.parse.quote(key))}</Key><Size>{len(one.data)}</Size>"
            f"<ETag>&quot;{one.etag}&quot;</ETag></Contents>"
            for key, one in found
        )
        following = f"<NextContinuationToken>{escape(more)}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><EncodingType>url</EncodingType><KeyCount>{len(found)}</KeyCount>"
            f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{following}{contents}</ListBucketResult>"
        )
        self.answer(200, body.encode(), {"Content-Type": "application/xml"})

    def s3_object(self, bucket: str, key: str) -> None:
        one = self.server.objects.buckets.get(bucket, {}).get(key)
        if one is None or "attributes" in self.query:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>not here</Message></Error>", {})
            return
        etag = f'"{one.etag}"'
        if self.headers.get("If-Match", etag) != etag:
            self.answer(412, b"<Error><Code>PreconditionFailed</Code><Message>replaced</Message></Error>", {})
            return
        headers = {"ETag": etag}
        if number := int(self.query.get("partNumber", 0)):
            part = one.parts[number - 1]
            crc32c = base64.b64encode(_crc32c(part)).decode()
            headers |= {"x-amz-mp-parts-count": str(len(one.parts)), "x-amz-checksum-crc32c": crc32c}
            self.answer(206, part, headers)
            return
        if self.headers.get("x-amz-checksum-mode") == "ENABLED" and "Range" not in self.headers:
            headers |= one.checksum_headers
        self.answer_range(one.data, headers)

    def gcs_list(self, bucket: str) -> None:
        found, more = self.page(bucket, self.query.get("prefix", ""), self.query.get("pageToken", ""))
        items = [
            {
                "name": key,
                "size": str(len(one.data)),
                "generation": str(one.generation),
                "crc32c": base64.b64encode(_crc32c(one.data)).decode(),
            }
            for key, one in found
        ]
        body = {"items": items, **({"nextPageToken": more} if more else {})}
        self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def gcs_media(self, bucket: str, key: str) -> None:
        one = self.server.objects.buckets.get(bucket, {}).get(key)
        if one is None or self.query.get("generation", str(one.generation)) != str(one.generation):
            self.answer(404, b'{"error": {"code": 404, "message": "No such object"}}', {})
            return
        self.answer_range(one.data, {"X-Goog-Generation": str(one.generation)})

    def answer_range(self, data: bytes, headers: Mapping[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.answer(200, data, headers)
            return
        start, end = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        if start >= end:
            self.answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
            return
        self.answer(206, data[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...


def _crc32c(data: bytes) -> bytes:
    from awscrt import checksums

    return int(checksums.crc32c(data)).to_bytes(4, "big")
