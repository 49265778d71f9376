"""Stores of installed packages: found by the scheme, loaded for no other, and refused in clear words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from truss_cache_tasks import stores as public
from truss_cache_tasks.config import plugins
from truss_cache_tasks.config.loader import load_config
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.model import stores

ROW = """
from truss_cache_tasks.stores import Store
ROW = Store(schemes=("{scheme}",), opens="{module}.source:Source")
"""
Package = Callable[..., str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    """Install packages with one module, by the names that they have in this test; what they register is forgotten."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stores, "_rows", dict(stores._rows))
    plugins.refuse_clashes.cache_clear()
    modules = set(sys.modules)

    def install(name: str, code: str | None = None, *schemes: str, points_to: str = "ROW") -> str:
        scheme = schemes[0] if schemes else name
        text = ROW.format(scheme=scheme, module=name) if code is None else code
        (site / f"{name}_store.py").write_text(text)
        info = site / f"truss_cache_{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: truss-cache-{name}\nVersion: 1.5\n")
        lines = [f"{one} = {name}_store:{points_to}" for one in schemes or (name,)]
        (info / "entry_points.txt").write_text("\n".join(["[truss_cache_tasks.stores]", *lines, ""]))
        return f"{name}_store"

    yield install
    plugins.refuse_clashes.cache_clear()
    for name in set(sys.modules) - modules:
        if name.endswith("_store"):
            del sys.modules[name]


def load(folder: Path, uri: str) -> None:
    (folder / "config.yaml").write_text(f"model_cache:\n  - repo_id: {uri}\n")
    load_config(folder)


def refused(folder: Path, uri: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(folder, uri)
    assert str(caught.value).startswith("config.yaml:2: model_cache[0].repo_id: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_a_store_is_loaded_by_its_scheme_and_no_other(package: Package, tmp_path: Path) -> None:
    dav, other = package("dav"), package("other")
    load(tmp_path, "dav://share/m")
    assert dav in sys.modules
    assert other not in sys.modules
    assert stores.store_of("dav").scheme == "dav"


def test_a_config_with_our_schemes_looks_for_no_package(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package("s3")
    monkeypatch.setattr(plugins, "_entry_points", lambda: pytest.fail("looked for packages"))
    for uri in ("org/name", "s3://bucket/m", "gs://bucket/m", "file://weights"):
        load(tmp_path, uri)


@pytest.mark.parametrize("scheme", ["s3", "hf", "gs", "gcs", "file"])
def test_a_scheme_of_ours_is_refused_by_name_without_an_import(package: Package, tmp_path: Path, scheme: str) -> None:
    module, _ = package("clash", None, scheme), package("dav")
    said = f"{scheme}:// is a scheme of truss-cache-tasks, and the package truss-cache-clash 1.5 has it too"
    assert said in str(refused(tmp_path, "dav://share/m"))
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        plugins.refuse_clashes()
    assert caught.value.hint == "Uninstall it: pip uninstall truss-cache-clash."
    assert module not in sys.modules


BROKEN = {
    "import a_module_that_is_not_there": "which cannot be imported (ModuleNotFoundError: No module named 'a_module",
    "def (": "which cannot be imported (SyntaxError)",
    "1 / 0": "which cannot be imported (ZeroDivisionError)",
    "import sys; sys.exit('secret')": "which cannot be imported (SystemExit)",
    "": "which cannot be imported (AttributeError)",
    "ROW = {'schemes': ['dav']}": "which gives a dict, expected a Store (dav_store:ROW)",
    "from truss_cache_tasks.stores import Store as ROW": "which gives a type, expected a Store",
    ROW.format(scheme="other", module="x"): "whose row has no such scheme (dav_store:ROW)",
    ROW.replace('("{scheme}",)', '"dav"'): "whose row is refused: schemes is 'dav', expected a tuple of one or more",
    ROW.replace('("{scheme}",)', "None"): "whose row is refused: schemes is None, expected a tuple of one or more",
    ROW.replace("{module}.source:Source", "no class").format(scheme="dav"): "opens is 'no class', expected 'package.",
    ROW.replace("{scheme}", 'dav", "s3').replace("{module}", "x"): "whose row is refused: s3:// is registered already",
    ROW.format(scheme="dav", module="x").replace("opens", "kind='gcs', opens"): "kind 'gcs' is registered already",
    ROW.format(scheme="dav", module="x").replace("opens", "cache_folder='../x', opens"): "is no folder of the model",
    ROW.format(scheme="dav", module="x").replace(
        "opens", "credential='token', opens"
    ): "credential is 'token', expected",
    ROW.format(scheme="dav", module="x").replace("opens", "variables='HOME', opens"): "variables is 'HOME', expected",
    ROW.format(scheme="dav", module="x").replace("opens", "names=('share',), opens"): "expected a tuple of NamePart",
    ROW.format(scheme="dav", module="x").replace("opens", "versions='(', opens"): "versions is '(', expected a regular",
}


@pytest.mark.parametrize("code", BROKEN, ids=lambda code: re.sub(r"\W+", "-", BROKEN[code])[-30:])
def test_a_broken_package_is_named_with_what_is_wrong(package: Package, tmp_path: Path, code: str) -> None:
    package("dav", code)
    error = refused(tmp_path, "dav://share/m")
    assert "dav:// is a store of the package truss-cache-dav 1.5, " in str(error)
    assert BROKEN[code] in str(error)
    assert error.hint == "Install another version of that package, or tell its author."
    assert "secret" not in str(error)
    assert stores.find_store("dav") is None


def test_a_package_with_broken_metadata_stops_no_store_of_ours(package: Package, tmp_path: Path) -> None:
    package("dav")
    (tmp_path / "site/truss_cache_dav-1.5.dist-info/entry_points.txt").write_text("[any.group]\nno equals sign\n")
    load(tmp_path, "s3://bucket/m")
    plugins.refuse_clashes()
    assert "the metadata of an installed package cannot be read (" in str(refused(tmp_path, "dav://share/m"))


def test_two_packages_with_one_scheme_are_refused(package: Package, tmp_path: Path) -> None:
    package("one", None, "dav")
    package("two", None, "dav")
    said = "dav:// is a store of the packages truss-cache-one 1.5 and truss-cache-two 1.5, expected one"
    assert said in str(refused(tmp_path, "dav://share/m"))


def test_a_package_that_registers_its_row_itself_is_fine_too(package: Package, tmp_path: Path) -> None:
    code = ROW.format(scheme="dav", module="x") + "from truss_cache_tasks.stores import register_store\n"
    package("dav", code + "register_store(ROW)\n")
    load(tmp_path, "dav://share/m")
    load(tmp_path, "dav://share/m")


def test_a_scheme_that_no_package_has_is_told_with_those_that_there_are(package: Package, tmp_path: Path) -> None:
    module = package("webdav")
    error = refused(tmp_path, "webdaw://share/m")
    assert "unknown scheme 'webdaw'" in str(error)
    assert error.hint == "Did you mean webdav://?"
    assert (refused(tmp_path, "nonsense://share/m").hint or "").endswith(" or webdav://.")
    assert module not in sys.modules


def test_each_public_name_for_stores_is_there() -> None:
    assert sorted(public.__all__) == sorted(dir(public))
    for name in public.__all__:
        assert getattr(public, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = public.Nonsense
