"""The examples in the docstrings of config/ are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["fields", "folders", "placeholders", "names", "uris", "web_urls"])
def test_the_examples_of_the_docstrings_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"truss_cache_tasks.config.{module}"))
    assert result.attempted
    assert not result.failed
