"""The GCS stand-in as fixtures: `pytest_plugins = ["servers.fixtures_gcs"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.gcs import Gcs


@pytest.fixture(scope="session")
def gcs() -> Iterator[Gcs]:
    """One store for the whole run; a test makes buckets of its own in it."""
    with Gcs.start() as running:
        yield running


@pytest.fixture
def gcs_env(gcs: Gcs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The variables of a client of `gcs`, set in this process too: google.auth reads them there."""
    env = {**gcs.env, "CLOUDSDK_CONFIG": str(tmp_path / "no-gcloud-here")}
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return env
