"""The commands of `truss-cache` in the process of the tests, which takes a tenth of the time of a child."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest
from trusses import Ran, Truss, checked

from truss_cache_tasks.app.cli import main

__all__ = ["Cli", "cli"]

Cli = Callable[..., Ran]


@pytest.fixture
def cli(truss: Truss, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Return what `truss.cli` is, save that a warning which was written in this process is not written again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.chdir(truss.folder)

    def run(*args: str, **env: str) -> Ran:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**truss.env, **env}.items():
                patch.setenv(name, value)
            capfd.readouterr()
            code = main(args)
            return checked(truss, {**truss.env, **env}, Ran(code, *capfd.readouterr()))

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)
