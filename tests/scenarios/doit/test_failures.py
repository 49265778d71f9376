"""What a failure looks like: one cause, one remedy, no traceback, no secret; the others are fetched."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from servers.hub import Hub
from servers.hub_repos import Rights
from trusses import Truss

SECRET = "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"


def token(truss: Truss, hub: Hub) -> None:
    (truss.secrets / "hf_access_token").write_text(SECRET)
    hub.tokens[SECRET] = Rights(gated=False)


def no_folder(truss: Truss, hub: Hub) -> None:
    truss.hub_cache.mkdir(parents=True)
    (truss.hub_cache / "models--org--bad").write_text("a file where the repo's folder goes")


def flipped_twice(truss: Truss, hub: Hub) -> None:
    hub.fail("bad.bin", *["flip"] * 4, host="cdn")


def removed(truss: Truss, hub: Hub) -> None:
    hub.repos.pop("org/bad")


CAUSES: dict[str, tuple[Callable[[Truss, Hub], None], str, str]] = {
    "gone": (removed, "", "org/bad"),
    "no such revision": (lambda truss, hub: None, "    revision: v9\n", "v9"),
    "gated": (token, "", "org/bad"),
    "nothing selected": (lambda truss, hub: None, '    allow_patterns: ["*.sfetensors"]\n', "*.sfetensors"),
    "not a folder": (no_folder, "", "models--org--bad"),
    "wrong bytes": (flipped_twice, "", "bad.bin"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_failure_is_one_cause_and_one_remedy_and_the_others_are_fetched(truss: Truss, hub: Hub, cause: str) -> None:
    prepare, lines, named = CAUSES[cause]
    hub.create("org/bad", gated=cause == "gated").commit({"bad.bin": b"b" * 20_000})
    hub.create("org/good").commit({"good.bin": b"g" * 20_000})
    prepare(truss, hub)
    truss.config(f"model_cache:\n  - repo_id: org/bad\n{lines}  - repo_id: org/good\n")

    done = truss.doit("run", "-c")
    assert done.code == 2, done.text
    said = [line for line in done.err.splitlines() if line.startswith("org/bad: ") and ": fetching " not in line]
    assert len(said) == 1, done.text
    assert named in said[0]
    assert done.err.count("hint: ") == 1
    assert not re.search("TaskFailed|####|<stdout>", done.text)
    alone = truss.cli()
    assert alone.code == 1, alone.text
    assert alone.err.count("hint: ") == 1
    for text in (done.text, alone.text):
        assert "Traceback" not in text
        assert SECRET not in text
    assert list(truss.hub_cache.glob("models--org--good/snapshots/*/good.bin"))
    assert not list(truss.hub_cache.glob("models--org--bad/snapshots/*/*"))


@pytest.mark.parametrize("kind", ["empty", "a folder"])
def test_a_useless_token_file_fails_its_entry_and_status_still_answers(truss: Truss, hub: Hub, kind: str) -> None:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000})
    token = truss.secrets / "hf_access_token"
    token.mkdir() if kind == "a folder" else token.write_text("")
    truss.config("model_cache:\n  - repo_id: org/one\n")
    for command in (["list", "--all", "--status"], ["cache-why"]):
        seen = truss.doit(*command)
        assert (seen.code, "Traceback" in seen.text) == (0, False), seen.text
    failed = truss.doit()
    assert (failed.code, failed.err.count("hint: ")) == (1, 1), failed.text
    token.rmdir() if kind == "a folder" else token.unlink()
    token.write_text(SECRET + "\n")
    hub.tokens[SECRET] = Rights()
    assert truss.doit().code == 0


def test_offline_a_stale_entry_fails_and_a_fresh_one_does_not(truss: Truss, hub: Hub) -> None:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000})
    truss.config("model_cache:\n  - repo_id: org/one\n")
    stale = truss.doit(HF_HUB_OFFLINE="1")
    assert (stale.code, "HF_HUB_OFFLINE" in stale.err, hub.requests) == (1, True, [])
    assert truss.doit().code == 0
    assert truss.doit(HF_HUB_OFFLINE="1").code == 0


def test_an_unreadable_record_is_a_reason_and_no_crash(truss: Truss, hub: Hub) -> None:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000})
    truss.config("model_cache:\n  - repo_id: org/one\n")
    assert truss.doit().code == 0
    records = truss.hub_cache / "models--org--one" / ".truss_cache"
    (manifest,) = (records / "manifests").glob("*.json")
    for damage in ("", "{", "[]", '{"format": 99}', '{"format": 1, "files": 3}'):
        manifest.write_text(damage)
        why = truss.doit("cache-why")
        assert (why.code, "Traceback" in why.text, "fresh" in why.out) == (0, False, False), why.text
    claims = next(Path(records / "claims").glob("*.json"))
    claims.write_text('{"format": 1, "entries": []}')
    os.chmod(claims, 0)
    hub.requests.clear()
    again = truss.doit()
    assert again.code == 0, again.text
    assert not [r for r in hub.requests if r.host == "cdn"], "the bytes were here"
    assert truss.doit("cache-why", "--check").code == 0
