"""A store that another package registers is a store like ours: config, fetch, fresh, repair, clean."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from entries import entry, open_with, settings
from machine import read
from recorder import Recorder
from servers.shelf import SHELF, Shelf, ShelfSource

from truss_cache_tasks.app.workspace import Workspace, open_workspace
from truss_cache_tasks.config.loader import load_config
from truss_cache_tasks.errors import AccessDenied, ConfigError
from truss_cache_tasks.events import Committed, Retrying
from truss_cache_tasks.model.stores import UriForm, find_store, register_store, registered
from truss_cache_tasks.operations.fetch.fetch import fetch
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract

CONFIG = """
model_cache:
  - repo_id: shelf://books/m
    kind: bookshop
    allow_patterns: ["*.bin"]
  - repo_id: shelves://books/n
    use_volume: true
    volume_folder: novels
"""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    monkeypatch.setenv("TRUSS_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SHELF_TOKEN", Shelf.token)
    with registered(SHELF), Shelf() as running:
        monkeypatch.setenv("SHELF_URL", running.url)
        yield running


def workspace(folder: Path, config: str = CONFIG) -> Workspace:
    (folder / "config.yaml").write_text(config)
    return open_workspace(folder / "config.yaml", folder / "cache")


def fetch_all(opened: Workspace) -> Recorder:
    recorder = Recorder()
    for target in opened.contexts:
        fetch(target, RunContext(id=opened.run_id, reporter=recorder))
    return recorder


def reasons(opened: Workspace) -> dict[str, str]:
    return {target.name: str(opened.read_status(target).verdict) for target in opened.contexts}


def test_a_registered_store_is_fetched_fresh_and_cleaned_like_ours(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("books", "m/a.bin", b"a" * 100_000)
    shelf.put("books", "m/readme.md", b"left out by a pattern")
    shelf.put("books", "m2/a.bin", b"a sibling")
    shelf.put("books", "n/sub/b.bin", b"b")
    recorder = fetch_all(workspace(tmp_path))
    assert [event.fetched_files for event in recorder.of(Committed)] == [1, 1]
    assert read(tmp_path / "cache") == {"shelf/books/m/a.bin": b"a" * 100_000, "novels/sub/b.bin": b"b"}

    shelf.asked.clear()
    assert reasons(workspace(tmp_path)) == {"books/m": "fresh", "books/n": "fresh"}
    fetch_all(workspace(tmp_path))
    assert shelf.asked == []

    (tmp_path / "cache/shelf/books/m/a.bin").unlink()
    assert reasons(workspace(tmp_path))["books/m"] == "shelf/books/m/a.bin is missing"
    fetch_all(workspace(tmp_path))
    assert read(tmp_path / "cache")["shelf/books/m/a.bin"] == b"a" * 100_000

    workspace(tmp_path).clean(None, dry=False)
    assert read(tmp_path / "cache") == {}
    assert not (tmp_path / "cache/shelf").exists()


def test_a_listing_that_is_repeated_is_told_to_the_reporter(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("books", "m/a.bin", b"a")
    shelf.faults = [503]
    recorder = fetch_all(workspace(tmp_path, "model_cache: [{repo_id: shelf://books/m}]"))
    (told,) = recorder.of(Retrying)
    assert (told.entry, told.path, told.attempt) == ("books/m", "", 1)
    assert told.cause == "shelf://books/m: the shelf answered 503"


def test_the_places_where_a_credential_was_looked_for_are_named(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHELF_TOKEN")
    named = "model_cache: [{repo_id: shelf://books/m, runtime_secret_name: shelf}]"
    with pytest.raises(AccessDenied, match=rf"looked at {tmp_path}/secrets/shelf, .* and SHELF_TOKEN"):
        fetch_all(workspace(tmp_path, named))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/shelf").write_text(Shelf.token)
    shelf.put("books", "m/a.bin", b"a")
    fetch_all(workspace(tmp_path, named))
    assert read(tmp_path / "cache") == {"shelf/books/m/a.bin": b"a"}


def test_the_config_knows_the_scheme_and_the_kind_of_a_registered_store(shelf: Shelf, tmp_path: Path) -> None:
    def refused(text: str) -> str:
        (tmp_path / "config.yaml").write_text(f"model_cache: [{{{text}}}]")
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path)
        return f"{caught.value} {caught.value.hint}"

    assert "'s3' disagrees with repo_id: shelf:// is bookshop" in refused("repo_id: shelf://books/m, kind: s3")
    assert "'bookshop' disagrees" in refused("repo_id: s3://books/m, kind: bookshop")
    assert "Did you mean shelves://?" in refused("repo_id: shelv://books/m")
    assert "it holds a user name or password" in refused("repo_id: shelf://me:secret@books/m")
    assert " or shelf://." in refused("repo_id: nonsense://books/m")


def test_a_row_that_would_take_another_ones_place_is_refused() -> None:
    for wrong in (
        SHELF._replace(schemes=("shelf", "s3")),
        SHELF._replace(kind="gcs"),
        SHELF._replace(uri_form=UriForm.REPO),
    ):
        with pytest.raises(ValueError, match=r"shelf|s3"):
            register_store(wrong)
    assert find_store("shelf") is None


@pytest.mark.parametrize("folder", ["/srv", "../up", "a/../b", "a//b", "a/", "."])
def test_a_row_whose_folder_is_not_below_the_model_cache_is_refused(folder: str) -> None:
    with pytest.raises(ValueError, match="is no folder of the model cache"):
        register_store(SHELF._replace(cache_folder=folder))
    assert find_store("shelf") is None


class ShelfPlace:
    """The contract's view of one shelf."""

    secrets = (Shelf.token, "wrong-token")

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        shelf.objects["books"] = {}

    def put(self, path: str, data: bytes) -> None:
        self.shelf.put("books", f"m/{path}", data)

    def put_beside(self, suffix: str, data: bytes) -> None:
        self.shelf.put("books", f"m{suffix}", data)

    def delete(self, path: str) -> None:
        del self.shelf.objects["books"][f"m/{path}"]

    def at(self, uri: str, token: str = Shelf.token, **fields: Any) -> ShelfSource:
        here = settings(SHELF_URL=self.shelf.url, SHELF_TOKEN=token)
        return open_with(ShelfSource, entry(uri, **fields), here)

    def source(self, **fields: Any) -> ShelfSource:
        return self.at("shelf://books/m", **fields)

    def whole(self) -> ShelfSource:
        return self.at("shelf://books")

    def source_of(self, path: str) -> ShelfSource:
        return self.at(f"shelf://books/m/{path}")

    def missing(self) -> ShelfSource:
        return self.at("shelf://none/m")

    def refused(self) -> ShelfSource:
        return self.at("shelf://books/m", token="wrong-token")


class TestShelf(SourceContract):
    test_a_public_place_is_read_without_a_credential = None  # type: ignore[assignment]  # every shelf asks for a token
    names = PLAIN_NAMES + ODD_NAMES

    @pytest.fixture
    def store(self, shelf: Shelf) -> ShelfPlace:
        return ShelfPlace(shelf)
