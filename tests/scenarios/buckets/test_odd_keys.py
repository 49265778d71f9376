"""Keys with components that a URL would lose (`.`, `..`, empty ones) are fetched as they are, or refused by name."""

from __future__ import annotations

import pytest
from trusses import Truss, tree

from scenarios.buckets.stores import S3Store, Store

MIB = 1 << 20
EVERYWHERE = {"sub//empty.bin": "sub/empty.bin", "sub/.../three.bin": "sub/.../three.bin", "%2E/dot.bin": "%2E/dot.bin"}
DOTS = {
    "sub/./dot.bin": "sub/dot.bin",
    "./first.bin": "first.bin",
    "last/x/.": "last/x",
}  # SeaweedFS takes none of them


@pytest.fixture(params=["moto", "gcs"])
def exact(request: pytest.FixtureRequest) -> Store:
    """A store that takes every key as it is."""
    store: Store = request.getfixturevalue(f"on_{request.param}")
    return store


def fetch(store: Store, truss: Truss, names: dict[str, str], *, size: int = 100) -> None:
    for name in names:
        store.put(f"m/{name}", f"bytes of {name}".encode().ljust(size))
    store.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {store.uri('m')}\n")
    ran = truss.cli()
    assert ran.code == 0, ran
    seen = {store.visible("m", visible): f"bytes of {name}".encode().ljust(size) for name, visible in names.items()}
    assert tree(truss.model_cache) == seen


def test_a_key_with_an_empty_component_is_fetched(bucket: Store, truss: Truss) -> None:
    fetch(bucket, truss, EVERYWHERE)


def test_a_prefix_with_an_empty_component_is_fetched_kept_and_cleaned(exact: Store, truss: Truss) -> None:
    exact.put("m//n/a.bin", b"a")
    exact.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {exact.uri('m//n')}\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {exact.visible("m/n", "a.bin"): b"a"}
    assert truss.cli("why", "--check").code == 0
    assert truss.cli("clean").code == 0
    assert tree(truss.model_cache) == {}


def test_a_key_with_a_dot_component_is_fetched_byte_for_byte(exact: Store, truss: Truss) -> None:
    fetch(exact, truss, DOTS)


def test_a_large_object_with_a_dot_component_comes_in_parts(on_moto: S3Store, truss: Truss) -> None:
    fetch(on_moto, truss, {"./large/./l.bin": "large/l.bin"}, size=17 * MIB)


def test_a_dotted_key_is_not_mistaken_for_its_neighbour(exact: Store, truss: Truss) -> None:
    exact.put("m/sub/a.bin", b"plain")
    exact.put("m/sub/./b.bin", b"dotted")
    exact.put("m/b.bin", b"top")
    exact.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {exact.uri('m')}\n")
    assert truss.cli().code == 0
    assert tree(truss.model_cache) == {
        exact.visible("m", "sub/a.bin"): b"plain",
        exact.visible("m", "sub/b.bin"): b"dotted",
        exact.visible("m", "b.bin"): b"top",
    }


@pytest.mark.parametrize("key", ["sub/../b.bin", "../m/b.bin", "/b.bin"])
def test_a_key_that_would_leave_the_folder_is_refused_by_name(exact: Store, truss: Truss, key: str) -> None:
    exact.put("m/a.bin", b"a")
    exact.put(f"m/{key}", b"dotted")
    exact.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {exact.uri('m')}\n")
    ran = truss.cli()
    assert (ran.code, tree(truss.model_cache)) == (1, {})
    assert repr(key) in ran.err
    assert "ignore_patterns" in ran.err


def test_two_keys_that_would_be_one_file_are_refused_by_name(exact: Store, truss: Truss) -> None:
    exact.put("m/sub/a.bin", b"plain")
    exact.put("m/sub/./a.bin", b"dotted")
    exact.give(truss)
    truss.config(f"model_cache:\n  - repo_id: {exact.uri('m')}\n")
    ran = truss.cli()
    assert (ran.code, tree(truss.model_cache)) == (1, {})
    assert "'sub/./a.bin'" in ran.err
    assert "ignore_patterns" in ran.err
