"""What an edit, or a change upstream, costs: the requests are counted before the store, down to the objects."""

from __future__ import annotations

import pytest
from trusses import Ran, Truss, tree

from scenarios.buckets.stores import Store

FILES = {"a.bin": b"a" * 300, "b.bin": b"b" * 400, "c.txt": b"c" * 50}


def last(name: str) -> str:
    return name.rpartition("/")[2]


class Case:
    """One entry of one store, and the runs of it."""

    def __init__(self, store: Store, truss: Truss) -> None:
        self.store, self.truss = store, truss
        for path, data in FILES.items():
            store.put(f"m/{path}", data)
        store.give(truss)
        self.config()

    def config(self, fields: str = "", prefix: str = "m") -> None:
        self.truss.config(f"model_cache:\n  - repo_id: {self.store.uri(prefix)}\n{fields}")

    def run(self, *args: str) -> tuple[Ran, list[str], list[str]]:
        """Return how `truss-cache` ended, what was asked, and the last names of the objects that were fetched."""
        with self.store.front.watching() as front:
            ran = self.truss.cli(*args)
        assert ran.code == 0, ran
        return ran, front.kinds(), [last(name) for name in front.fetched()]

    def seen(self) -> dict[str, bytes]:
        return {last(path): data for path, data in tree(self.truss.model_cache).items()}


@pytest.fixture
def case(vendor: Store, truss: Truss) -> Case:
    """An entry of three files that was fetched, from either vendor."""
    return fetched_case(vendor, truss)


@pytest.fixture
def gcs_case(on_gcs: Store, truss: Truss) -> Case:
    """The same from GCS alone: what an edit costs is not the store's business."""
    return fetched_case(on_gcs, truss)


def fetched_case(store: Store, truss: Truss) -> Case:
    case = Case(store, truss)
    assert case.run()[2] == ["a.bin", "b.bin", "c.txt"]
    return case


def test_what_changes_upstream_is_not_seen_until_it_is_asked_for_and_costs_what_changed(case: Case) -> None:
    case.store.put("m/new.bin", b"new")
    case.store.put("m/a.bin", b"another a")
    case.store.delete("m/c.txt")
    ran, asked, _ = case.run()
    assert (asked, case.seen()) == ([], FILES)
    ran, asked, fetched = case.run("run", "-a")
    assert fetched == ["a.bin", "new.bin"]
    assert case.seen() == {"a.bin": b"another a", "b.bin": FILES["b.bin"], "new.bin": b"new"}
    assert "fetched 2 files" in ran.err
    ran, asked, fetched = case.run("run", "-a")
    assert fetched == []
    assert set(asked) == {"list"}
    assert case.run()[1] == []


def test_doits_own_force_lists_an_unchanged_bucket_and_fetches_nothing(gcs_case: Case) -> None:
    with gcs_case.store.front.watching() as front:
        ran = gcs_case.truss.doit("run", "-a", "cache_weights")
    assert ran.code == 0, ran
    assert front.fetched() == []
    assert set(front.kinds()) == {"list"}


def test_clean_removes_everything_and_the_next_run_fetches_what_is_there_then(case: Case) -> None:
    ran = case.truss.doit("clean", "cache_weights")
    assert ran.code == 0, ran
    assert tree(case.truss.model_cache) == {}
    assert f"{sum(map(len, FILES.values())):,} bytes" in ran.out
    case.store.put("m/a.bin", b"another a")
    why = case.truss.cli("why", "--check")
    assert why.code == 1
    assert "not fetched yet" in why.out  # nothing of ours is left that could tell
    _, _, fetched = case.run()
    assert fetched == ["a.bin", "b.bin", "c.txt"]
    assert case.seen()["a.bin"] == b"another a"


def test_patterns_narrowed_widened_and_undone_fetch_only_what_is_new(gcs_case: Case) -> None:
    gcs_case.config("    allow_patterns: ['a.bin']\n")
    why = gcs_case.truss.cli("why")
    assert "allow_patterns: None -> ['a.bin']" in why.out
    _, _, fetched = gcs_case.run()
    assert (fetched, set(gcs_case.seen())) == ([], {"a.bin"})
    gcs_case.config("    allow_patterns: ['*.bin']\n")
    _, _, fetched = gcs_case.run()
    assert (fetched, set(gcs_case.seen())) == ([], {"a.bin", "b.bin"})
    gcs_case.config()
    _, asked, fetched = gcs_case.run()
    assert (asked, fetched, gcs_case.seen()) == ([], [], FILES)


def test_patterns_that_widen_fetch_only_the_new_files(on_seaweed: Store, truss: Truss) -> None:
    case = Case(on_seaweed, truss)
    case.config("    allow_patterns: ['a.bin']\n")
    assert case.run()[2] == ["a.bin"]
    case.config("    allow_patterns: ['a.bin', '*.txt']\n")
    assert case.run()[2] == ["c.txt"]
    case.config("    ignore_patterns: ['*.txt']\n")
    assert case.run()[2] == ["b.bin"]
    assert set(case.seen()) == {"a.bin", "b.bin"}


def test_a_renamed_volume_folder_fetches_nothing(on_seaweed: Store, truss: Truss) -> None:
    case = Case(on_seaweed, truss)
    case.config("    use_volume: true\n    volume_folder: one\n")
    case.run()
    case.config("    use_volume: true\n    volume_folder: two\n")
    assert "volume_folder: 'one' -> 'two'" in truss.cli("why").out
    _, _, fetched = case.run()
    assert fetched == []
    assert tree(truss.model_cache) == {f"two/{path}": data for path, data in FILES.items()}
    case.config()
    _, _, fetched = case.run()
    assert fetched == []
    assert tree(truss.model_cache) == {on_seaweed.visible("m", path): data for path, data in FILES.items()}
    assert truss.cli("verify").code == 0


def test_another_prefix_is_another_entry_and_undoing_that_fetches_nothing(gcs_case: Case) -> None:
    gcs_case.store.put("n/z.bin", b"z")
    gcs_case.config(prefix="n")
    assert gcs_case.run()[2] == ["z.bin"]
    gcs_case.config()
    assert gcs_case.run()[2] == []  # the claim went with the entry, so the credential is proven again
    assert {path: gcs_case.seen()[path] for path in FILES} == FILES


def test_an_entry_that_left_the_config_is_cleaned_with_the_group(gcs_case: Case) -> None:
    gcs_case.store.put("n/z.bin", b"z")
    gcs_case.truss.config(
        f"model_cache:\n  - repo_id: {gcs_case.store.uri('m')}\n  - repo_id: {gcs_case.store.uri('n')}\n"
    )
    assert gcs_case.run()[2] == ["z.bin"]
    gcs_case.config(prefix="n")
    assert gcs_case.truss.cli().code == 0
    assert set(gcs_case.seen()) == {*FILES, "z.bin"}  # an edit alone removes nobody's bytes
    ran = gcs_case.truss.doit("clean", "cache_weights")
    assert ran.code == 0, ran
    assert tree(gcs_case.truss.model_cache) == {}


def test_an_object_uploaded_again_with_the_same_bytes_keeps_the_snapshot(case: Case) -> None:
    keys = case.truss.python(SNAPSHOT).out
    case.store.put("m/a.bin", FILES["a.bin"])
    case.run("run", "-a")
    assert case.truss.python(SNAPSHOT).out == keys
    case.store.put("m/a.bin", b"other")
    case.run("run", "-a")
    assert case.truss.python(SNAPSHOT).out != keys


SNAPSHOT = """
    from truss_cache_tasks.operations.context import read_status
    from truss_cache_tasks.app.workspace import open_workspace
    print([read_status(target).manifest.snapshot for target in open_workspace(None).contexts])
"""
