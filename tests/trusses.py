"""A Truss in a folder of its own, used as its user would: doit and truss-cache in child processes.

truss = Truss(tmp_path, hub=hub)                 # HF_ENDPOINT, caches, secrets and HOME all below tmp_path
truss.config("model_cache:\\n  - repo_id: org/name\\n")
truss.doit("cache_weights")                       # -> Ran(code, out, err); truss.cli("why", "--check")
truss.hub_cache, truss.model_cache, truss.mounts, truss.secrets      # folders
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from servers.tools import wait_until

DODO = "from truss_cache_tasks import task_cache_weights\n"
BIN = Path(sys.executable).parent


_SECRET_NAME = re.compile("TOKEN$|SECRET|PASSWORD|ACCESS_KEY|private_key$|token$", re.IGNORECASE)
_SHORTEST = 8  # characters of a secret that is searched for
_WRITTEN_BY_US = re.compile(
    r"\.truss_cache/|/refs/|model_cache\.lock|\.doit\.db|^home/\.local/state/|\.jsonl$|events|summary"
)
MADE: list[Truss] = []  # by the test that runs now


def secrets_of(truss: Truss, env: Mapping[str, str]) -> set[str]:
    """Return the secrets that a command of this Truss could print: of its variables, secret files and credential files.

    Shorter ones than `_SHORTEST` are left out, as they may be a part of other words.
    """
    found = [value for name, value in env.items() if _SECRET_NAME.search(name)]
    found += [urlsplit(value).password or "" for name, value in env.items() if name.lower().endswith("_proxy")]
    for path in [*_files(truss.secrets), *_files(truss.folder / "data")]:
        try:
            text = path.read_text().strip()
            value = json.loads(text) if text.startswith("{") else text
        except (OSError, ValueError):
            continue
        fields = value.items() if isinstance(value, dict) else [("token", value)]
        found += [str(field) for name, field in fields if _SECRET_NAME.search(name) and name != "aws_access_key_id"]
    return {secret for secret in found if len(secret) >= _SHORTEST and "\n" not in secret and secret[0] != "/"}


def _files(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.is_file() and path.stat().st_size < 1 << 16]
    return []


def checked(truss: Truss, env: Mapping[str, str], ran: Ran) -> Ran:
    """Return how a command ended; fail if it printed a secret. Every test of a command does that."""
    truss.secrets_used |= secrets_of(truss, env)
    refuse_secrets(truss.secrets_used, ran.text)
    return ran


def refuse_secrets(secrets: Iterable[str], text: str) -> None:
    """Fail if a command printed one of these."""
    for secret in secrets:
        assert secret not in text, f"a secret was printed: {text}"


def written_secrets(truss: Truss) -> list[str]:
    """Return where a command of this Truss wrote one of its secrets: `path: secret`, or `path` alone if it is named so.

    Searched is what commands write and tests do not: records, partials and notes of all roots, the lock file, doit's
    database, the state below HOME, and logs of events. conftest.py does so after each test.
    """
    found = []
    for folder, _, names in os.walk(truss.root) if truss.secrets_used else ():
        for path in (Path(folder, name) for name in names):
            there = path.relative_to(truss.root).as_posix()
            if not _WRITTEN_BY_US.search(there) or path.is_symlink() or not path.is_file():
                continue
            with path.open("rb") as stream:
                text = there.encode() + b" " + stream.read(1 << 20)
            found += [f"{there}: {secret}" for secret in truss.secrets_used if secret.encode() in text]
    return found


@dataclass(frozen=True)
class Ran:
    """How a child process ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


class Truss:
    def __init__(self, root: Path, *, hub: Any = None, **env: str) -> None:
        MADE.append(self)
        self.secrets_used: set[str] = set()  # by any command so far
        self.root = root
        self.folder = root / "truss"
        self.hub_cache = root / "hf" / "hub"
        self.model_cache = root / "model_cache"
        self.mounts = root / "mounts"
        self.secrets = root / "secrets"
        for folder in (self.folder, self.secrets, root / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        self.env = {
            "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", "")]),
            "HOME": str(root / "home"),
            "HF_HOME": str(root / "hf"),
            "HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9",
            "HF_HUB_DISABLE_XET": "1",
            "TRUSS_MODEL_CACHE_DIR": str(self.model_cache),
            "TRUSS_MOUNT_ROOT": str(self.mounts),
            "TRUSS_SECRETS_DIR": str(self.secrets),
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_GCE_CHECK": "true",
            # What makes a child measure itself, under .ci/coverage.
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
            **env,
        }
        self.dodo(DODO)

    def config(self, text: str, name: str = "config.yaml") -> Path:
        path = self.folder / name
        path.write_text(textwrap.dedent(text))
        return path

    def dodo(self, text: str) -> Path:
        path = self.folder / "dodo.py"
        path.write_text(textwrap.dedent(text))
        return path

    def doit(self, *args: str, **env: str) -> Ran:
        return self.run([sys.executable, "-m", "doit", *args], **env)

    def cli(self, *args: str, **env: str) -> Ran:
        return self.run([str(BIN / "truss-cache"), *args], **env)

    def python(self, code: str, *args: str, **env: str) -> Ran:
        return self.run([sys.executable, "-c", textwrap.dedent(code), *args], **env)

    def run(self, command: list[str], **env: str) -> Ran:
        env = {**self.env, **env}
        done = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=100, check=False
        )
        return checked(self, env, Ran(done.returncode, done.stdout, done.stderr))

    def start(self, command: list[str], **env: str) -> subprocess.Popen[str]:
        """Start a child in a process group of its own, for tests of signals."""
        self.secrets_used |= secrets_of(self, {**self.env, **env})
        return _Child(
            self,
            command,
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


class _Child(subprocess.Popen[str]):
    """A child that may print no secret of its Truss."""

    def __init__(self, truss: Truss, command: list[str], **options: Any) -> None:
        self._truss = truss
        super().__init__(command, **options)

    def communicate(self, *args: Any, **options: Any) -> tuple[str, str]:
        out, err = super().communicate(*args, **options)
        refuse_secrets(self._truss.secrets_used, f"{out}{err}")
        return out, err


@contextlib.contextmanager
def ended(child: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """See that nothing of the child's group outlives the block, whatever happens in it."""
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def gone(child: subprocess.Popen[str]) -> bool:
    """Whether no process of the child's group is left; multiprocessing's own trackers end a moment after it."""

    def no_group() -> bool:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(no_group, "the end of the process group", alive=lambda: True, timeout_s=20)
    return no_group()


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file that a user sees below `folder`, by relative path; our records left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".truss_cache" not in path.parts
    }
