"""Disks that lack links, locks or syncs, and disks that fail in the middle: right bytes, or one clear line."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from entry_cases import FILES, Case, before_gcs, make_case, on_gcs, well_said
from odd_disk import OddDisk, odd_disk
from servers.hub import Hub
from servers.tools import wait_until
from trusses import BIN, Ran, Truss, ended, tree

Make = Callable[..., Case]
__all__ = ["before_gcs", "make_case", "odd_disk", "on_gcs"]


@dataclass
class Many:
    """A Truss with an entry of each layout that its form of config has, and every path that it shows."""

    truss: Truss
    entries: int
    files: dict[Path, bytes]

    def is_whole(self, **env: str) -> None:
        """See that all is fresh and right, for a command with `env`."""
        why = self.truss.cli("why", "--check", **env)
        assert (why.code, why.out.count("fresh")) == (0, self.entries), why
        verify = self.truss.cli("verify", **env)
        assert verify.code == 0, verify
        assert {path: path.read_bytes() for path in self.files} == self.files


@pytest.fixture
def make_many(truss: Truss, hub: Hub) -> Callable[[str], Many]:
    """Return what makes a Truss of `model_cache` (the hub cache, a volume, a local folder) or of `weights` (mounts)."""

    def make(form: str) -> Many:
        commit = hub.create("org/name").commit(dict(FILES))
        hub.create("org/other").commit({"other.bin": FILES["model.bin"][::-1], "twin.bin": FILES["model.bin"]})
        other = {path: file.data for path, file in next(iter(hub.repos["org/other"].trees.values())).items()}
        for path, data in FILES.items():
            target = truss.folder / "weights" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        if form == "model_cache":
            truss.config(
                "model_cache:\n  - repo_id: org/name\n  - repo_id: file://./weights\n"
                "  - repo_id: org/other\n    use_volume: true\n    volume_folder: vol\n"
            )
            folders = {truss.hub_cache / "models--org--name" / "snapshots" / commit: FILES}
            folders |= {truss.model_cache / "weights": FILES, truss.model_cache / "vol": other}
        else:
            truss.config(
                f"weights:\n  - source: hf://org/other\n    mount_location: /one\n"
                f"  - source: file://{truss.folder}/weights\n    mount_location: /two\n"
            )
            folders = {truss.mounts / "one": other, truss.mounts / "two": FILES}
        files = {folder / path: data for folder, there in folders.items() for path, data in there.items()}
        return Many(truss, len(folders), files)

    return make


def ours(truss: Truss) -> list[str]:
    """Return every path of the caches, save the roots themselves, and huggingface_hub's locks, which stay."""
    found = [path for root in (truss.hub_cache, truss.model_cache, truss.mounts) for path in root.rglob("*")]
    paths = [
        path.relative_to(truss.root).as_posix() for path in found if not path.is_dir() or ".truss_cache" in path.parts
    ]
    return sorted(path for path in paths if not path.startswith("hf/hub/.locks/"))


def forget(truss: Truss) -> None:
    """Remove the caches with all that they hold."""
    for root in (truss.hub_cache, truss.model_cache, truss.mounts):
        shutil.rmtree(root, ignore_errors=True)


def is_no_mistake(ran: Ran) -> None:
    """See that a command met no internal error."""
    assert "internal error" not in ran.text, ran
    assert "Traceback" not in ran.text, ran
    assert ran.code != 2, ran


# What a disk lacks

HF = """
from huggingface_hub import snapshot_download
print(snapshot_download("org/name", local_files_only=True))
"""


@pytest.mark.parametrize(
    ("form", "rules"),
    [
        ("model_cache", "symlink=ENOSYS,link=ENOSYS"),
        ("weights", "symlink=ENOSYS,link=ENOSYS"),
        ("model_cache", "symlink=EPERM,link=EPERM"),
        ("weights", "symlink=EPERM,link=EPERM"),
        ("model_cache", "symlink=EOPNOTSUPP,link=EOPNOTSUPP"),
        ("weights", "link=EMLINK"),
        ("model_cache", "link=ENOSYS"),
        ("model_cache", "symlink=EOPNOTSUPP"),
    ],
)
def test_where_a_disk_has_no_links_copies_take_their_place(
    form: str, rules: str, make_many: Callable[[str], Many], odd_disk: OddDisk
) -> None:
    many = make_many(form)
    truss, env = many.truss, odd_disk(many.truss.root, f"{rules},clone=EOPNOTSUPP")
    ran = truss.cli(**env)
    assert ran.code == 0, ran
    many.is_whole(**env)
    if "symlink" in rules:
        assert not any(path.is_symlink() for path in many.files)
    if form == "model_cache":  # what huggingface_hub makes of such a disk, it also reads
        ran = truss.python(HF)
        assert (ran.code, tree(Path(ran.out.strip()))) == (0, FILES), ran
    for args in (("run", "-a"), ("prune", "--yes")):
        ran = truss.cli(*args, **env)
        assert ran.code == 0, ran
    many.is_whole(**env)
    ran = truss.cli("clean", **env)
    assert ran.code == 0, ran
    assert ours(truss) == []


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "ENOSYS"])
@pytest.mark.parametrize("form", ["model_cache", "weights"])
def test_an_fsync_that_is_not_supported_is_no_failure(
    form: str, code: str, make_many: Callable[[str], Many], odd_disk: OddDisk
) -> None:
    many = make_many(form)
    ran = many.truss.cli(**odd_disk(many.truss.root, f"fsync={code}"))
    assert ran.code == 0, ran
    many.is_whole()


@pytest.mark.parametrize("code", ["ENOLCK", "ENOSYS", "ENOTSUP"])
def test_where_a_disk_has_no_locks_all_works_and_no_lock_file_stays(
    code: str, make_many: Callable[[str], Many], odd_disk: OddDisk
) -> None:
    many = make_many("model_cache")
    truss, env = many.truss, odd_disk(many.truss.root, f"flock={code}")
    ran = truss.cli(**env)
    assert ran.code == 0, ran
    many.is_whole(**env)
    assert [path for path in ours(truss) if "/.truss_cache/locks/" in path] == []
    ran = truss.cli("clean", **env)
    assert ran.code == 0, ran
    assert ours(truss) == []


BIG = FILES["model.bin"] * 100


@pytest.mark.parametrize("layout", ["hub", "local"])
def test_two_runs_whose_locks_do_nothing_both_succeed(
    layout: str, make_case: Make, hub: Hub, odd_disk: OddDisk
) -> None:
    files = {"model.bin": BIG, "config.json": b"{}", "more.bin": BIG[::-1]}
    case = make_case(layout, files)
    truss, env = case.truss, odd_disk(case.truss.root, "flock=ok")
    slow = {"TRUSS_CACHE_MAX_RATE": "2M"} if layout == "local" else {}
    hub.fail("model.bin", "stall", host="cdn")
    one = truss.start([str(BIN / "truss-cache")], **env, **slow)
    with ended(one):
        partials = case.records / "partials"

        def is_at_work() -> bool:
            asked = layout != "hub" or any(request.host == "cdn" for request in hub.asked("GET", "model.bin"))
            return asked and any(partials.iterdir())

        wait_until(is_at_work, "a partial of the first run", alive=lambda: one.poll() is None)
        two = truss.cli(**env)
        assert one.poll() is None
        assert two.code == 0, two
        hub.released.set()
        _, said = one.communicate(timeout=60)
        assert one.returncode == 0, said
    case.is_whole(files)
    ran = truss.cli("clean")
    assert ran.code == 0, ran
    assert ours(truss) == []


# What a machine lacks


@pytest.mark.parametrize("descriptors", [12, 20])
def test_with_few_descriptors_an_entry_comes_or_fails_in_words(
    descriptors: int, make_many: Callable[[str], Many], hub: Hub
) -> None:
    many = make_many("model_cache")
    truss = many.truss
    hub.repos["org/name"].commit({f"{number}.bin": bytes([number]) * 20_000 for number in range(60)})
    few = ["sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"', str(BIN / "truss-cache")]
    for args in (["run"], ["run", "-a"], ["verify"], ["clean"]):
        ran = truss.run([*few, *args])
        is_no_mistake(ran)
        assert ran.code in (0, 1, 3), (args, ran)
        assert not ran.code or "hint: " in ran.err, ran  # of the cause: a name that is not resolved is one too
    ran = truss.cli()
    assert ran.code == 0, ran
    assert {path: path.read_bytes() for path in many.files if "snapshots" not in path.parts} == {
        path: data for path, data in many.files.items() if "snapshots" not in path.parts
    }
    assert truss.cli("verify").code == 0


@pytest.mark.parametrize("layout", ["hub", "volume", "mount"])
def test_a_name_that_no_disk_takes_says_so_and_how_to_leave_it_out(layout: str, make_case: Make) -> None:
    name, longest = "n" * 300, "m" * 251 + ".bin"
    case = make_case(layout, {f"sub/{name}": b"long", longest: b"the longest that a disk takes", **FILES})
    ran = case.truss.cli()
    well_said(ran, "too long", "ignore_patterns")
    assert name[:50] in ran.err
    with open(case.truss.folder / "config.yaml", "a") as config:
        config.write(f"    ignore_patterns: ['sub/{name[:9]}*']\n")
    ran = case.truss.cli()
    assert ran.code == 0, ran
    assert case.tree() == {longest: b"the longest that a disk takes", **FILES}
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert ours(case.truss) == []


# A disk that fails in the middle

WORDS = {"EIO": "input/output error", "EROFS": "read-only file system", "ENOSPC": "no space left on device"}


def fails_in_words(ran: Ran, code: str) -> bool:
    """See that a run either came through or failed as an entry fails; return whether it failed."""
    is_no_mistake(ran)
    if ran.code:
        well_said(ran)
        assert WORDS[code] in ran.err.lower() or "not writable" in ran.err, ran
    return ran.code == 1


@pytest.mark.parametrize("rule", ["change=EROFS", "any=EIO", "change=ENOSPC"])
@pytest.mark.parametrize("layout", ["hub", "local"])
def test_a_disk_that_fails_from_some_call_on_fails_the_entry_in_words_and_a_rerun_heals_it(
    layout: str, rule: str, make_case: Make, odd_disk: OddDisk
) -> None:
    case = make_case(layout)
    truss, count, code = case.truss, case.truss.root / "count", rule.partition("=")[2]
    assert truss.cli(**odd_disk(case.root, "", count)).code == 0
    calls = dict(line.split() for line in count.read_text().splitlines())
    number = int(calls[rule.partition("=")[0]])
    assert number > 20
    failed = 0
    for part in range(5):
        forget(truss)
        ran = truss.cli(**odd_disk(case.root, f"{rule}@{1 + number * part // 5}"))
        failed += fails_in_words(ran, code)
        ran = truss.cli()
        assert ran.code == 0, ran
        assert case.tree() == FILES
    case.is_whole()
    assert failed >= 3
    ran = truss.cli("clean")
    assert ran.code == 0, ran
    assert ours(truss) == []


@pytest.mark.parametrize(
    "rule",
    [
        *("rename=EIO", "rename=EIO@3", "fsync=EIO", "write=ENOSPC", "write=EIO@3", "unlink=EIO", "mkdir=EROFS@3"),
        *("open=EIO", "open=EIO@9", "stat=EIO", "stat=EIO@9", "utime=EIO", "flock=EIO", "allocate=ENOSPC"),
    ],
)
def test_each_call_that_fails_fails_the_entry_in_words_and_a_rerun_heals_it(
    rule: str, make_case: Make, odd_disk: OddDisk
) -> None:
    case = make_case("local")
    ran = case.truss.cli(**odd_disk(case.root, rule))
    fails_in_words(ran, rule.partition("=")[2].partition("@")[0])
    ran = case.truss.cli()
    assert ran.code == 0, ran
    assert case.tree() == FILES


@pytest.mark.parametrize(
    ("layout", "rule"),
    [
        *(("local", rule) for rule in ("stat=EIO", "open=EIO", "read=EIO", "any=EIO@5", "change=EIO@4")),
        *(("hub", rule) for rule in ("read=EIO", "any=EIO@9", "change=EROFS")),
    ],
)
def test_commands_on_a_whole_cache_whose_disk_fails_are_no_mistake_of_ours(
    layout: str, rule: str, make_case: Make, odd_disk: OddDisk
) -> None:
    case = make_case(layout)
    assert case.truss.cli().code == 0
    env = odd_disk(case.root, rule)
    for args in ("why --check", "verify", "run", "clean -n", "clean"):
        ran = case.truss.cli(*args.split(), **env)
        is_no_mistake(ran)
        assert ran.code in (0, 1, 3), (args, ran)
    ran = case.truss.cli("clean")
    assert ran.code == 0, ran
    assert ours(case.truss) == []


# Times that other tools cut and round


@pytest.mark.parametrize("layout", ["hub", "mount", "local"])
@pytest.mark.parametrize("to", ["the second before", "the second after"])
def test_times_that_were_rounded_to_the_second_are_fresh(layout: str, to: str, make_case: Make) -> None:
    case = make_case(layout)
    second = 1_000_000_000
    assert case.truss.cli().code == 0
    for path in FILES:
        stat = (case.shown / path).stat()
        cut = stat.st_mtime_ns - stat.st_mtime_ns % second
        assert cut != stat.st_mtime_ns
        os.utime(case.shown / path, ns=(0, cut if "before" in to else cut + second))
    case.is_whole()


@pytest.mark.parametrize("off", ["a second more", "half a second, with a fraction"])
def test_times_that_differ_by_more_than_rounding_are_not(off: str, make_case: Make) -> None:
    case = make_case("local")
    assert case.truss.cli().code == 0
    second = 1_000_000_000
    path = case.shown / "config.json"
    found = path.stat().st_mtime_ns
    up = found - found % second + second
    half = found - second // 2 if (found - second // 2) % second else found - second // 2 - 1
    os.utime(path, ns=(0, up + second if off == "a second more" else half))
    why = case.truss.cli("why")
    assert "config.json is touched" in why.out, why


# Nothing stays


@pytest.mark.parametrize("form", ["model_cache", "weights"])
def test_after_the_clean_of_every_project_nothing_of_ours_is_left(form: str, make_many: Callable[[str], Many]) -> None:
    many = make_many(form)
    truss = many.truss
    for project in ("one", "two"):
        ran = truss.cli(TRUSS_CACHE_PROJECT=project)
        assert ran.code == 0, ran
    ran = truss.cli("clean", TRUSS_CACHE_PROJECT="one")
    assert ran.code == 0, ran
    many.is_whole(TRUSS_CACHE_PROJECT="two")
    ran = truss.cli("clean", TRUSS_CACHE_PROJECT="two")
    assert ran.code == 0, ran
    assert ours(truss) == []


@pytest.mark.parametrize("form", ["model_cache", "weights"])
def test_after_a_clean_of_every_entry_by_name_nothing_of_ours_is_left(
    form: str, make_many: Callable[[str], Many]
) -> None:
    many = make_many(form)
    truss = many.truss
    assert truss.cli().code == 0
    names = [line.partition(":")[0] for line in truss.cli("why").out.splitlines() if line[0] != " "]
    assert len(names) == many.entries
    for name in names:
        ran = truss.cli("clean", name)
        assert ran.code == 0, ran
    assert ours(truss) == []
