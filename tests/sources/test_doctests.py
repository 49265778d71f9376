"""The examples in the docstrings of the registry, the network's settings and the sources are true."""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "model.credentials",
    "model.request",
    "network.settings",
    "network.proxies",
    "sources.objects",
    "sources.gcs.source",
    "sources.https.digests",
    "sources.https.validators",
    "network.redirects",
    "network.hosts",
]


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"truss_cache_tasks.{module}"))
    assert result.attempted
    assert not result.failed
