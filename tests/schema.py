"""The schema of our JSON, docs/reference/json-schema.json, and the check against it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it has no types

FILE = Path(__file__).parents[1] / "docs" / "reference" / "json-schema.json"


@cache
def definitions() -> dict[str, Any]:
    """Return the schema of each command, of a task and of the events."""
    found: dict[str, Any] = json.loads(FILE.read_text())["$defs"]
    return found


def checked(text: str, name: str) -> Any:
    """Return the value of JSON text, which is ASCII without control characters and valid for the definition `name`."""
    assert text.isascii()
    assert not set(text) - {"\n"} & {chr(code) for code in [*range(32), 127]}
    value = json.loads(text, parse_constant=lambda word: (_ for _ in ()).throw(AssertionError(word)))
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions()}).validate(value)
    return value


def checked_lines(text: str) -> list[Any]:
    """Return the events of a log, each checked."""
    assert text.endswith("\n") or not text
    return [checked(line, "event") for line in text.splitlines()]
