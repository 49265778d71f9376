"""Prefixes in buckets of real servers, under any scheme of the source of S3, as SourceContract uses them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from servers.s3 import Keys, S3Server

from truss_cache_tasks.errors import NothingSelected
from truss_cache_tasks.sources.s3 import S3Source
from truss_cache_tasks.sources.testing import SourceContract

UNKNOWN = Keys("AKUNKNOWN00", "SK-of-nobody-0123456789")


def config_with(folder: Path, keys: Keys | None, scheme: str = "s3") -> Path:
    """Return the config path of a Truss in a new folder below `folder`, with `keys` as its credential file."""
    truss = folder / uuid.uuid4().hex
    (truss / "data").mkdir(parents=True)
    if keys is not None:
        (truss / "data" / f"{scheme}_credentials.json").write_text(
            json.dumps({**keys.fields(), "aws_region": "us-east-1"})
        )
    return truss / "config.yaml"


@dataclass
class Place:
    """One prefix of a bucket of a real server.

    Args:
        scheme: of the URIs that name it.
        account: what R2 has before the name of a bucket, with a dot after it.
        env: the variables that lead to the server; those of the server itself if there are none.
    """

    server: S3Server
    folder: Path
    bucket: str
    prefix: str
    keys: Keys | None
    secrets: tuple[str, ...] = ()
    scheme: str = "s3"
    account: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def put(self, path: str, data: bytes, **extra: Any) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=f"{self.prefix}/{path}", Body=data, **extra)

    def put_beside(self, suffix: str, data: bytes) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=self.prefix + suffix, Body=data)

    def delete(self, path: str) -> None:
        self.server.client().delete_object(Bucket=self.bucket, Key=f"{self.prefix}/{path}")

    @property
    def uri(self) -> str:
        return f"{self.scheme}://{self.account}{self.bucket}/{self.prefix}"

    def at(self, uri: str, keys: Keys | None, env: Mapping[str, str] | None = None, **entry_fields: Any) -> S3Source:
        config = config_with(self.folder, keys, self.scheme)
        env = {**(self.env or self.server.env), **(env or {})}
        return open_with(S3Source, entry(uri, config=config, **entry_fields), settings(**env))

    def source(self, **entry_fields: Any) -> S3Source:
        return self.at(self.uri, self.keys, **entry_fields)

    def by(self, keys: Keys | None) -> S3Source:
        return self.at(self.uri, keys)

    def whole(self) -> S3Source:
        return self.at(self.uri.removesuffix(f"/{self.prefix}"), self.keys)

    def source_of(self, path: str) -> S3Source:
        return self.at(f"{self.uri}/{path}", self.keys)

    def missing(self) -> S3Source:
        return self.at(f"{self.scheme}://{self.account}no-such-bucket-here/m", self.keys)

    def refused(self) -> S3Source:
        return self.by(UNKNOWN)

    def public(self) -> Place:
        assert self.server.public
        return replace(self, bucket=self.server.public, prefix=new_prefix(), keys=None)


def region_of(source: S3Source) -> str:
    """Return the region that a listing and the read of its file were signed for."""
    (file,) = source.listing().files
    scope = source.locate(file).headers["Authorization"].partition("Credential=")[2].partition(",")[0]
    return scope.split("/")[2]


def new_prefix() -> str:
    return f"m-{uuid.uuid4().hex[:12]}"


def place(server: S3Server, folder: Path, **fields: Any) -> Place:
    keys = server.identities["ro"]
    secrets = (keys.access, keys.secret, UNKNOWN.secret)
    return Place(server, folder, server.bucket, new_prefix(), keys, secrets, **fields)


class S3Contract(SourceContract):
    @pytest.mark.parametrize(
        ("beside", "words"),
        [((), "has nothing"), (("/", "/sub/"), "only folder markers"), (("-hf/other.bin",), "has nothing")],
    )
    def test_a_prefix_with_nothing_below_it_is_refused(  # type: ignore[override]  # its cases are those of keys
        self, store: Place, beside: tuple[str, ...], words: str
    ) -> None:
        for suffix in beside:
            store.put_beside(suffix, b"" if suffix.endswith("/") else b"other")
        with pytest.raises(NothingSelected, match=words) as caught:
            store.source().listing()
        self.assert_clear_error(caught.value, store)
