"""The examples in docstrings are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("module", ["app.api", "app.commands.command_line", "app.commands.completion", "app.output"])
def test_examples_are_true(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"truss_cache_tasks.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
