"""Every block of docs/how-to/image.md runs as it stands, in order, with buildah and a base image without a network.

The page's `docker` and `buildah` are wrappers around one real buildah, whose storage is the test's own. Its
`python:3.11-slim` is empty but for a venv: the machine's /usr, the Python of the tests and their packages are mounted
into each RUN, so that `pip install` finds every dependency there and asks nobody.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers.hub import Hub
from servers.tools import require
from trusses import Ran, Truss, tree

pytestmark = pytest.mark.timeout(300)  # each starts a dozen containers

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "image.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FETCH, BUILD_BY_DOCKER, BUILD, BUILD_WITHIN, BUILD_AT_0 = [text for kind, text in BLOCKS if kind == "sh"]
DOCKERFILE, DOCKERFILE_WITHIN = [text for kind, text in BLOCKS if kind == "dockerfile"]
CONFIG = """
    model_cache:
      - repo_id: org/name
      - repo_id: org/name
        revision: v1
        use_volume: true
        volume_folder: tagged
      - repo_id: file://./extra
"""
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = Path(pytest.__file__).parent.parent
FOLDERS = ("app", "deps", "dev", "etc", "proc", "root", "tmp", "usr", "venv/bin", f"venv/lib/{PYTHON}/site-packages")


@dataclass
class Buildah:
    """One buildah with a storage of its own, below `root`."""

    program: str
    root: Path

    def command(self, *words: str) -> list[str]:
        storage = ["--root", str(self.root / "storage"), "--runroot", str(self.root / "run"), "--storage-driver", "vfs"]
        return [self.program, *storage, *words]

    @property
    def mounts(self) -> list[str]:
        pairs = {"/usr": "/usr", sys.base_prefix: sys.base_prefix, str(PACKAGES): "/deps"}
        return [word for here, there in pairs.items() for word in ("--volume", f"{here}:{there}:ro")]

    def wrap(self, folder: Path) -> None:
        """Write `buildah` and `docker` into `folder`: what they are told, and besides what this machine needs."""
        build = self.command("bud", "--isolation", "chroot", "--pull-never", *self.mounts)
        for name, shift in (("buildah", 1), ("docker", 2)):  # `buildah bud`, `docker buildx build`
            script = folder / name
            script.write_text(f'#!/bin/sh\nshift {shift}\nexec {" ".join(build)} "$@"\n')
            script.chmod(0o755)

    def make_base(self) -> None:
        rootfs = self.root / "base" / "rootfs"
        for name in FOLDERS:
            (rootfs / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "lib", "lib64"):
            (rootfs / name).symlink_to(f"usr/{name}")
        venv = rootfs / "venv"
        (venv / "bin" / "python").symlink_to(f"{sys.base_prefix}/bin/{PYTHON}")
        (venv / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
        (venv / "lib" / PYTHON / "site-packages" / "deps.pth").write_text("/deps\n")
        (venv / "bin" / "pip").write_text('#!/bin/sh\nexec /venv/bin/python -m pip "$@"\n')
        (venv / "bin" / "pip").chmod(0o755)
        dockerfile = self.root / "base" / "Dockerfile"
        offline = "PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1"
        dockerfile.write_text(f"FROM scratch\nCOPY rootfs /\nENV PATH=/venv/bin:/usr/bin:/bin HOME=/root {offline}\n")
        self.run("bud", "--isolation", "chroot", "-t", "docker.io/library/python:3.11-slim", str(dockerfile.parent))

    def run(self, *words: str) -> str:
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def container(self) -> Container:
        return Container(self, self.run("from", "--pull-never", "my-model"))


@dataclass
class Container:
    of: Buildah
    name: str

    def __call__(self, *command: str, **env: str) -> Ran:
        given = [word for name, value in env.items() for word in ("--env", f"{name}={value}")]
        words = ["run", "--isolation", "chroot", *self.of.mounts, *given, self.name, "--", *command]
        done = subprocess.run(self.of.command(*words), capture_output=True, text=True, timeout=100, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    root = tmp_path_factory.mktemp("images")
    running = Buildah(require("buildah", "apt-get install buildah"), root)
    if not (PACKAGES / "pip").is_dir() or not Path("/lib64").is_symlink() or os.geteuid():
        refuse = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        refuse("needs root, pip in this environment, and a machine with a merged /usr")
    running.make_base()
    yield running
    shutil.rmtree(root)


@pytest.fixture
def ready(truss: Truss, hub: Hub, buildah: Buildah) -> Truss:
    """A Truss whose weights were fetched as the page says."""
    hub.create("org/name").commit({"config.json": b"{}", "sub/model.safetensors": b"w" * 20_000})
    hub.repos["org/name"].tag("v1")
    truss.config(CONFIG)
    (truss.folder / "extra").mkdir()
    (truss.folder / "extra" / "vocab.txt").write_text("a b c\n")
    (truss.root / "truss_cache_tasks").symlink_to(ROOT)
    wrappers = truss.root / "wrappers"
    wrappers.mkdir()
    buildah.wrap(wrappers)
    truss.env["PATH"] = f"{wrappers}:{truss.env['PATH']}"
    truss.env["PIP_NO_BUILD_ISOLATION"] = "0"  # which means no isolation: hatchling is here, and no network
    del truss.env["TRUSS_MODEL_CACHE_DIR"]
    ok(truss, FETCH)
    return truss


def ok(truss: Truss, block: str) -> Ran:
    ran = shell(truss, block)
    assert ran.code == 0, ran.text
    return ran


def shell(truss: Truss, block: str) -> Ran:
    return truss.run(["sh", "-euc", block])


def test_every_block_of_the_page_is_run_here() -> None:
    assert [kind for kind, _ in BLOCKS] == ["sh", "dockerfile", "sh", "sh", "dockerfile", "sh", "sh"]


def test_the_image_holds_the_weights_and_asks_nobody(ready: Truss, buildah: Buildah) -> None:
    (ready.folder / "Dockerfile").write_text(DOCKERFILE)
    (ready.folder / ".dockerignore").write_text("weights/\n")
    for build in (BUILD_BY_DOCKER, BUILD):
        built = ok(ready, build)
        assert built.text.count(": fresh") == 3, built.text

    inside = buildah.container()
    why = inside("truss-cache", "why", "--check", "-f", "/app/truss")
    assert (why.code, why.out.count(": fresh")) == (0, 3), why.text
    closed = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    again = inside("truss-cache", "-f", "/app/truss", **closed)
    assert (again.code, again.err) == (0, "3 entries fresh, nothing to do\n")
    verified = inside("truss-cache", "verify", "-f", "/app/truss")
    assert (verified.code, verified.out.count(": good, ")) == (0, 3), verified.text
    theirs = inside(
        *("python", "-c"),
        "from huggingface_hub import scan_cache_dir, snapshot_download as get\n"
        "print(open(get('org/name', local_files_only=True) + '/sub/model.safetensors').read().count('w'))\n"
        "print(scan_cache_dir().warnings)",
    )
    assert theirs.out.splitlines() == ["20000", "[]"], theirs.text
    hub_entries = ("org/name", "org/name@v1")
    other = inside("truss-cache", "why", "--check", "-f", "/app/truss", *hub_entries, TRUSS_CACHE_PROJECT="other")
    assert (other.code, other.out.count("whole, but not yet claimed by this project")) == (0, 2), other.text
    folder = inside("truss-cache", "why", "--check", "-f", "/app/truss", "extra", TRUSS_CACHE_PROJECT="other")
    assert folder.code == 1
    assert "put here by another project: the folder is read anew" in folder.out
    assert inside("ls", "/app/truss/weights").code != 0


def test_the_cache_may_lie_in_the_build_context_and_its_times_may_be_lost(ready: Truss, buildah: Buildah) -> None:
    (ready.folder / "Dockerfile").write_text(DOCKERFILE_WITHIN)
    assert ok(ready, BUILD_WITHIN).text.count(": fresh") == 3

    ok(ready, BUILD_AT_0)
    inside = buildah.container()
    touched = inside("truss-cache", "why", "--check", "-f", "/app/truss")
    assert (touched.code, touched.out.count("touched since it was hashed")) == (0, 3), touched.text
    ran = inside("truss-cache", "-f", "/app/truss", HF_ENDPOINT="http://127.0.0.1:9")
    assert (ran.code, ran.err.count("fetched 0 files, put right")) == (0, 3), ran.text
    why = inside("truss-cache", "why", "-f", "/app/truss")
    assert why.out.count(": fresh") == 3, why.text


def test_there_is_no_image_while_weights_are_missing(ready: Truss, buildah: Buildah) -> None:
    (ready.folder / "Dockerfile").write_text(DOCKERFILE.replace("COPY --from=weights hub", "# COPY --from=weights hub"))
    (ready.folder / ".dockerignore").write_text("weights/\n")
    assert tree(ready.folder / "weights" / "hub")
    before = buildah.run("images", "-q")
    refused = shell(ready, BUILD)
    assert refused.code != 0
    assert "org/name: stale" in refused.text
    assert buildah.run("images", "-q") == before
