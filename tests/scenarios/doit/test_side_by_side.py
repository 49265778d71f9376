"""Entries, and whole runs, at the same time: each blob that several of them want comes once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Truss

DOIT = [sys.executable, "-m", "doit", "run"]
CLI = [str(BIN / "truss-cache")]
# A database of its own: doit's is SQLite since Python 3.13, and of two that make one at once, one may fail in doit.
OTHER = [*DOIT, "--db-file", ".other.doit.db"]
COMMANDS = {
    "threads of doit": [[*DOIT, "-n", "2", "-P", "thread"]],
    "processes of doit": [[*DOIT, "-n", "2", "-P", "process"]],
    "threads of truss-cache": [CLI],
    "two doits": [[*DOIT, "cache_weights:org/repo"], [*OTHER, "cache_weights:org/repo@main"]],
    "two doits on all": [DOIT, OTHER],
    "doit and truss-cache": [DOIT, CLI],
}


def ended(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=90)
    assert child.returncode == 0, out + err
    return out + err


@pytest.mark.parametrize("who", COMMANDS)
def test_a_file_that_two_want_at_once_comes_once(truss: Truss, hub: Hub, who: str) -> None:
    hub.create("org/repo").commit({name: name[:1].encode() * 200_000 for name in ("a.bin", "b.bin", "shared.bin")})
    hub.fail("shared.bin", "stall", host="cdn")
    truss.config("""
        model_cache:
          - repo_id: org/repo
            allow_patterns: ["a.bin", "shared.bin"]
          - repo_id: org/repo
            allow_patterns: ["b.bin", "shared.bin"]
    """)
    children = [truss.start(command) for command in COMMANDS[who]]

    def cdn(name: str) -> int:
        return len([r for r in hub.asked("GET", f"/{name}") if r.host == "cdn"])

    def both_at_it() -> bool:
        """One stalls in the shared file; the other entry is past its listing, or waits as a whole (the same entry)."""
        listed = sum("/tree/" in r.path for r in hub.requests)
        return cdn("shared.bin") == 1 and (listed >= 2 or "all" in who or "and" in who)

    try:
        wait_until(both_at_it, "both", alive=lambda: all(child.poll() is None for child in children))
    finally:
        hub.released.set()
        said = [ended(child) for child in children]
    assert {name: cdn(name) for name in ("a.bin", "b.bin", "shared.bin")} == {"a.bin": 1, "b.bin": 1, "shared.bin": 1}
    assert not any("Traceback" in text for text in said)
    assert truss.cli("verify").code == 0
    assert truss.cli("why", "--check").code == 0
