"""`truss-cache du` and `prune`, `doit cache-du` and `cache-prune`: what they print, and how they exit."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from trusses import Truss, tree

SHARED, OWN = b"shared" * 1000, b"own" * 1000


@pytest.fixture
def truss(tmp_path: Path) -> Truss:
    """A Truss that has fetched `shared`; so has the config of a job, which is gone, and `own` too."""
    truss = Truss(tmp_path)
    for name, content in (("shared", SHARED), ("own", OWN)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.bin").write_bytes(content)
    shared = f"- repo_id: file://{tmp_path}/shared\n"
    truss.config(f"model_cache:\n{shared}")
    job = tmp_path / "job\x1b[2J"
    job.mkdir()
    (job / "config.yaml").write_text(f"model_cache:\n{shared}- repo_id: file://{tmp_path}/own\n")
    assert truss.cli().code == truss.cli("-f", str(job)).code == 0
    shutil.rmtree(job)
    return truss


@pytest.mark.parametrize("front", ["truss-cache", "doit"])
def test_both_front_ends_show_what_is_there_and_remove_what_no_living_claim_lists(front: str, truss: Truss) -> None:
    ask = truss.cli if front == "truss-cache" else lambda command, *args: truss.doit(f"cache-{command}", *args)
    label = "shared" if front == "truss-cache" else "cache_weights:shared"
    before = tree(truss.model_cache)
    used = ask("du")
    assert used.code == 0, used.text
    size = r"6\.0 kB +0 B +6\.0 kB  \d{4}-\d\d-\d\d  "
    assert re.search(rf"^ +{size}{label}$", used.out, re.MULTILINE), used.out
    assert "6.0 kB claimed, 3.0 kB unclaimed" in used.out
    dry = ask("prune")
    assert (dry.code, tree(truss.model_cache)) == (0, before)
    assert "job\\x1b[2J/config.yaml on " in dry.out
    assert "own, shared" in dry.out
    done = ask("prune", "--yes")
    assert done.code == 0, done.text
    assert done.out == dry.out.replace("would remove", "removed").replace("would drop", "dropped")
    assert "removed 1 path, 3,000 bytes of 9,000 of ours" in done.out
    assert "Add --yes" in dry.err
    assert tree(truss.model_cache) == {"shared/w.bin": SHARED}
    assert "nothing to remove" in ask("prune", "--yes").out
    assert truss.cli("why", "--check").code == 0


def test_without_a_config_the_roots_of_the_machine_are_looked_at(truss: Truss) -> None:
    (truss.folder / "config.yaml").unlink()
    used = truss.cli("du")
    assert (used.code, str(truss.model_cache) in used.out) == (0, True), used.text
    assert truss.cli("prune", "--yes").code == 0
    assert tree(truss.model_cache) == {}
    assert not (truss.root / "home" / ".local" / "state" / "truss-cache").exists()
    assert truss.cli("du", "shared").code == 3  # an entry needs a config


@pytest.mark.parametrize(
    ("option", "value"),
    [("--older-than", "30"), ("--older-than", "-1d"), ("--keep-bytes", "5P"), ("--keep-bytes", "1.5")],
)
def test_a_wrong_age_or_size_is_refused_before_anything_goes(option: str, value: str, truss: Truss) -> None:
    for done in (truss.cli("prune", "--yes", option, value), truss.doit("cache-prune", "--yes", option, value)):
        assert done.code == 3, done.text
        assert "expected" in done.err
    assert tree(truss.model_cache) == {"shared/w.bin": SHARED, "own/w.bin": OWN}


def test_a_fetch_that_does_not_fit_into_the_budget_fails_with_the_figures_and_exit_1(truss: Truss) -> None:
    (truss.root / "big").mkdir()
    (truss.root / "big" / "w.bin").write_bytes(bytes(7000))
    truss.config(f"model_cache:\n- repo_id: file://{truss.root}/shared\n- repo_id: file://{truss.root}/big\n")
    done = truss.cli(TRUSS_CACHE_MAX_BYTES="12K")
    assert done.code == 1, done.text
    said = "9,000 bytes of ours, of which 6,000 are claimed or in use, and 7,000 to come, expected at most 12,000"
    assert said in done.err
    assert tree(truss.model_cache) == {"shared/w.bin": SHARED, "own/w.bin": OWN}
    done = truss.cli(TRUSS_CACHE_MAX_BYTES="13K")
    assert done.code == 0, done.text
    assert f"evicted 3.0 kB that no claim lists from {truss.model_cache}" in done.err
    assert set(tree(truss.model_cache)) == {"shared/w.bin", "big/w.bin"}


def test_a_config_that_is_reached_by_a_link_lives_and_is_edited_as_the_file_that_it_leads_to(truss: Truss) -> None:
    real, link = truss.root / "releases" / "1", truss.root / "current"
    real.mkdir(parents=True)
    link.symlink_to(real)
    shared = f"- repo_id: file://{truss.root}/shared\n"
    (real / "config.yaml").write_text(f"model_cache:\n{shared}- repo_id: file://{truss.root}/own\n")
    assert truss.cli("prune", "--yes").code == truss.cli("-f", str(link)).code == 0
    link.unlink()
    assert "nothing to remove" in truss.cli("prune", "--yes").out
    (real / "config.yaml").write_text(f"model_cache:\n{shared}")
    assert "removed 1 path, 3,000 bytes" in truss.cli("prune", "--yes", "-f", str(real)).out
    link.symlink_to(truss.root / "releases" / "2")  # the next release
    shutil.rmtree(real)
    assert f"{real}/config.yaml on " in truss.cli("prune", "--yes").out
