"""Files that are no config: missing, unreadable, not YAML, or made to hurt."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rights import rights_of_files_count

from truss_cache_tasks import load_config
from truss_cache_tasks.config.document import read_document
from truss_cache_tasks.errors import ConfigError


def refused(path: Path | str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


def test_no_config_is_refused_by_the_name_that_was_looked_for(tmp_path: Path) -> None:
    assert str(refused(tmp_path)) == f"{tmp_path}/config.yaml: not found"
    assert str(refused(tmp_path / "no" / "config.yaml")).endswith("no/config.yaml: not found")


def test_a_missing_yaml_beside_a_yml_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("")
    assert "config.yml" in (refused(tmp_path / "config.yaml").hint or "")


def test_both_spellings_at_once_are_refused(tmp_path: Path) -> None:
    for name in ("config.yaml", "config.yml"):
        (tmp_path / name).write_text("")
    for path in (tmp_path, tmp_path / "config.yaml", tmp_path / "config.yml"):
        assert "is there too" in str(refused(path))


def test_a_folder_or_a_fifo_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    assert str(refused(tmp_path)) == f"{tmp_path}/config.yaml: is a folder"
    assert str(refused(tmp_path / "config.yaml")) == f"{tmp_path}/config.yaml: is a folder"
    os.mkfifo(tmp_path / "fifo.yaml")
    assert "is no regular file" in str(refused(tmp_path / "fifo.yaml"))


def test_a_path_that_no_disk_can_have_is_refused(tmp_path: Path) -> None:
    assert "cannot be looked at" in str(refused("a\0b"))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert "cannot be looked at" in str(refused(tmp_path / "loop.yaml"))


def test_a_file_without_read_permission_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    path.chmod(0)
    with rights_of_files_count():
        assert "cannot be read (Permission denied)" in str(refused(path))


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that gives EIO")
def test_a_file_whose_disk_fails_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").symlink_to("/proc/self/mem")
    assert "config.yaml: cannot be read (" in str(refused(tmp_path))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"a: 1\nb: \xff\n", ":2: not UTF-8 (byte 0xff)"),
        ("a: 1\n".encode("utf-16"), ":1: not UTF-8"),
        (b"a: 1\nb: [1\n", "not YAML: while parsing a flow sequence"),
        (b"a: 1\nb: c: d\n", ":2: not YAML: mapping values are not allowed"),
        (b"a:\n\t- b\n", ":2: not YAML: "),
        (b"a: 1\nb: \x07\n", ":2: not YAML: control characters"),
        (b"a: *nowhere\n", ":1: not YAML: found undefined alias"),
        (b"a: 1\n---\nb: 2\n", ":2: not YAML: expected a single document"),
        (b"hello\n", ":1: got the string 'hello', expected a mapping"),
        (b"- a\n", ":1: got a list, expected a mapping"),
        (b"# c\n5\n", ":2: got 5, expected a mapping"),
        (b"a: " + b"[" * 50_000, ":1: nested more than 100 levels deep"),
        (b"- " * 50_000 + b"x", ":1: nested more than 100 levels deep"),
        (b"a: &a [*a]\n", ":1: an alias that holds itself"),
        (b"a: &a\n  b: {c: *a}\n", "an alias that holds itself"),
    ],
)
def test_what_is_no_yaml_mapping_is_refused_at_its_line(data: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    assert says in str(refused(path))


def test_a_tab_is_named_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a:\n\tb: 1\n")
    assert "tabs" in (refused(path).hint or "")


def test_a_refusal_shows_no_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("secrets:\n  token: hunter2: x\n")
    error = refused(path)
    assert "hunter2" not in f"{error} {error.hint}"


@pytest.mark.parametrize("where", ["model_cache", "model_metadata"])
@pytest.mark.parametrize("form", ["lists", "merges", "chain"])
def test_an_alias_bomb_is_refused_at_once(where: str, form: str, tmp_path: Path) -> None:
    lines = {
        "lists": ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)],
        "merges": ["a0: &a0 {x: y}"] + [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, 60)],
        "chain": ["a0: &a0 {x: y}"] + [f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(1, 1200)],
    }[form]
    last = lines[-1].partition(":")[0]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join([*lines, f"{where}: [*{last}]"]))
    start = time.process_time()
    assert "aliases that expand to too" in str(refused(path))
    assert time.process_time() - start < 2


DEEP: dict[str, Callable[[int], str]] = {
    "flow lists": lambda n: "a:\n  " + "[" * n + "]" * n,
    "flow mappings": lambda n: "a:\n  " + "{b: " * n + "}" * n,
    "block lists": lambda n: "a:\n  " + "- " * n + "x",
    "block mappings": lambda n: "\n".join(" " * level + "a:" for level in range(n)),
    "keys": lambda n: "a:\n  " + "? " * n + "x",
    "merges": lambda n: "\n".join(["model_cache:", *("  " * level + " <<:" for level in range(n))]) + " {}",
    "merges in lists": lambda n: "model_cache:\n  - " + "{<<: [" * (n // 2) + "]}" * (n // 2),
    "merges beside an anchor": lambda n: "x: &x 1\ny: *x\nmodel_cache:\n  " + "{<<: " * n + "{}" + "}" * n,
    "merges at the top": lambda n: "<<: " + "{<<: " * n + "{}" + "}" * n,
}


INDENTED = ("block mappings", "merges")  # whose files grow by the square of the levels


@pytest.mark.parametrize(
    ("form", "levels"),
    [(form, n) for form in DEEP for n in (105, 600, 1200, 100_000) if n < 100_000 or form not in INDENTED],
)
def test_a_config_that_is_nested_deeply_is_refused_with_the_line(form: str, levels: int, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DEEP[form](levels))
    assert re.search(r"config.yaml:[1-9][0-9]*: nested more than 100 levels deep$", str(refused(path)))


@pytest.mark.parametrize("form", [form for form in DEEP if form != "keys"])
def test_ninety_levels_are_read(form: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DEEP[form](90))
    if form.startswith("merges"):
        path.write_text(DEEP[form](90).replace("model_cache", "environment_variables").replace("- ", ""))
    assert load_config(path).entries == ()


@pytest.mark.parametrize("form", DEEP)
def test_deep_nesting_is_refused_without_libyaml_too(form: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DEEP[form](1200))
    with pytest.raises(ConfigError, match=r"config.yaml:[1-9][0-9]*: nested more than 100 levels deep$"):
        read_document(path, yaml.SafeLoader)


def test_a_file_too_large_to_be_a_config_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as stream:
        stream.truncate(17 << 20)
    assert "is larger than 16 MiB" in str(refused(path))


def test_an_error_survives_a_process_boundary(tmp_path: Path) -> None:
    import pickle

    error = refused(tmp_path)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.hint) == (str(error), error.hint)
