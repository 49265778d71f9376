"""What a case of errors.yaml names as `given`: the state of a store, a network or a disk that leads to its error.

state = STATES["an S3 key that may not list"]
env = state(request, truss)      # starts what it needs, and returns the variables of the command
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from servers.faults import FaultServer, fault_server
from servers.gcs import GET_ONLY, LIST_ONLY, READER, REVOKED, Gcs, new_key
from servers.hub import Hub
from servers.hub_repos import Repo, Rights
from servers.proxy import proxying
from servers.s3 import Keys, S3Server, region_stub
from trusses import Truss

State = Callable[[pytest.FixtureRequest, Truss], dict[str, str]]
OPEN = "model_cache:\n  - repo_id: org/open\n"
FILES = {"config.json": b"{}", "model.safetensors": b"w" * 100}


def prepared_hub(hub: Hub) -> None:
    """Give the Hub an open and a gated repo, a token that may read the first alone, and one that may read nothing."""
    hub.create("org/open").commit(FILES)
    hub.create("org/gated", gated=True).commit({"model.safetensors": b"w" * 100})
    hub.tokens["hf_reader_sekrit"] = Rights(gated=False, private=False)
    hub.tokens["hf_lister_sekrit"] = Rights(read=False)


def _s3(who: str, *, bucket: str = "") -> State:
    """A bucket with one object, and the credential of `who` ("": none)."""

    def state(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
        seaweed: S3Server = request.getfixturevalue("seaweed")
        seaweed.client().put_object(Bucket=seaweed.bucket, Key="errors/m/a.bin", Body=b"aaaa")
        fields = {
            "": None,
            "wrong": Keys(seaweed.identities["ro"].access, "SK-sekrit-0123456789").fields(),
            "unknown": Keys("AKNOBODY", "SK-sekrit-0123456789").fields(),
        }.get(who, seaweed.identities[who].fields() if who in seaweed.identities else None)
        _write_credential(truss, "s3_credentials.json", fields)
        truss.config(f"model_cache:\n  - repo_id: s3://{bucket or seaweed.bucket}/errors/m\n")
        return {"AWS_ENDPOINT_URL_S3": seaweed.url}

    return state


def _s3_in_a_region(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    stub = _started(request, region_stub("moving"))
    truss.config("model_cache:\n  - repo_id: s3://far/m\n")
    return {"AWS_ENDPOINT_URL_S3": stub.url, "AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK-sekrit"}


def _s3_replaced(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A locked object of S3 that was replaced by other bytes of its size."""
    env = _s3("ro")(request, truss)
    seaweed: S3Server = request.getfixturevalue("seaweed")
    key = f"errors/{uuid.uuid4().hex}/a.bin"
    seaweed.client().put_object(Bucket=seaweed.bucket, Key=key, Body=b"aaaa")
    truss.config(f"model_cache:\n  - repo_id: s3://{seaweed.bucket}/{key.removesuffix('/a.bin')}\n")
    assert truss.cli("lock", **env).code == 0
    seaweed.client().put_object(Bucket=seaweed.bucket, Key=key, Body=b"bbbb")
    return env


def _gcs(email: str, *, bucket: str = "", own_key: bool = False) -> State:
    """A bucket with one object, and the key of the service account `email` ("": none)."""

    def state(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
        gcs: Gcs = request.getfixturevalue("gcs")
        own = gcs.bucket(f"errors-{uuid.uuid4().hex[:8]}")
        gcs.put(own, "m/a.bin", b"aaaa")
        fields = gcs.service_account(email, key=new_key() if own_key else None) if email else None
        _write_credential(truss, "service_account.json", fields)
        truss.config(f"model_cache:\n  - repo_id: gs://{bucket or own}/m\n")
        return {**gcs.env, "CLOUDSDK_CONFIG": str(truss.root / "gcloud")}

    return state


def _write_credential(truss: Truss, name: str, fields: dict[str, Any] | None) -> None:
    if fields is not None:
        (truss.folder / "data").mkdir(exist_ok=True)
        (truss.folder / "data" / name).write_text(json.dumps(fields))


def _proxy(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A proxy that wants another password."""
    proxy = _started(request, proxying("user", "the right one"))
    return {"HTTP_PROXY": f"http://user:sekrit-password@127.0.0.1:{proxy.server_address[1]}", "NO_PROXY": ""}


def _web(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A web server with a file for each error that it can cause."""
    server: FaultServer = _started(request, fault_server())
    body = b"w" * 100
    for status in ("401", "403"):
        server.add(f"/{status}.bin", body, status)
    for name, header, value in (("page", "Content-Type", "text/html"), ("gzip", "Content-Encoding", "gzip")):
        server.add(f"/{name}.bin", body)
        server.files[f"/{name}.bin"].headers = {header: value}
    server.add("/no-length.bin", b"", "416", "no-length")
    server.add("/elsewhere.bin", body, "redirect:http://example.com/w.bin")
    server.add("/w.bin", body, etag=None)
    return {"WEB": server.base}


def _moved(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A fetched repo whose branch has a new commit."""
    repo = _repo(request)
    truss.config(OPEN)
    assert truss.cli().code == 0
    repo.commit({"config.json": b'{"a": 1}'})
    return {}


def _lost(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A locked repo whose history was rewritten."""
    repo = _repo(request)
    truss.config(OPEN)
    assert truss.cli("lock").code == 0
    before = repo.refs["refs/heads/main"]
    repo.commit({"config.json": b'{"a": 1}'})
    del repo.trees[before]
    return {}


def _repo(request: pytest.FixtureRequest) -> Repo:
    hub: Hub = request.getfixturevalue("hub")
    return hub.repos["org/open"]


def _small_disk(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A disk of 1 MiB for the model cache, and 3 MB to come."""
    _large_folder(truss)
    request.getfixturevalue("small_disk")(truss.model_cache, 1024)
    return {}


def _full_disk(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """A disk that is full at the first byte, though its figures said that there is room."""
    _large_folder(truss)
    env: dict[str, str] = request.getfixturevalue("odd_disk")(truss.model_cache, "allocate=ENOSPC")
    return env


def _large_folder(truss: Truss) -> None:
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "a.bin").write_bytes(bytes(3_000_000))
    truss.config("model_cache:\n  - repo_id: file://weights\n")


def _quick_clock(request: pytest.FixtureRequest, truss: Truss) -> dict[str, str]:
    """Nothing listens at the Hub's address; the waits between the tries are short."""
    env: dict[str, str] = request.getfixturevalue("fast_clock")(50)
    return {**env, "HF_ENDPOINT": "http://127.0.0.1:9"}


def _started(request: pytest.FixtureRequest, context: Any) -> Any:
    """Enter a context, and leave it after the test."""
    value = context.__enter__()
    request.addfinalizer(lambda: context.__exit__(None, None, None))
    return value


STATES: dict[str, State] = {
    "an S3 bucket and no credential": _s3(""),
    "an S3 key that may not list": _s3("getonly"),
    "an S3 key that may not read": _s3("listonly"),
    "a wrong S3 secret": _s3("wrong"),
    "an unknown S3 key": _s3("unknown"),
    "no such S3 bucket": _s3("ro", bucket="no-such-bucket"),
    "an S3 bucket that moves": _s3_in_a_region,
    "a locked S3 object that was replaced": _s3_replaced,
    "a GCS bucket and no credential": _gcs(""),
    "a GCS account that may not list": _gcs(GET_ONLY),
    "a GCS account that may not read": _gcs(LIST_ONLY),
    "a GCS account without this key": _gcs(READER, own_key=True),
    "a GCS account that was revoked": _gcs(REVOKED),
    "no such GCS bucket": _gcs(READER, bucket="no-such-bucket"),
    "a proxy that wants another password": _proxy,
    "a web server": _web,
    "a branch that moved": _moved,
    "a locked commit that is gone": _lost,
    "a disk that is too small": _small_disk,
    "a full disk": _full_disk,
    "no server": _quick_clock,
}
