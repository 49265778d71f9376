"""`file://` against real folders."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import entries
import pytest

from truss_cache_tasks.errors import AccessDenied, CacheTaskError, LeadsOut, NotFound, NothingSelected, SourceChanged
from truss_cache_tasks.model.listing import Digest, FilePin, Pins
from truss_cache_tasks.sources.base import Source
from truss_cache_tasks.sources.local import LocalSource
from truss_cache_tasks.sources.testing import ODD_NAMES, PLAIN_NAMES, SourceContract, by_path, read
from truss_cache_tasks.transfer.body import LocalBody


def source_of(root: Path, path: str = "weights", *, follow_links: bool = False, **fields: Any) -> LocalSource:
    settings = entries.settings()._replace(follow_links=follow_links)
    return entries.open_with(
        LocalSource, entries.entry(f"file://{path}", config=root / "config.yaml", **fields), settings
    )


class Folder:
    """A folder named `weights` beside a config."""

    secrets = ()

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "weights").mkdir()

    def put(self, path: str, data: bytes) -> None:
        file = self.root / "weights" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)

    def delete(self, path: str) -> None:
        (self.root / "weights" / path).unlink()

    def source(self, **fields: Any) -> Source:
        return source_of(self.root, **fields)

    def source_of(self, path: str) -> Source:
        return source_of(self.root, f"./weights/{path}")

    def missing(self) -> Source:
        return source_of(self.root, "no/such/folder")


class TestLocal(SourceContract):
    prefixes = False
    digests = False
    credentials = False
    names = (*PLAIN_NAMES, *ODD_NAMES, 'a"b\\c.bin', "new\nline.bin")

    @pytest.fixture
    def store(self, tmp_path: Path) -> Folder:
        return Folder(tmp_path)


def test_a_pin_names_a_local_file_by_its_path_which_is_the_same_on_every_machine(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("sub/a.bin", b"a")
    store.put("b.bin", b"b")
    digest = Digest("sha256", hashlib.sha256(b"a").hexdigest())
    source = store.source()
    (file,) = source.listing(Pins(files=(FilePin("sub/a.bin", digest=digest),))).files
    assert (file.path, file.key, file.digest) == ("sub/a.bin", str(tmp_path / "weights/sub/a.bin"), digest)
    assert read(source.locate(file)).data == b"a"


def test_keys_are_absolute_whatever_the_uri_says(tmp_path: Path) -> None:
    Folder(tmp_path).put("sub/a.bin", b"a")
    for written in ("weights", "./weights", "./weights/", "sub/../weights", str(tmp_path / "weights")):
        (file,) = source_of(tmp_path, written).listing().files
        assert (file.path, file.key) == ("sub/a.bin", str(tmp_path / "weights/sub/a.bin"))


def test_dot_files_and_git_are_left_to_the_patterns_and_our_own_records_are_not_listed(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for path in (".env", ".git/config", ".truss_cache/manifests/x.json", "cache/.truss_cache/claims/y.json", "w.bin"):
        store.put(path, b"x")
    assert set(by_path(store.source().listing())) == {".env", ".git/config", "w.bin"}


def test_a_missing_path_is_named_as_resolved(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(b"x")
    for written in ("./nothing", "file.bin/below"):
        with pytest.raises(NotFound, match=str(tmp_path / written)) as caught:
            source_of(tmp_path, written).listing()
        assert "relative" in (caught.value.hint or "")


def test_a_folder_without_a_file_is_an_error(tmp_path: Path) -> None:
    Folder(tmp_path)
    (tmp_path / "weights/empty/deeper").mkdir(parents=True)
    with pytest.raises(NothingSelected, match=str(tmp_path / "weights")):
        source_of(tmp_path).listing()


@pytest.mark.slow
def test_pipes_sockets_and_dead_links_are_left_out_with_a_warning_and_nothing_hangs(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("w.bin", b"w")
    os.mkfifo(tmp_path / "weights/pipe")
    (tmp_path / "weights/dead").symlink_to("nowhere")
    (tmp_path / "weights/itself").symlink_to("itself")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "weights/door"))
        listing = store.source().listing()
    assert set(by_path(listing)) == {"w.bin"}
    assert [warning.split()[1] for warning in listing.warnings] == ["dead", "door", "itself", "pipe"]
    with pytest.raises(NotFound, match="neither a file nor a folder"):
        source_of(tmp_path, "weights/pipe").listing()


def test_links_to_files_and_folders_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("real/w.bin", b"weights")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.bin").write_bytes(b"far away")
    (tmp_path / "weights/link.bin").symlink_to("real/w.bin")
    (tmp_path / "weights/again").symlink_to("real")
    (tmp_path / "weights/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "weights/real/up").symlink_to("..")
    source = source_of(tmp_path, follow_links=True)
    listing = source.listing()
    files = by_path(listing)
    assert {path: file.size for path, file in files.items()} == {
        "real/w.bin": 7, "link.bin": 7, "out/far.bin": 8,
    }  # fmt: skip
    assert read(source.locate(files["out/far.bin"])).data == b"far away"
    assert len(listing.warnings) == 2
    again, up = sorted(listing.warnings)
    assert "again links to a folder that is listed already" in again
    assert "real/up links to a folder around it" in up


def test_a_link_to_a_folder_of_the_source_is_left_out_and_may_be_the_source_itself(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("v1/w.bin", b"one")
    (tmp_path / "weights/latest").symlink_to("v1")
    assert set(by_path(store.source().listing())) == {"v1/w.bin"}
    assert set(by_path(source_of(tmp_path, "weights/latest").listing())) == {"w.bin"}


def test_links_that_fan_out_end_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    for level in range(40):
        store.put(f"d{level:02}/w.bin", b"w")
        for name in ("one", "two", "three"):
            (tmp_path / f"weights/d{level:02}/{name}").symlink_to(f"../d{(level + 1) % 40:02}")
    listing = store.source().listing()
    assert set(by_path(listing)) == {f"d{level:02}/w.bin" for level in range(40)}
    assert len(listing.warnings) == 3 * 40
    (tmp_path / "weights").rename(tmp_path / "elsewhere")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/in").symlink_to("../elsewhere/d00")
    listing = source_of(tmp_path, follow_links=True).listing()
    assert len(listing.files) == 40
    assert len({file.version for file in listing.files}) == 40


def outside(root: Path) -> Path:
    """Make a folder beside the source with a file that is nobody's weights."""
    (root / "home").mkdir()
    (root / "home/credentials").write_bytes(b"a secret")
    return root / "home"


LINKS_OUT: dict[str, Callable[[Path, Path], dict[Path, Path | str]]] = {
    "a file, absolute": lambda at, home: {at: home / "credentials"},
    "a file, by dots": lambda at, _: {at: "../../home/credentials"},
    "a folder": lambda at, home: {at: home},
    "the folder around": lambda at, _: {at: "../.."},
    "a chain": lambda at, home: {at.with_name("next"): home / "credentials", at: "next"},
    "through a link that stays": lambda at, _: {at.with_name("up"): "..", at: "up/../home"},
    "out and along": lambda at, _: {at: "../../weights2"},
}


@pytest.mark.parametrize("kind", LINKS_OUT)
def test_a_link_that_leads_out_of_the_folder_is_refused_by_name_unless_links_are_followed(
    tmp_path: Path, kind: str
) -> None:
    store = Folder(tmp_path)
    store.put("sub/w.bin", b"w")
    (tmp_path / "weights2").mkdir()
    for link, target in LINKS_OUT[kind](tmp_path / "weights/sub/link", outside(tmp_path)).items():
        link.symlink_to(target)
    with pytest.raises(LeadsOut, match=r"sub/(link|next) is a link that leads out of the folder") as caught:
        store.source().listing()
    assert "TRUSS_CACHE_FOLLOW_LINKS=1" in (caught.value.hint or "")
    assert "snapshot" in (caught.value.hint or "")
    assert "sub/w.bin" in by_path(source_of(tmp_path, follow_links=True).listing())
    left_out = source_of(tmp_path, ignore_patterns=["sub/link", "sub/link/", "sub/next"])
    assert set(by_path(left_out.listing())) == {"sub/w.bin"}


def test_links_that_stay_in_the_folder_are_followed_however_they_are_written(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("sub/w.bin", b"weights")
    (tmp_path / "weights/absolute").symlink_to(tmp_path / "weights/sub/w.bin")
    (tmp_path / "weights/chain").symlink_to("absolute")
    (tmp_path / "weights/sub/out-and-back").symlink_to("../../weights/chain")
    (tmp_path / "latest").symlink_to("weights")
    for path in ("weights", "latest"):
        source = source_of(tmp_path, path)
        files = by_path(source.listing())
        assert set(files) == {"sub/w.bin", "absolute", "chain", "sub/out-and-back"}
        assert {read(source.locate(file)).data for file in files.values()} == {b"weights"}


@pytest.mark.parametrize("what", ["the file", "its folder", "a folder above"])
def test_a_link_that_takes_a_files_place_after_it_was_located_is_not_followed(tmp_path: Path, what: str) -> None:
    store = Folder(tmp_path)
    store.put("a/b/credentials", b"8 bytes.")
    home = outside(tmp_path)
    (home / "b").mkdir()
    (home / "b/credentials").write_bytes(b"a secret")
    source = store.source()
    (file,) = source.listing().files
    location = source.locate(file)
    place = tmp_path / "weights/a/b/credentials"
    seen = place.stat()
    for secret in (home / "credentials", home / "b/credentials"):
        os.utime(secret, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    moved = {"the file": place, "its folder": place.parent, "a folder above": place.parents[1]}[what]
    moved.rename(tmp_path / "moved")
    moved.symlink_to({"the file": home / "credentials", "its folder": home, "a folder above": home}[what])
    with pytest.raises(SourceChanged):
        LocalBody(file, location)
    with pytest.raises(CacheTaskError):
        source.locate(file)


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """A folder that is removed without recursion: pytest's own removal fails on a thousand levels (Python 3.11)."""
    yield tmp_path
    subprocess.run(["rm", "-rf", tmp_path / "weights"], check=True)


def test_a_tree_of_1200_folders_is_listed(deep_path: Path) -> None:
    Folder(deep_path).put("w.bin", b"w")
    below = os.open(deep_path / "weights", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=below)
        above, below = below, os.open("d", os.O_RDONLY, dir_fd=below)
        os.close(above)
    os.close(os.open("deep.bin", os.O_CREAT | os.O_WRONLY, dir_fd=below))
    source = source_of(deep_path)
    files = by_path(source.listing())
    assert set(files) == {"w.bin", "d/" * 1200 + "deep.bin"}
    assert read(source.locate(files["d/" * 1200 + "deep.bin"])).data == b""
    for _ in range(1200):
        os.mkdir("long", dir_fd=below)
        above, below = below, os.open("long", os.O_RDONLY, dir_fd=below)
        os.close(above)
    os.close(below)
    with pytest.raises(CacheTaskError, match="characters, more than this system takes"):
        source.listing()


def test_a_link_as_the_source_is_followed_and_its_own_path_stays_the_key(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("w.bin", b"w")
    (tmp_path / "latest").symlink_to("weights")
    (file,) = source_of(tmp_path, "latest").listing().files
    assert file.key == str(tmp_path / "latest/w.bin")


@pytest.mark.parametrize("change", ["longer", "touched", "gone", "a folder now"])
def test_a_file_that_changed_since_it_was_listed_is_not_located(tmp_path: Path, change: str) -> None:
    store = Folder(tmp_path)
    store.put("w.bin", b"before")
    source = store.source()
    (file,) = source.listing().files
    assert file.version.startswith(f"{source.locate(file).validator}-")
    path = tmp_path / "weights/w.bin"
    match change:
        case "longer":
            seen = path.stat()
            path.write_bytes(b"before and more")
            os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        case "touched":
            os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
        case "gone":
            path.unlink()
        case _:
            path.unlink()
            path.mkdir()
    with pytest.raises(SourceChanged, match=r"w\.bin"):
        source.locate(file)


def test_a_name_that_is_not_utf8_is_named_escaped(tmp_path: Path) -> None:
    Folder(tmp_path).put("ok.bin", b"x")
    try:
        os.close(os.open(os.fsencode(tmp_path / "weights") + b"/bad\xff.bin", os.O_CREAT | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system refuses such names (APFS)")
    with pytest.raises(CacheTaskError, match=r"bad\\\\xff\.bin") as caught:
        source_of(tmp_path).listing()
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything; the next test covers root")
def test_what_may_not_be_read_is_denied(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("locked/w.bin", b"w")
    store.put("w.bin", b"w")
    (tmp_path / "weights/w.bin").chmod(0)
    source = store.source()
    files = by_path(source.listing())
    with pytest.raises(AccessDenied, match=r"w\.bin"):
        source.locate(files["w.bin"])
    (tmp_path / "weights/locked").chmod(0)
    try:
        with pytest.raises(AccessDenied, match="locked"):
            source.listing()
    finally:
        (tmp_path / "weights/locked").chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else; CI is root")
@pytest.mark.slow
def test_what_may_not_be_read_is_denied_also_when_the_tests_run_as_root(tmp_path: Path) -> None:
    store = Folder(tmp_path)
    store.put("w.bin", b"w")
    source = store.source()
    (file,) = source.listing().files
    (tmp_path / "weights").chmod(0o700)
    script = f"""
import os
import entries
from truss_cache_tasks.errors import AccessDenied
from truss_cache_tasks.model.listing import RemoteFile
from truss_cache_tasks.sources.local import LocalSource
from pathlib import Path
entry = entries.entry("file://weights", config=Path({str(tmp_path / "config.yaml")!r}))
source = entries.open_with(LocalSource, entry, entries.settings())
os.setuid(65534)
for ask in (source.listing, lambda: source.locate({file!r})):
    try:
        ask()
    except AccessDenied as exc:
        print(exc.hint)
"""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    answer = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert len(answer.stdout.splitlines()) == 2
