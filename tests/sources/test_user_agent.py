"""Every request says which program sends it, and in which version."""

from __future__ import annotations

import json
from pathlib import Path

from entries import entry, open_with, settings
from machine import Machine
from servers.gcs import Gcs
from servers.hub import Hub
from servers.s3 import S3Server, watched

from truss_cache_tasks import __version__
from truss_cache_tasks.model.credentials import Credential, Secret
from truss_cache_tasks.network.settings import Network
from truss_cache_tasks.sources.gcs import GcsSource
from truss_cache_tasks.sources.s3 import S3Source

AGENT = f"truss-cache-tasks/{__version__}"


def test_requests_to_the_hub_have_our_user_agent_those_for_bytes_too(hub: Hub, tmp_path: Path) -> None:
    hub.create("org/name").commit({"config.json": b"{}"})
    Machine(tmp_path, hub).truss(entry("org/name")).run()
    ours = [request for request in hub.requests if request.path != "/api/agent-harnesses"]
    assert any("/resolve/" in request.path for request in ours)
    assert {request.headers["user-agent"] for request in ours} == {AGENT}


def test_requests_to_gcs_and_its_token_server_have_our_user_agent(gcs: Gcs, gcs_env: dict[str, str]) -> None:
    bucket = gcs.bucket("user-agent")
    gcs.put(bucket, "w.bin", b"w")
    key = Credential("key", {"json": Secret(json.dumps(gcs.service_account()))})
    with gcs.watching() as seen:
        GcsSource(entry(f"gs://{bucket}").request, key, Network.from_env(gcs_env)).listing()
    assert [request.kind for request in seen] == ["token", "list"]
    assert {request.headers["user-agent"] for request in seen} == {AGENT}


def test_requests_to_s3_have_our_user_agent_before_botocores(moto: S3Server) -> None:
    moto.client().put_object(Bucket=moto.bucket, Key="user-agent/w.bin", Body=b"w")
    with watched(moto) as seen:
        here = settings(**{**moto.env, "AWS_ENDPOINT_URL_S3": seen.url}, **moto.identities["ro"].env())
        source = open_with(S3Source, entry(f"s3://{moto.bucket}/user-agent"), here)
        (file,) = source.listing().files
        location = source.locate(file)
        assert location.fetch_digest is not None
        location.fetch_digest()
    assert {method for method, _ in seen.asked} == {"GET", "HEAD"}
    assert {agent.partition(" ")[0] for agent in seen.agents} == {AGENT}
