"""A store of another package, as a user installs it: the example over WebDAV, in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers.hub import Hub
from trusses import Ran, Truss, tree

EXAMPLE = Path(__file__).parents[2] / "examples" / "webdav-store"
CONFIG = """
    model_cache:
      - repo_id: dav://weights/llm
        kind: webdav
        allow_patterns: ["*.safetensors"]
      - repo_id: webdav://weights/tokenizer
        use_volume: true
        volume_folder: tokenizer
"""
MODULES = """
    import sys
    from truss_cache_tasks.app.cli import main
    status = main({arguments})
    print(*sorted(sys.modules))
    sys.exit(status)
"""


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that has what this one has, and the example."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("cache", "*.json"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    found = folder / "venv" / "bin" / "python"
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    lines = [f"import site; site.addsitedir({shared!r})\n" for shared in site.getsitepackages()]
    (own / "shared.pth").write_text("".join(lines))
    command = [str(found), "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation", str(source)]
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    assert done.returncode == 0, done.stderr
    return found


@pytest.fixture(scope="session")
def dav_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The server of the example's own tests."""
    spec = importlib.util.spec_from_file_location("example_dav", EXAMPLE / "tests" / "dav.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = module.Dav(tmp_path_factory.mktemp("dav"))
    server.user, server.password = module.USER, module.PASSWORD
    yield server
    server.stop()


class Installed:
    """A Truss whose commands run in the environment with the example."""

    def __init__(self, truss: Truss, python: Path, server: Any) -> None:
        self.truss, self.python, self.server = truss, python, server
        self.truss.config(CONFIG)
        server.clear()
        self.put("llm/model.safetensors", b"m" * 9_000_000)
        self.put("llm/readme.md", b"left out")
        self.put("llm-2/model.safetensors", b"a sibling")
        self.put("tokenizer/a b/t%.json", b"{}")
        truss.env["WEBDAV_URL"] = server.url
        (truss.folder / "data").mkdir()
        self.write_credential(server.password)

    def put(self, path: str, data: bytes) -> None:
        target = self.server.folder / "weights" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def write_credential(self, password: str) -> None:
        text = f'{{"user": "{self.server.user}", "password": "{password}"}}'
        (self.truss.folder / "data" / "webdav_credentials.json").write_text(text)

    def cli(self, *arguments: str, **env: str) -> Ran:
        code = "import sys; from truss_cache_tasks.app.cli import main; sys.exit(main(sys.argv[1:]))"
        return self.truss.run([str(self.python), "-c", code, *arguments], **env)

    def doit(self, *arguments: str, **env: str) -> Ran:
        return self.truss.run([str(self.python), "-m", "doit", *arguments], **env)

    def modules(self, *arguments: str, **env: str) -> set[str]:
        code = "\n".join(line.removeprefix("    ") for line in MODULES.format(arguments=list(arguments)).splitlines())
        ran = self.truss.run([str(self.python), "-c", code], **env)
        assert ran.code == 0, ran.text
        return set(ran.out.split())


@pytest.fixture
def installed(truss: Truss, python: Path, dav_server: Any) -> Installed:
    return Installed(truss, python, dav_server)


def test_the_installed_example_passes_the_tests_of_every_source(python: Path, tmp_path: Path) -> None:
    tests = shutil.copytree(EXAMPLE, tmp_path / "example", ignore=shutil.ignore_patterns("cache", "truss_cache_webdav"))
    command = [
        str(python),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        f"--basetemp={tmp_path}/base",
    ]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_the_commands_take_an_installed_store_like_ours(installed: Installed) -> None:
    cache = installed.truss.model_cache
    ran = installed.cli()
    assert ran.code == 0, ran.text
    assert tree(cache) == {
        "dav/weights/llm/model.safetensors": b"m" * 9_000_000,
        "tokenizer/a b/t%.json": b"{}",
    }
    again = installed.cli(WEBDAV_URL="http://127.0.0.1:9")
    assert (again.code, again.err) == (0, "2 entries fresh, nothing to do\n")
    for command in ("verify", "plan", "lock"):
        assert installed.cli(command).code == 0, command

    (cache / "dav/weights/llm/model.safetensors").unlink()
    assert "dav/weights/llm/model.safetensors is missing" in installed.cli("why").out
    assert installed.cli().code == 0
    assert installed.cli("clean").code == 0
    assert tree(cache) == {}
    assert installed.server.password not in ran.text


def test_a_run_without_work_imports_its_row_and_not_its_source(installed: Installed) -> None:
    assert "truss_cache_webdav.source" in installed.modules()
    modules = installed.modules()
    assert "truss_cache_webdav" in modules
    assert "truss_cache_webdav.source" not in modules
    assert not {"urllib3", "xml.etree", "truss_cache_tasks.network.client"} & modules


def test_a_run_of_our_stores_imports_nothing_of_it(installed: Installed, hub: Hub) -> None:
    hub.create("org/name").commit({"a.bin": b"a"})
    installed.truss.config("model_cache: [{repo_id: org/name}]")
    assert "truss_cache_webdav" not in installed.modules()
    modules = installed.modules()
    assert "truss_cache_webdav" not in modules
    assert "importlib.metadata" not in modules


def test_doit_fetches_it_in_processes_that_have_read_no_config(installed: Installed) -> None:
    installed.truss.dodo(
        "import multiprocessing\nmultiprocessing.set_start_method('spawn')\n"
        "from truss_cache_tasks import task_cache_weights\n"
    )
    ran = installed.doit("-n", "2", "-P", "process", "cache_weights")
    assert ran.code == 0, ran.text
    assert len(tree(installed.truss.model_cache)) == 2
    assert installed.doit("cache_weights").out.count("-- ") == 3


def test_a_wrong_password_is_told_and_not_printed(installed: Installed) -> None:
    installed.write_credential("another-password")
    ran = installed.cli()
    assert ran.code == 1
    assert ": the server answers 401, asked with the user of data/webdav_credentials.json" in ran.err
    assert "another-password" not in ran.text
    assert "Traceback" not in ran.text


def test_a_changed_file_fails_a_locked_run_and_is_fetched_when_asked(installed: Installed) -> None:
    assert installed.cli("lock").code == 0
    installed.put("llm/model.safetensors", b"another")
    assert installed.cli().code == 1
    assert installed.cli("lock", "--upgrade").code == 0
    assert installed.cli().code == 0
    assert tree(installed.truss.model_cache)["dav/weights/llm/model.safetensors"] == b"another"


def test_a_config_whose_package_is_gone_says_so(installed: Installed) -> None:
    assert installed.cli().code == 0
    ran = installed.truss.cli("run")  # the environment without the package
    assert (ran.code, ran.out) == (3, "")
    assert "config.yaml:3: model_cache[0].repo_id: unknown scheme 'dav'" in ran.err
    installed.truss.config("model_cache: []")
    assert installed.truss.cli("clean").code == 0
    assert tree(installed.truss.model_cache) == {}


def break_package(folder: Path, entry_point: str, **modules: str) -> str:
    """Write a package with an entry point, as pip leaves it; return its folder, for PYTHONPATH."""
    info = folder / "truss_cache_broken-2.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: truss-cache-broken\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text(f"[truss_cache_tasks.stores]\n{entry_point}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return str(folder)


def test_a_store_with_a_scheme_of_ours_is_exit_3_before_anything_is_fetched(
    truss: Truss, hub: Hub, tmp_path: Path
) -> None:
    hub.create("org/name").commit({"a.bin": b"a"})
    truss.config("model_cache: [{repo_id: org/name}]")
    path = break_package(tmp_path / "site", "s3 = broken:ROW", broken="raise SystemExit('imported')")
    for ran in (truss.cli(PYTHONPATH=path), truss.cli("plan", PYTHONPATH=path), truss.doit(PYTHONPATH=path)):
        assert ran.code == 3, ran.text
        assert "s3:// is a scheme of truss-cache-tasks, and the package truss-cache-broken 2.0 has it too" in ran.err
        assert "imported" not in ran.text
    assert hub.requests == []
    assert truss.cli().code == 0
    assert truss.cli(PYTHONPATH=path).err == "1 entry fresh, nothing to do\n"
