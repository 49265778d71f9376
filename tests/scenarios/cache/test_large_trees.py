"""Trees that are deep, and configs that are long."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trusses import Truss

from truss_cache_tasks import load_config
from truss_cache_tasks.model.keys import ContentId, canonical
from truss_cache_tasks.model.records import FileRecord, Manifest
from truss_cache_tasks.store.records.manifest import to_json

DEPTH = 1200


@pytest.fixture
def deep(truss: Truss) -> Iterator[Truss]:
    """A Truss whose folder `weights` is DEPTH folders deep; what it leaves is removed without recursion."""
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "w.bin").write_bytes(b"w")
    below = os.open(truss.folder / "weights", os.O_RDONLY)
    for _ in range(DEPTH):
        os.mkdir("d", dir_fd=below)
        above, below = below, os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(above)
    with open(os.open("deep.bin", os.O_CREAT | os.O_WRONLY, dir_fd=below), "wb") as out:
        out.write(b"deep")
    os.close(below)
    yield truss
    subprocess.run(["rm", "-rf", truss.folder, truss.model_cache], check=True)


def found(folder: Path, *what: str) -> list[str]:
    """Return the paths below a folder, by find(1): pathlib and os.walk recurse, and fail on such a depth."""
    if not folder.exists():
        return []
    done = subprocess.run(["find", ".", *what], cwd=folder, capture_output=True, text=True, check=True)
    return sorted(done.stdout.splitlines())


def test_a_local_tree_of_1200_folders_is_fetched_fresh_verified_and_cleaned(deep: Truss) -> None:
    deep.config("model_cache:\n  - repo_id: file://./weights\n")
    ran = deep.cli()
    assert ran.code == 0, ran
    shown = deep.model_cache / "weights"
    assert (shown / "w.bin").read_bytes() == b"w"
    assert (shown / ("d/" * DEPTH + "deep.bin")).read_bytes() == b"deep"
    why = deep.cli("why", "--check")
    assert (why.code, why.out.count("fresh")) == (0, 1), why
    assert deep.cli("verify").code == 0
    ran = deep.cli("run", "-a")
    assert ran.code == 0, ran
    ran = deep.cli("clean")
    assert ran.code == 0, ran
    assert found(deep.model_cache, "-type", "f") == []
    assert found(shown) == []


# What a command does, counted: lines of ours that run, characters of JSON that are read, files that are opened.
COUNTED = """
import collections, json, os, sys
from truss_cache_tasks.app import cli
import truss_cache_tasks
ours, work, loads = os.path.dirname(truss_cache_tasks.__file__), collections.Counter(), json.loads

def count(text, *args, **named):
    work["json"] += len(text)
    return loads(text, *args, **named)

def lines(frame, event, _argument):
    work["lines"] += event == "line"
    return lines

def calls(frame, _event, _argument):
    return lines if frame.f_code.co_filename.startswith(ours) else None

json.loads = count
sys.addaudithook(lambda event, _arguments: work.update(opened=event == "open"))
sys.settrace(calls)
status = cli.main(["why"])
sys.settrace(None)
print(json.dumps({"status": status, **work}), file=sys.stderr)
"""


def work_of_why(truss: Truss, entries: int, state: str) -> dict[str, int]:
    """Return what `why` does for a config of so many entries in one root, all of them in one state."""
    truss.config("model_cache:\n" + "".join(f"  - repo_id: file://./source/w{n}\n" for n in range(entries)))
    truss.env |= {"TRUSS_CACHE_PROJECT": "ours", "TRUSS_MODEL_CACHE_DIR": str(truss.root / f"cache of {entries}")}
    root = Path(truss.env["TRUSS_MODEL_CACHE_DIR"])
    records = root / ".truss_cache"
    (records / "manifests").mkdir(parents=True)
    (records / "claims").mkdir()
    claims: dict[str, dict[str, Any]] = {}
    for entry in load_config(truss.folder / "config.yaml").entries:
        path = root / entry.name / "f.bin"
        path.parent.mkdir()
        path.write_bytes(b"f")
        touched = 1 if state == "touched" else 0
        record = FileRecord(
            path=f"{entry.name}/f.bin",
            size=1,
            mtime_ns=path.stat().st_mtime_ns + touched,
            content_id=ContentId(f"file:{entry.name}"),
            origin=f"file://./source/{entry.name}/f.bin",
            digest="",
            xxh3="0" * 32,
        )
        form = canonical(entry.request)
        manifest = Manifest(entry.key, form, "", entry.name, (record,))
        if state != "not fetched":
            (records / "manifests" / f"{entry.key}.json").write_text(json.dumps(to_json(manifest)))
        claims[entry.name] = {
            "request": entry.key,
            "form": dict(form),
            "fingerprint": None,
            "when": 1.0,
            "config": str(truss.folder / "config.yaml"),
            "host": "here",
            "cleaned": False,
            "former": [],
            "snapshot": manifest.snapshot,
        }
    value = {"format": 1, "entries": claims, "former": [], "roots": [str(root)]}
    (records / "claims" / "ours.json").write_text(json.dumps(value))
    ran = truss.python(COUNTED)
    assert ran.code == 0, ran
    says = "fresh" if state == "fresh" else "touched" if state == "touched" else "not fetched yet"
    assert ran.out.count(says) == entries, ran.out[:500]
    work: dict[str, int] = json.loads(ran.err.splitlines()[-1])
    assert work.pop("status") == 0
    return work


@pytest.mark.parametrize("state", ["fresh", "touched", "not fetched"])
def test_the_work_of_why_grows_as_the_entries_do(state: str, truss: Truss) -> None:
    few, many = work_of_why(truss, 20, state), work_of_why(truss, 120, state)
    assert {name: many[name] <= 7 * few[name] for name in many} == dict.fromkeys(many, True), (few, many)
