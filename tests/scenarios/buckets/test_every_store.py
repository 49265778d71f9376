"""One config with an entry of every store: their libraries meet in one process, and so do their files and lines."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from servers.hub import Hub
from servers.named import Named
from servers.nginx import Nginx
from servers.s3 import S3Server
from trusses import Ran, Truss, refuse_secrets

from scenarios.buckets.front import Front
from scenarios.buckets.stores import AzureStore, GcsStore, NamedStore, S3Store, Store, own_prefix

HUSH = "netrc-hush-hush"
LOG = "import logging\nlogging.basicConfig(level=logging.DEBUG)\n"


class Every:
    """A Truss, and a URI of each store by its scheme; `cli` fails if a secret of any of them is printed or written."""

    def __init__(self, truss: Truss, stores: dict[str, Store], hub: Hub, web: Nginx) -> None:
        self.truss = truss
        hub.create("org/name").commit({"w.safetensors": b"w" * 90_000})
        web.put("d/w.bin", b"web" * 30_000)
        for store in stores.values():
            store.put("m/a.bin", store.scheme.encode() * 30_000)
            store.give(truss)
        truss.env["NO_PROXY"] = "127.0.0.1,localhost"
        netrc = truss.root / "home" / ".netrc"
        netrc.write_text(f"machine localhost login us password {HUSH}\n")
        netrc.chmod(0o600)
        (truss.root / "source").mkdir()
        (truss.root / "source" / "f.bin").write_bytes(b"f" * 1_000)
        buckets = {scheme: store.uri("m") for scheme, store in stores.items()}
        files = {"http": f"{web.url}/d/w.bin?v=query-hush-hush", "file": "file://../source"}
        self.uris = {"hf": "hf://org/name", **buckets, **files}
        self.secrets = [HUSH, base64.b64encode(f"us:{HUSH}".encode()).decode(), "query-hush-hush"]
        self.secrets += [secret for store in stores.values() for secret in store.secrets()]
        (truss.root / "logs").mkdir()
        (truss.root / "logs" / "sitecustomize.py").write_text(LOG)

    def checked(self, ran: Ran) -> Ran:
        assert "Traceback" not in ran.text
        refuse_secrets(self.secrets, ran.text)
        for root in (self.truss.model_cache, self.truss.mounts, self.truss.hub_cache):
            for path in (path for path in root.rglob("*") if path.is_file() and ".truss_cache" in path.parts):
                assert not [secret for secret in self.secrets if secret.encode() in path.read_bytes()], path
        return ran

    def cli(self, *arguments: str, **env: str) -> Ran:
        ran = self.checked(self.truss.cli(*arguments, **env))
        assert ran.code == 0, ran.text
        return ran


@pytest.fixture
def truss(tmp_path: Path, hub: Hub) -> Truss:
    """Its commands are processes of their own: they import everything anew, in threads."""
    return Truss(tmp_path, hub=hub)


@pytest.fixture
def every(
    truss: Truss,
    hub: Hub,
    web: Nginx,
    on_gcs: GcsStore,
    on_seaweed: S3Store,
    on_azure: AzureStore,
    seaweed: S3Server,
    before_seaweed: Front,
    named_front: Named,
) -> Every:
    web.say()
    named = {
        scheme: NamedStore(before_seaweed, seaweed.bucket, own_prefix(), seaweed, named_front, scheme)
        for scheme in ("r2", "cw")
    }
    return Every(truss, {"gs": on_gcs, "s3": on_seaweed, "azure": on_azure, **named}, hub, web)


def test_every_store_is_fetched_into_the_model_cache_with_the_debug_log_on(every: Every) -> None:
    every.truss.config("model_cache:\n" + "".join(f"- repo_id: {uri}\n" for uri in every.uris.values()))
    log = {"PYTHONPATH": str(every.truss.root / "logs")}
    ran = every.cli(**log)
    assert f"{len(every.uris)} entries: fetched {len(every.uris)} files" in ran.err
    assert "DEBUG:urllib3" in ran.err
    assert every.cli("why", "--remote", "--check", **log).out.count("in the store: unchanged") == len(every.uris)
    every.cli("lock", **log)
    refuse_secrets(every.secrets[:2], (every.truss.folder / "model_cache.lock").read_text())


def test_every_store_is_mounted_side_by_side_in_threads_of_doit(every: Every) -> None:
    mounts = "".join(f"- source: {uri}\n  mount_location: /m/{name}\n" for name, uri in every.uris.items())
    every.truss.config(f"weights:\n{mounts}")
    ran = every.checked(every.truss.doit("run", "-n", "4", "-P", "thread", "cache_weights"))
    assert ran.code == 0, ran.text
    assert sorted(path.name for path in (every.truss.mounts / "m").iterdir()) == sorted(every.uris)
    assert every.cli("verify").out.count(": good, 1 file") == len(every.uris)
    assert every.cli(HF_HUB_OFFLINE="1").err.endswith("fresh, nothing to do\n")
