"""Records that are broken or not ours to understand: a miss with a reason, protection for others, never a crash."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from entries import entry
from machine import FILES, Machine
from rights import rights_of_files_count
from servers.hub import Hub, Repo
from trusses import Truss, tree

from truss_cache_tasks.errors import DiskError
from truss_cache_tasks.model.records import Claims, Pin
from truss_cache_tasks.network.cancel import NEVER
from truss_cache_tasks.operations.context import read_status
from truss_cache_tasks.operations.forecast import forecast
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.records.claims import read_claims, read_pins, write_claims, write_pin
from truss_cache_tasks.store.records.root_state import RootState

MAIN = "org/name"
Break = Callable[[Path], object]


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


FORMS: list[tuple[str, Break]] = [
    ("cut", lambda path: path.write_text(path.read_text()[:50])),
    ("empty", lambda path: path.write_text("")),
    ("a list", lambda path: path.write_text("[]")),
    ("no text", lambda path: path.write_bytes(b"\xff\xfe\0")),
    ("too deep", lambda path: path.write_text("[" * 100_000)),
    ("a folder", a_folder),
    ("a FIFO", a_fifo),
]


def value_at(*steps: Any, value: Any) -> Break:
    """Put `value` at the place that `steps` lead to; `*` is the first name there."""

    def change(path: Path) -> None:
        whole = json.loads(path.read_text())
        inner = whole
        for step in steps[:-1]:
            inner = inner[next(iter(inner)) if step == "*" else step]
        inner[steps[-1]] = value
        path.write_text(json.dumps(whole))

    return change


VALUES: dict[str, list[tuple[tuple[Any, ...], list[Any]]]] = {
    "manifests/*.json": [
        (("format",), [2, True, "1", None]),
        (("key",), ["x", 5, "0" * 64]),
        (("request",), [{}, 5, {"form": "hub", "revision": 5, "source": ""}]),
        (("revision",), [None, 5]),
        (("folder",), [None, "..", "/etc"]),
        (("files",), [[], "x", [5], [[]]]),
        (
            ("files", 0, "path"),
            ["", ".", "a/./b", "a//b", "/etc/x", "../x", "a\0b", "a\ud800", ".truss_cache/pins.json"],
        ),
        (("files", 0, "size"), [True, -5, 1.5, "1"]),
        (("files", 0, "mtime_ns"), [10**400, None]),
        (("files", 0, "identity"), [[1], "sha256:../../x", "plain"]),
        (("files", 0, "origin"), [None]),
        (("files", 0, "digest"), [None]),
        (("files", 0, "xxh3"), [None]),
        (("files", 0, "blob"), [None, "../x"]),
        (("files", 0, "made_blob"), [1]),
        (("files", 0, "unknown"), [1]),
    ],
    "claims/*.json": [
        (("format",), [0, "1"]),
        (("entries",), [[], 5]),
        (("entries", "*"), [5]),
        (("entries", "*", "request"), [None, [], "../../../x"]),
        (("entries", "*", "form"), [5, {"allow": {"a": 1}}]),
        (("entries", "*", "fingerprint"), [5]),
        (("entries", "*", "when"), [None, True]),
        (("entries", "*", "config"), [5, "\ud800"]),
        (("entries", "*", "cleaned"), [0]),
        (("entries", "*", "former"), [None, [[1]], ["*"]]),
        (("former",), [[None], "x"]),
        (("roots",), [5, [5], ["rel"], ["/a\0b"]]),
    ],
    "pins.json": [
        (("format",), [0]),
        (("pins",), [[], 5]),
        (("pins", "*"), [5]),
        (("pins", "org/name@main", "commit"), [5, "", "../../../x", "main"]),
        (("pins", "org/name@main", "by"), [5]),
        (("pins", "org/name@main", "run"), [None]),
        (("pins", "org/name@main", "unknown"), [1]),
    ],
}
BROKEN = [
    *(pytest.param(which, change, id=f"{which[:5]}-{name}") for which in VALUES for name, change in FORMS),
    *(
        pytest.param(which, value_at(*steps, value=value), id=f"{which[:5]}-{steps[-1]}-{ascii(value)[:30]}")
        for which, places in VALUES.items()
        for steps, values in places
        for value in values
    ),
]

THROUGH_ALL = """
import sys
from truss_cache_tasks.app.cli import main
for command in (["why"], ["verify"], ["clean", "-n"], [], ["why", "--check"], ["verify"], ["clean"], ["why"], []):
    print("=", main(command), *command, flush=True)
"""


@pytest.mark.parametrize(("which", "change"), BROKEN)
def test_a_broken_record_is_a_miss_and_the_next_run_repairs_it(
    which: str, change: Break, machine: Machine, repo: Repo
) -> None:
    truss = machine.truss(entry(MAIN))
    truss.run()
    context = truss.context()

    def broken() -> None:
        (path,) = context.root.records.glob(which)
        change(path)

    broken()
    assert "internal error" not in truss.verdicts()[MAIN]
    truss.run(force=True)
    assert truss.fresh
    assert read_pins(context.root).keys() == {"org/name@main"}
    broken()
    forecast(context, read_status(context), hashing=True, cancel=NEVER)
    truss.clean(dry=True)
    truss.clean()
    truss.run()
    assert truss.fresh
    truss.clean()
    if not which.startswith("manifests"):  # without its record a file may be huggingface_hub's: it stays
        assert not machine.repo().exists()


@pytest.mark.parametrize("which", VALUES)
@pytest.mark.parametrize("change", [pytest.param(dict(FORMS)[name], id=name) for name in ("too deep", "a FIFO")])
def test_no_command_ends_by_a_mistake_of_ours(which: str, change: Break, truss: Truss, hub: Hub) -> None:
    hub.create(MAIN).commit({"a.bin": b"a" * 2_000, "c.json": b"{}"})
    truss.config(f"model_cache:\n  - repo_id: {MAIN}\n")
    assert truss.cli().code == 0
    (path,) = (truss.hub_cache / "models--org--name" / ".truss_cache").glob(which)
    change(path)
    done = truss.python(THROUGH_ALL)
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    assert "internal error" not in done.text
    codes = [line.split()[1:] for line in done.out.splitlines() if line.startswith("= ")]
    assert codes.pop(1)[0] == "1", f"`verify` names the record: {done.text}"
    assert {code for code, *_ in codes} == {"0"}, done.text
    assert "org/name: fresh" in done.out, "repaired"


OTHERS: list[tuple[str, Break]] = [
    ("another format", value_at("format", value=2)),
    ("wrong types", value_at("entries", value=[])),
    *FORMS,
]


@pytest.mark.parametrize("layout", [{}, {"mount_location": "/m"}], ids=["hub", "mount"])
@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in OTHERS])
def test_claims_of_another_project_that_cannot_be_read_protect_all_that_lies_there(
    change: Any, layout: dict[str, Any], machine: Machine, repo: Repo
) -> None:
    ours, theirs = machine.truss(entry(MAIN, **layout)), machine.truss(entry(MAIN, **layout), project="theirs")
    ours.run()
    theirs.run()
    place = ours.context().root
    change(place.records / "claims" / "theirs.json")
    shown = tree(place.path)
    ours.clean()
    assert tree(place.path) == shown
    assert list(place.records.glob("manifests/*.json"))
    again = machine.truss(entry(MAIN, allow_patterns=["*.json"], **layout))
    again.run()
    assert set(tree(place.path)) >= set(shown), "an edit hides nothing either"


def test_claims_that_may_not_be_looked_at_protect_all(machine: Machine, repo: Repo) -> None:
    ours = machine.truss(entry(MAIN))
    ours.run()
    context = ours.context()
    but = {(context.project.id, MAIN)}
    before = RootState(context.root).live_keys(context.project, but)
    assert before == set()

    (context.root.records / "claims").chmod(0)
    with rights_of_files_count():
        assert RootState(context.root).live_keys(context.project, but) == {context.entry.key}


def test_a_manifest_of_another_format_that_another_project_claims_protects_all(machine: Machine, repo: Repo) -> None:
    ours = machine.truss(entry(MAIN, allow_patterns=["*.json"]))
    theirs = machine.truss(entry(MAIN), project="theirs")
    ours.run()
    theirs.run()
    context = theirs.context()
    value_at("format", value=2)(context.root.records / "manifests" / f"{context.entry.key}.json")
    ours.clean()
    value_at("format", value=1)(context.root.records / "manifests" / f"{context.entry.key}.json")
    assert theirs.fresh


def test_our_own_claims_of_a_newer_format_are_never_replaced(truss: Truss, hub: Hub) -> None:
    hub.create(MAIN).commit(FILES)
    truss.config(f"model_cache:\n  - repo_id: {MAIN}\n")
    assert truss.cli().code == 0
    (path,) = (truss.hub_cache / "models--org--name" / ".truss_cache").glob("claims/*.json")
    value_at("format", value=2)(path)
    written, shown = path.read_bytes(), tree(truss.hub_cache)
    assert "not yet claimed by this project" in truss.cli("why").out
    for command in ([], ["clean"], ["-a"]):
        done = truss.cli(*command)
        assert done.code == (3 if command == ["clean"] else 1), done.text
        assert f"another version of truss_cache_tasks wrote {path}: its format is 2" in done.err
        assert "hint: Use that version, or remove the file." in done.err
    assert (path.read_bytes(), tree(truss.hub_cache)) == (written, shown)
    path.unlink()
    assert truss.cli().code == 0
    assert truss.cli("why").out.startswith("org/name: fresh\n")


def test_pins_of_a_newer_format_are_never_replaced(tmp_path: Path) -> None:
    place = flat_root(tmp_path)
    write_pin(place, "org/name@main", Pin("0" * 40, "a", "b"))
    value_at("format", value=2)(place.records / "pins.json")
    assert read_pins(place) == {}
    with pytest.raises(DiskError, match="another version"):
        write_pin(place, "org/name@main", Pin("1" * 40, "a", "b"))


def test_our_own_claims_that_may_not_be_read_are_never_replaced(tmp_path: Path) -> None:
    place = flat_root(tmp_path)
    write_claims(place, "ours", Claims({}, ("0" * 64,)))

    (place.records / "claims" / "ours.json").chmod(0)
    with rights_of_files_count():
        assert read_claims(place, "ours") == Claims({})
        with pytest.raises(DiskError, match="Permission denied"):
            write_claims(place, "ours", Claims({}))


def test_a_pin_of_no_use_leaves_the_others(tmp_path: Path) -> None:
    place = flat_root(tmp_path)
    for name in ("org/name@main", "org/other@main"):
        write_pin(place, name, Pin("0" * 40, "a", "b"))
    value_at("pins", "org/name@main", "commit", value="main")(place.records / "pins.json")
    assert set(read_pins(place)) == {"org/other@main"}
