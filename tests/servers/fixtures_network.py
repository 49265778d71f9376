"""An authority, nginx and tinyproxy as fixtures: `pytest_plugins = ["servers.fixtures_network"]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.certificates import make_authority
from servers.nginx import Nginx, nginx
from servers.tinyproxy import Tinyproxy, tinyproxy


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a CA of our own (`ca.pem`) and a certificate of it for 127.0.0.1 and localhost."""
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder)
    return folder


@pytest.fixture
def web(tmp_path: Path, authority: Path) -> Iterator[Nginx]:
    with nginx(tmp_path / "web", authority) as running:
        yield running


@pytest.fixture
def proxy(tmp_path: Path, web: Nginx) -> Iterator[Tinyproxy]:
    """A proxy that lets CONNECT lead to `web` alone."""
    with tinyproxy(tmp_path / "proxy", "us-er", "hush-hush", connect=[web.secure_port]) as running:
        yield running
