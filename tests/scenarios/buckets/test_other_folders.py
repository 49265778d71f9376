"""`file://` means a folder beside the config: what is shared, linked or wrongly placed must not cost anybody bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from trusses import Truss

CONFIG = "model_cache:\n  - repo_id: file://./weights\n"


def with_weights(root: Path, data: bytes) -> Truss:
    truss = Truss(root)
    (truss.folder / "weights").mkdir()
    (truss.folder / "weights" / "m.bin").write_bytes(data)
    truss.config(CONFIG)
    return truss


def test_a_cache_folder_that_is_its_own_source_is_a_config_error_and_a_clean_leaves_the_source(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"only copy")
    for args in ([], ["clean"]):
        ran = truss.cli(*args, TRUSS_MODEL_CACHE_DIR=str(truss.folder))
        assert ran.code == 3, ran
        assert "config.yaml:2: model_cache[0].repo_id: " in ran.err
    assert (truss.folder / "weights" / "m.bin").read_bytes() == b"only copy"


def test_a_mount_at_its_own_source_is_refused(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"only copy")
    source = truss.folder / "weights"
    truss.config(f"weights:\n  - source: file://{source}\n    mount_location: {source}\n")
    assert truss.cli(TRUSS_MOUNT_ROOT="").code == 3
    assert truss.cli("clean", TRUSS_MOUNT_ROOT="").code == 3
    assert (source / "m.bin").exists()


def test_a_cache_inside_the_source_is_refused(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"w")
    assert truss.cli(TRUSS_MODEL_CACHE_DIR=str(truss.folder / "weights" / "cache")).code == 3


def test_a_link_from_the_cache_to_the_source_is_refused(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"only copy")
    truss.model_cache.mkdir()
    (truss.model_cache / "weights").symlink_to(truss.folder / "weights")
    assert truss.cli().code == 3
    assert (truss.folder / "weights" / "m.bin").read_bytes() == b"only copy"


def test_nothing_is_written_or_removed_through_a_link_inside_an_entry(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"w")
    (truss.folder / "weights" / "sub").mkdir()
    (truss.folder / "weights" / "sub" / "c.json").write_bytes(b"ours")
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "c.json").write_bytes(b"theirs")
    (truss.model_cache / "weights").mkdir(parents=True)
    (truss.model_cache / "weights" / "sub").symlink_to(precious)
    ran = truss.cli()
    assert ran.code == 1, ran
    assert ": a link to" in ran.err
    truss.cli("clean")
    assert (precious / "c.json").read_bytes() == b"theirs"


@pytest.mark.parametrize("stat", ["as they are", "of one second"])
def test_two_trusses_with_a_folder_of_one_name_get_their_own_bytes(tmp_path: Path, stat: str) -> None:
    shared = str(tmp_path / "shared")
    first, second = with_weights(tmp_path / "a", b"A" * 100), with_weights(tmp_path / "b", b"B" * 100)
    if stat == "of one second":
        for truss in (first, second):
            os.utime(truss.folder / "weights" / "m.bin", (0, 0))
    seen = Path(shared, "weights", "m.bin")
    assert first.cli(TRUSS_MODEL_CACHE_DIR=shared).code == 0
    assert second.cli("why", "--check", TRUSS_MODEL_CACHE_DIR=shared).code == 1
    assert second.cli(TRUSS_MODEL_CACHE_DIR=shared).code == 0
    assert seen.read_bytes() == b"B" * 100
    why = first.cli("why", TRUSS_MODEL_CACHE_DIR=shared)
    assert "stale" in why.out, why
    assert first.cli(TRUSS_MODEL_CACHE_DIR=shared).code == 0
    assert seen.read_bytes() == b"A" * 100


def test_a_forced_run_sees_a_source_that_was_replaced_at_equal_size_and_time(tmp_path: Path) -> None:
    truss = with_weights(tmp_path, b"before")
    source = truss.folder / "weights" / "m.bin"
    os.utime(source, (0, 0))
    assert truss.cli().code == 0
    source.write_bytes(b"behind")
    os.utime(source, (0, 0))
    assert truss.cli("-a").code == 0
    assert (truss.model_cache / "weights" / "m.bin").read_bytes() == b"behind"
