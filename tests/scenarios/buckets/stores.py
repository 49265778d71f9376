"""SeaweedFS, moto, GCS, Azurite and a local folder behind one face: the vendor's client puts, a Truss takes.

store.put("m/a.bin", b"...")          # below a prefix of this test's own
store.uri("m")                        # for `repo_id`
store.visible("m", "a.bin")           # where it must turn up in the model cache, without use_volume
store.objects("m")                    # what the vendor's client finds: path -> bytes
store.give(truss)                     # endpoint variables, and the credential file, where the store has one
"""

from __future__ import annotations

import json
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.azurite import ACCOUNT, KEYS, WRONG_KEY, Azurite
from servers.gcs import GET_ONLY, LIST_ONLY, READER, Gcs, new_key
from servers.named import Named
from servers.s3 import R2_ACCOUNT, Keys, S3Server
from trusses import Truss

from scenarios.buckets.front import Front


@dataclass
class Store(ABC):
    front: Front
    bucket: str
    base: str

    scheme = ""
    credential_file = ""
    missing_bucket = "no-such-bucket-here"
    behind_tls = "ro"  # who reads where the store itself is asked by plain http

    def uri(self, prefix: str) -> str:
        return f"{self.scheme}://{self.bucket}/{self.base}/{prefix}"

    def visible(self, prefix: str, path: str) -> str:
        return f"{self.bucket}/{self.base}/{prefix}/{path}"

    def name(self, prefix: str) -> str:
        """The entry's name, on the command line."""
        return f"{self.bucket}/{self.base}/{prefix}"

    def give(self, truss: Truss, who: str | None = "ro") -> None:
        truss.env.update(self.env)
        if who is not None:
            self.credential(truss.folder / "data" / self.credential_file, who)

    def credential(self, path: Path, who: str, **more: Any) -> dict[str, Any]:
        """Write a credential file of `who`, and return what it holds."""
        fields = {**self.fields(who), **more}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields))
        return fields

    @property
    @abstractmethod
    def env(self) -> dict[str, str]: ...

    @abstractmethod
    def fields(self, who: str) -> dict[str, Any]:
        """What the credential file of `who` (`ro`, `listonly`, `getonly`, `wrong`) holds."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def objects(self, prefix: str) -> dict[str, bytes]:
        """Everything below `prefix/`, folder markers apart, by the vendor's own client."""

    @abstractmethod
    def secrets(self) -> list[str]:
        """Values that must turn up nowhere."""


@dataclass
class S3Store(Store):
    server: S3Server

    scheme = "s3"
    credential_file = "s3_credentials.json"

    @property
    def env(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL_S3": self.front.url, "AWS_EC2_METADATA_DISABLED": "true"}

    def fields(self, who: str) -> dict[str, Any]:
        if who == "wrong":
            return Keys(self.server.identities["ro"].access, "SK-wrong-0123456789").fields()
        return self.server.identities[who].fields()

    def put(self, key: str, data: bytes, **extra: Any) -> None:
        self.server.client().put_object(Bucket=self.bucket, Key=f"{self.base}/{key}", Body=data, **extra)

    def delete(self, key: str) -> None:
        self.server.client().delete_object(Bucket=self.bucket, Key=f"{self.base}/{key}")

    def objects(self, prefix: str) -> dict[str, bytes]:
        client, below = self.server.client(), f"{self.base}/{prefix}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=below)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        return {
            key.removeprefix(below): client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in keys
            if not key.endswith("/")
        }

    def secrets(self) -> list[str]:
        return [keys.secret for keys in self.server.identities.values()]


@dataclass
class NamedStore(S3Store):
    """R2 or CoreWeave under its own name: an S3 server behind a proxy with certificates for these names."""

    by: Named
    service: str  # `r2` or `cw`

    def __post_init__(self) -> None:
        self.scheme = self.service
        self.credential_file = f"{self.service}_credentials.json"
        self._root = f"{R2_ACCOUNT}.{self.bucket}" if self.service == "r2" else self.bucket

    def uri(self, prefix: str) -> str:
        return f"{self.scheme}://{self.name(prefix)}"

    def visible(self, prefix: str, path: str) -> str:
        return f"{self.name(prefix)}/{path}"

    def name(self, prefix: str) -> str:
        return f"{self._root}/{self.base}/{prefix}"

    @property
    def env(self) -> dict[str, str]:
        return {**self.by.env, "AWS_EC2_METADATA_DISABLED": "true"}


def client_without_checksums(store: S3Store) -> Any:
    """Return a client that sends a checksum only where it is asked to, as older and other ones do."""
    import boto3
    from botocore.config import Config

    keys = store.server.identities["admin"]
    return boto3.session.Session().client(
        "s3",
        endpoint_url=store.server.url,
        region_name="us-east-1",
        aws_access_key_id=keys.access,
        aws_secret_access_key=keys.secret,
        config=Config(signature_version="s3v4", request_checksum_calculation="when_required"),
    )


def multipart(store: S3Store, key: str, parts: list[bytes], algorithm: str | None) -> list[str]:
    """Upload in parts, as large files are; return their checksums. Without `algorithm` none goes with them."""
    client = client_without_checksums(store)
    where = {"Bucket": store.bucket, "Key": f"{store.base}/{key}"}
    more = {"ChecksumAlgorithm": algorithm} if algorithm else {}
    kind = {"ChecksumType": "COMPOSITE"} if algorithm else {}
    upload = client.create_multipart_upload(**where, **more, **kind)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        put = client.upload_part(**where, UploadId=upload, PartNumber=number, Body=part, **more)
        field = f"Checksum{algorithm}"
        done.append({"PartNumber": number, "ETag": put["ETag"], **({field: put[field]} if algorithm else {})})
    client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})
    return [part[f"Checksum{algorithm}"] for part in done] if algorithm else []


@dataclass
class GcsStore(Store):
    gcs: Gcs

    scheme = "gs"
    credential_file = "service_account.json"

    @property
    def env(self) -> dict[str, str]:
        return {**self.gcs.env, "STORAGE_EMULATOR_HOST": self.front.url}

    def fields(self, who: str) -> dict[str, Any]:
        email = {"ro": READER, "wrong": READER, "listonly": LIST_ONLY, "getonly": GET_ONLY}[who]
        fields: dict[str, Any] = self.gcs.service_account(email, key=new_key() if who == "wrong" else None)
        return {**fields, "token_uri": f"{self.front.url}/token"}

    def put(self, key: str, data: bytes) -> None:
        self.gcs.put(self.bucket, f"{self.base}/{key}", data)

    def delete(self, key: str) -> None:
        self.gcs.delete(self.bucket, f"{self.base}/{key}")

    def objects(self, prefix: str) -> dict[str, bytes]:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        client = storage.Client(
            project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": self.gcs.backend}
        )
        below = f"{self.base}/{prefix}/"
        found = {
            blob.name.removeprefix(below): blob.download_as_bytes()
            for blob in client.list_blobs(self.bucket, prefix=below)
            if not blob.name.endswith("/")
        }
        client.close()
        return found

    def secrets(self) -> list[str]:
        lines = self.gcs.service_account()["private_key"].splitlines()
        return [*lines[1:-1], "Bearer good"]


@dataclass
class AzureStore(Store):
    azure: Azurite

    scheme = "azure"
    credential_file = "azure_credentials.json"
    missing_bucket = f"{ACCOUNT}/no-such-bucket-here"
    behind_tls = "sas"  # a signature that is made for an https endpoint is for https alone

    @property
    def container(self) -> str:
        return self.bucket.partition("/")[2]

    @property
    def env(self) -> dict[str, str]:
        return {**self.azure.env, "AZURE_STORAGE_SERVICE_ENDPOINT": f"{self.front.url}/{ACCOUNT}"}

    def fields(self, who: str) -> dict[str, Any]:
        if rights := {"listonly": "l", "getonly": "r", "sas": "rl"}.get(who):
            return {"sas_token": self.azure.sas(self.container, sp=rights)}
        return {"account_key": WRONG_KEY if who == "wrong" else KEYS[ACCOUNT]}

    def put(self, key: str, data: bytes) -> None:
        self.azure.put(self.container, f"{self.base}/{key}", data)

    def delete(self, key: str) -> None:
        self.azure.delete(self.container, f"{self.base}/{key}")

    def objects(self, prefix: str) -> dict[str, bytes]:
        from azure.storage.blob import ContainerClient

        below = f"{self.base}/{prefix}/"
        with ContainerClient(self.azure.url, self.container, credential=KEYS[ACCOUNT]) as client:
            names = [name for name in client.list_blob_names(name_starts_with=below) if not name.endswith("/")]
            return {name.removeprefix(below): client.download_blob(name).readall() for name in names}

    def secrets(self) -> list[str]:
        return [*KEYS.values(), WRONG_KEY, "sig="]


@dataclass
class Folder(Store):
    """`file://`: no server, so nothing to count and no credential."""

    root: Path

    scheme = "file"

    def uri(self, prefix: str) -> str:
        return f"file://../source/{prefix}"

    def visible(self, prefix: str, path: str) -> str:
        return f"{prefix.rpartition('/')[2]}/{path}"

    def name(self, prefix: str) -> str:
        return prefix.rpartition("/")[2]

    def give(self, truss: Truss, who: str | None = "ro") -> None:
        pass

    @property
    def env(self) -> dict[str, str]:
        return {}

    def fields(self, who: str) -> dict[str, Any]:
        raise NotImplementedError

    def put(self, key: str, data: bytes) -> None:
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()

    def objects(self, prefix: str) -> dict[str, bytes]:
        root = self.root / prefix
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    def secrets(self) -> list[str]:
        return []


def own_prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}"
