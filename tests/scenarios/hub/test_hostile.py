"""What a hostile Hub, or a mirror of one, can reach on this machine: nothing."""

from __future__ import annotations

from typing import Any

import pytest
from entries import entry
from machine import Machine
from servers.hub import Hub, Repo

from truss_cache_tasks.errors import WrongAnswer

LAYOUTS = [{}, {"mount_location": "/m"}, {"use_volume": True, "volume_folder": "v"}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["hub", "mount", "volume"])
@pytest.mark.parametrize("oid", ["../../../outside/evil", "/tmp/evil", "x/y", "..", "a" * 64 + "\n", "a\0b"], ids=ascii)
def test_a_digest_that_is_a_path_makes_no_file_or_folder(
    oid: str, layout: dict[str, Any], machine: Machine, repo: Repo, hub: Hub
) -> None:
    def lie(path: str, answer: Any) -> Any:
        return [{**item, "lfs": {"oid": oid, "size": 1}} for item in answer] if "/tree/" in path else answer

    hub.rewrite = lie
    with pytest.raises(WrongAnswer, match="sha256"):
        machine.truss(entry("org/name", **layout)).run()
    assert machine.downloads() == []
    assert [path for path in machine.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    assert not (machine.root.parent / "outside").exists()


def test_a_commit_that_is_a_path_makes_no_file_or_folder(machine: Machine, repo: Repo, hub: Hub) -> None:
    hub.rewrite = lambda path, answer: {"sha": "../../../outside"} if "/revision/" in path else answer
    with pytest.raises(WrongAnswer, match="commit"):
        machine.truss(entry("org/name")).run()
    assert [path for path in machine.root.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
