"""`truss-cache init`, `--version`, and a package that is missing."""

from __future__ import annotations

import sys

import pytest
from in_process import Cli, cli
from servers.hub import Hub
from trusses import Truss

from truss_cache_tasks import __version__

__all__ = ["cli"]


@pytest.fixture
def one(truss: Truss, hub: Hub) -> Truss:
    hub.create("org/one").commit({"one.bin": b"1" * 20_000})
    truss.config("model_cache: [{repo_id: org/one}]\n")
    return truss


def test_init_writes_what_doit_needs_and_a_second_one_changes_nothing(one: Truss, cli: Cli) -> None:
    (one.folder / "dodo.py").unlink()
    first = cli("init")
    assert (first.code, first.out) == (0, "dodo.py: written\n.gitignore: added /cache/ /.doit.db*\n")
    dodo, ignore = (one.folder / "dodo.py").read_text(), (one.folder / ".gitignore").read_bytes()
    assert ignore == b"/cache/\n/.doit.db*\n"
    ran = one.doit("list", "--all")
    assert (ran.code, "cache_weights:org/one" in ran.out) == (0, True), ran.text
    again = cli("init")
    assert (again.code, again.out) == (0, "dodo.py: unchanged\n.gitignore: unchanged\n")
    assert ((one.folder / "dodo.py").read_text(), (one.folder / ".gitignore").read_bytes()) == (dodo, ignore)


def test_init_overwrites_nothing(one: Truss, cli: Cli) -> None:
    (one.folder / "dodo.py").write_text("def task_mine(): return {'actions': []}\n")
    (one.folder / ".gitignore").write_bytes(b"*.pyc\r\ncache")
    ran = cli("init")
    assert ran.code == 1
    assert "task_cache_weights = cache_tasks(" in ran.out
    assert (one.folder / "dodo.py").read_text() == "def task_mine(): return {'actions': []}\n"
    assert (one.folder / ".gitignore").read_bytes() == b"*.pyc\r\ncache\n/.doit.db*\n"
    (one.folder / ".gitignore").unlink()
    (one.folder / ".gitignore").symlink_to("../elsewhere")
    assert cli("init").code == 1
    assert not (one.root / "elsewhere").exists(), "a link is not followed"


def test_init_needs_a_config_and_takes_its_name(one: Truss, cli: Cli) -> None:
    (one.folder / "new").mkdir()
    refused = cli("init", "-f", "new")
    assert (refused.code, list((one.folder / "new").iterdir())) == (3, [])
    one.config("model_cache: [{repo_id: org/one}]\n", "new/other.yaml")
    assert cli("init", "-f", "new/other.yaml").code == 0
    assert 'cache_tasks("other.yaml", model_cache_dir="cache")' in (one.folder / "new" / "dodo.py").read_text()


def test_the_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out == f"truss-cache {__version__}\n"


def test_verbose_names_each_file(one: Truss, cli: Cli) -> None:
    assert "org/one: one.bin: 20.0 kB, " in cli("-v").err
    assert "  snapshots/" in cli("verify", "-v").out


def without(module: str) -> str:
    """Return code after which `module` cannot be imported, as if it were not installed."""
    return f"""
        import sys
        class Missing:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == {module!r}:
                    raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
        sys.meta_path.insert(0, Missing())
    """


PACKAGES = {"huggingface_hub": "huggingface_hub", "urllib3": "urllib3", "xxhash": "xxhash", "yaml": "pyyaml"}


@pytest.mark.parametrize(("module", "package"), PACKAGES.items())
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    one: Truss, module: str, package: str
) -> None:
    hide = without(module)
    ran = one.python(f"{hide}\n        from truss_cache_tasks.app.cli import main\n        sys.exit(main([]))\n")
    assert (ran.code, "internal error" in ran.text) == (1, False), ran.text
    assert f"{package}: found no such Python package, expected it beside truss-cache-tasks\n" in ran.err
    assert f"hint: Run `{sys.executable} -m pip install {package}`.\n" in ran.err
    one.dodo(f"{hide}\n        from truss_cache_tasks import task_cache_weights\n")
    doit = one.doit()
    expected = 3 if module == "yaml" else 1  # without PyYAML there are no tasks
    assert (doit.code, "internal error" in doit.text, "Traceback" in doit.text) == (expected, False, False), doit.text
    assert f"pip install {package}" in doit.err


def test_a_command_of_doit_without_pyyaml_gives_the_command_that_installs_it(one: Truss) -> None:
    main = "from doit.doit_cmd import DoitMain\n        sys.exit(DoitMain().run(['cache-why']))"
    ran = one.python(f"{without('yaml')}\n        {main}\n")  # doit imports our command before dodo.py
    hint = f"hint: Run `{sys.executable} -m pip install pyyaml`.\n"
    assert (ran.code, ran.err.endswith(hint), "Traceback" in ran.err) == (3, True, False), ran.err


def test_a_program_that_lacks_doit_gets_the_command_that_installs_it(one: Truss) -> None:
    ran = one.python(f"{without('doit')}\n        from truss_cache_tasks import cache_tasks\n")
    assert ran.code == 1
    assert ran.err.endswith(
        "MissingPackage: doit: found no such Python package, expected it beside truss-cache-tasks\n"
        f"hint: Run `{sys.executable} -m pip install doit`.\n"
    )
