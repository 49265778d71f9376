"""A store of each kind with a counting front before it, and a Truss that may read from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.azurite import ACCOUNT, Azurite
from servers.gcs import Gcs
from servers.named import Named
from servers.s3 import S3Server, under_names

from scenarios.buckets.front import Front, front_of
from scenarios.buckets.stores import AzureStore, Folder, GcsStore, NamedStore, S3Store, Store, own_prefix
from scenarios.cache.forks import ForkedTruss, Forks


@pytest.fixture(scope="session")
def before_seaweed(seaweed: S3Server) -> Iterator[Front]:
    with front_of(seaweed.url) as front:
        yield front


@pytest.fixture(scope="session")
def before_moto(moto: S3Server) -> Iterator[Front]:
    with front_of(moto.url) as front:
        yield front


@pytest.fixture(scope="session")
def before_gcs(gcs: Gcs) -> Iterator[Front]:
    with front_of(gcs.url) as front:
        yield front


@pytest.fixture(scope="session")
def before_azure(azure: Azurite) -> Iterator[Front]:
    with front_of(azure.url.removesuffix(f"/{ACCOUNT}")) as front:
        yield front


@pytest.fixture
def on_seaweed(seaweed: S3Server, before_seaweed: Front) -> S3Store:
    return S3Store(before_seaweed, seaweed.bucket, own_prefix(), seaweed)


@pytest.fixture
def on_moto(moto: S3Server, before_moto: Front) -> S3Store:
    return S3Store(before_moto, moto.bucket, own_prefix(), moto)


@pytest.fixture(scope="session")
def named_front(before_seaweed: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    """A proxy that leads to SeaweedFS, by its front, under the names of R2 and CoreWeave."""
    with under_names(before_seaweed.url, tmp_path_factory.mktemp("named")) as running:
        yield running


@pytest.fixture(params=["r2", "cw"])
def service(request: pytest.FixtureRequest, seaweed: S3Server, before_seaweed: Front, named_front: Named) -> NamedStore:
    """R2 and CoreWeave in turn."""
    return NamedStore(before_seaweed, seaweed.bucket, own_prefix(), seaweed, named_front, request.param)


@pytest.fixture
def on_gcs(gcs: Gcs, before_gcs: Front) -> GcsStore:
    return GcsStore(before_gcs, gcs.bucket(own_prefix()), own_prefix(), gcs)


@pytest.fixture
def on_azure(azure: Azurite, before_azure: Front) -> AzureStore:
    return AzureStore(before_azure, f"{ACCOUNT}/{azure.container()}", own_prefix(), azure)


@pytest.fixture
def on_disk(tmp_path: Path) -> Folder:
    return Folder(Front(), "", "", tmp_path / "source")


@pytest.fixture(params=["seaweed", "moto", "gcs"])
def bucket(request: pytest.FixtureRequest) -> Store:
    """A bucket store: each of the real servers in turn."""
    store: Store = request.getfixturevalue(f"on_{request.param}")
    return store


@pytest.fixture(params=["seaweed", "gcs", "azure"])
def vendor(request: pytest.FixtureRequest) -> Store:
    """One server for each vendor, where two S3 servers would show the same."""
    store: Store = request.getfixturevalue(f"on_{request.param}")
    return store


@pytest.fixture(params=["seaweed", "gcs", "disk"])
def anywhere(request: pytest.FixtureRequest) -> Store:
    """A server of S3, one of GCS, and a local folder."""
    store: Store = request.getfixturevalue(f"on_{request.param}")
    return store


@pytest.fixture
def truss(tmp_path: Path, forks: Forks) -> ForkedTruss:
    """A Truss without a Hub; `store.give(truss)` lets it read. `truss-cache` is forked, in a fifth of the time."""
    return ForkedTruss(tmp_path, forks=forks)
