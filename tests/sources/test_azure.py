"""Azure Blob Storage against Azurite, which checks keys, SAS and tokens."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from servers.azurite import (
    ACCOUNT,
    CLIENT,
    CLIENT_SECRET,
    KEYS,
    TENANT,
    WRONG_KEY,
    Azurite,
    Entra,
)

from truss_cache_tasks.network.exchange import ExchangeLimits
from truss_cache_tasks.network.retry import RetryLimits
from truss_cache_tasks.sources.azure import AzureSource, source
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract

pytest_plugins = ["servers.fixtures_azure"]

QUICK = ExchangeLimits(retry=RetryLimits(attempts=3, backoff_s=0.01))


@dataclass
class Place:
    """A prefix of a container of its own, and the credential of its sources."""

    azure: Azurite
    folder: Path
    credential: Mapping[str, str] | None
    wrong: Mapping[str, str]
    public_access: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    prefix: str = "models/m"
    secrets: tuple[str, ...] = (*KEYS.values(), WRONG_KEY, CLIENT_SECRET, "sig=")

    def __post_init__(self) -> None:
        self.container = self.azure.container(public=self.public_access)

    def put(self, path: str, data: bytes) -> None:
        self.azure.put(self.container, f"{self.prefix}/{path}", data)

    def put_beside(self, suffix: str, data: bytes) -> None:
        self.azure.put(self.container, self.prefix + suffix, data)

    def delete(self, path: str) -> None:
        self.azure.delete(self.container, f"{self.prefix}/{path}")

    def at(self, uri: str, credential: Mapping[str, str] | None, **fields: Any) -> AzureSource:
        truss = self.folder / uuid.uuid4().hex
        (truss / "data").mkdir(parents=True)
        if credential is not None:
            (truss / "data" / "azure_credentials.json").write_text(json.dumps(credential))
        network = settings(**{**self.azure.env, **self.env})
        return open_with(AzureSource, entry(uri, config=truss / "config.yaml", **fields), network, limits=QUICK)

    def source(self, **fields: Any) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}", self.credential, **fields)

    def by(self, credential: Mapping[str, str] | None) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}", credential)

    def whole(self) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}", self.credential)

    def source_of(self, path: str) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/{self.container}/{self.prefix}/{path}", self.credential)

    def missing(self) -> AzureSource:
        return self.at(f"azure://{ACCOUNT}/no-such-container/m", self.credential)

    def refused(self) -> AzureSource:
        return self.by(self.wrong)

    def public(self) -> Place:
        return replace(self, credential=None, public_access="container")


class AzureContract(SourceContract):
    many = 250  # with pages of 100
    names = (*PLAIN_NAMES, *ODD_NAMES, "p//y", "tab\tbed.bin", "dot.")

    def test_a_listing_longer_than_a_page_is_whole(  # type: ignore[override]  # a page of the store has 5,000
        self, store: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(source, "PAGE", 100)
        super().test_a_listing_longer_than_a_page_is_whole(store)


class TestSharedKey(AzureContract):
    @pytest.fixture
    def store(self, azure: Azurite, tmp_path: Path) -> Place:
        return Place(azure, tmp_path, {"account_key": KEYS[ACCOUNT]}, {"account_key": WRONG_KEY})


class TestSas(AzureContract):
    @pytest.fixture
    def store(self, azure: Azurite, tmp_path: Path) -> Place:
        sas = azure.sas()
        tampered = sas.replace("sig=", "sig=A")
        return Place(azure, tmp_path, {"sas_token": sas}, {"sas_token": tampered})


class TestEntra(AzureContract):
    @pytest.fixture
    def store(self, azure_tls: Azurite, token_server: Entra, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
        monkeypatch.setenv("SSL_CERT_FILE", str(azure_tls.bundle))
        ours = {"tenant_id": TENANT, "client_id": CLIENT, "client_secret": CLIENT_SECRET}
        return Place(azure_tls, tmp_path, ours, {"account_key": WRONG_KEY}, env=token_server.env)
