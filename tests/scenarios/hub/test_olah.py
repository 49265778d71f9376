"""olah, a mirror that people run: as HF_ENDPOINT, and as one of TRUSS_CACHE_HF_ENDPOINTS."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from in_process import Cli, cli
from servers.hub import Hub, Repo, Rights
from servers.olah import olah
from trusses import Truss, tree

__all__ = ["cli"]

BIG = random.Random(8).randbytes((9 << 20) + 5)  # 2 parts
FILES = {"config.json": b"{}", "model.safetensors": b"m" * 30_000, "sub/a b%.bin": b"x" * 20_000}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory, upstream: Hub) -> Iterator[str]:
    with olah(tmp_path_factory.mktemp("olah") / "cache", upstream) as url:
        yield url


@pytest.fixture
def repo(upstream: Hub, truss: Truss, request: pytest.FixtureRequest) -> Repo:
    """A repo of its own for each test, as olah keeps what it has seen for minutes."""
    name = f"org/{request.node.name[:60].replace('_', '-')}"
    truss.config(f"model_cache:\n  - repo_id: {name}\n")
    repo = upstream.create(name)
    repo.commit(FILES)
    upstream.requests.clear()
    return repo


def fetched(truss: Truss) -> dict[str, bytes]:
    (snapshot,) = truss.hub_cache.glob("models--org--*/snapshots/*")
    return tree(snapshot)


def test_olah_may_stand_for_the_hub(truss: Truss, repo: Repo, mirror: str, upstream: Hub, cli: Cli) -> None:
    repo.commit({"model.safetensors": BIG})
    ran = cli(HF_ENDPOINT=mirror)
    assert ran.code == 0, ran.text
    assert "(all verified)" in ran.err
    assert fetched(truss) == FILES | {"model.safetensors": BIG}
    upstream.sent.clear()
    assert cli("clean").code == 0
    assert cli(HF_ENDPOINT=mirror).code == 0
    assert upstream.sent["cdn"] == 0, "its cache has the bytes"
    assert cli("verify").code == 0


def test_olah_brings_what_an_unavailable_hub_cannot(
    truss: Truss, repo: Repo, mirror: str, upstream: Hub, cli: Cli
) -> None:
    ran = cli(HF_ENDPOINT="http://127.0.0.1:9", HF_TOKEN="secret-token", TRUSS_CACHE_HF_ENDPOINTS=mirror)
    assert ran.code == 0, ran.text
    assert fetched(truss) == FILES
    assert {request.token for request in upstream.requests} == {None}


def test_a_gated_repo_comes_through_olah_with_the_token(
    truss: Truss, repo: Repo, mirror: str, upstream: Hub, cli: Cli
) -> None:
    repo.gated, upstream.tokens["good"] = True, Rights()
    refused = cli(HF_ENDPOINT=mirror)
    assert refused.code == 1
    assert "gated" in refused.err
    assert cli(HF_ENDPOINT=mirror, HF_TOKEN="good").code == 0
    assert fetched(truss) == FILES
    assert upstream.leaks == []


def test_a_listing_of_several_pages_is_refused_and_not_cut(
    truss: Truss, repo: Repo, mirror: str, upstream: Hub, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """olah 0.5.4 does not pass the cursor on: each page is the first one. A lock file needs no listing."""
    truss.env["HF_ENDPOINT"] = upstream.url
    monkeypatch.setattr(upstream, "page", 2)
    assert cli("lock").code == 0
    (truss.folder / "model_cache.lock").rename(truss.folder / "kept")
    ran = cli(HF_ENDPOINT=mirror)
    assert ran.code == 1
    assert "a page names an earlier one as the next" in ran.err
    (truss.folder / "kept").rename(truss.folder / "model_cache.lock")
    assert cli(HF_ENDPOINT=mirror).code == 0
    assert fetched(truss) == FILES
