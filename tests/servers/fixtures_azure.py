"""Azurite as fixtures: `pytest_plugins = ["servers.fixtures_azure"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.azurite import Azurite, Entra, azurite, entra


@pytest.fixture(scope="session")
def azure() -> Iterator[Azurite]:
    """Return an Azurite for the whole session: make containers of your own in it."""
    with azurite() as running:
        yield running


@pytest.fixture(scope="session")
def azure_tls(authority: Path) -> Iterator[Azurite]:
    """Return an Azurite over https, which accepts tokens of Entra too."""
    with azurite(authority) as running:
        yield running


@pytest.fixture
def token_server(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Entra]:
    """Return the token server of the application, and let this process's azure-identity ask it and nothing else."""
    with entra(authority) as running:
        env = {
            **running.env,
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9",
            "AZURE_TOKEN_CREDENTIALS": "prod",
        }
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        yield running
