"""`truss-cache` in a process of its own for each command, forked from one that has everything imported: 20 ms each.

truss = ForkedTruss(tmp_path, forks=forks, hub=hub)     # its `cli` is forked; `doit` and `start` are as ever
truss.cli(rights=False)                                 # of a user whom a file of mode 0 refuses
truss.cli("clean", dies_at=7)                           # SIGKILL just before the 7th change that it makes to the disk
calls_of(truss, "clean")["change"]                      # how many changes it makes
one = truss.fork("run", **variables(truss.root, "any=stop@90"))     # it stops itself before its 90th call
interleave(one, lambda: other.fork("run"))              # another runs meanwhile
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rights
from odd_disk import build, variables
from servers.tools import die_with_parent
from trusses import Ran, Truss, checked

_PATIENCE_S = 0.5  # a command that takes longer beside a stopped one waits for it

_SERVER = """
import ctypes, json, os, signal, sys
import rights
import awscrt.checksums, boto3, botocore.auth, botocore.config, google.cloud.storage, google.oauth2.service_account
import concurrent.futures, http.client, huggingface_hub.hf_api, urllib3, xxhash, yaml
from truss_cache_tasks.app import cli

def live(ask):
    os.chdir(ask["cwd"])
    os.environ.clear()
    os.environ.update(ask["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(ask["said"][number - 1], os.O_WRONLY), number)
    if not ask["rights"]:
        rights.give_up_rights()
    disk = ctypes.CDLL(None) if "ODD_DISK_BELOW" in os.environ else None
    if disk:
        disk.odd_disk_arm()
    status = cli.main(ask["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    if disk:
        disk.odd_disk_report()
    os._exit(status)

def attend(ask):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    news = open(ask["news"], "w", buffering=1)
    child = os.fork()
    if not child:
        news.close()
        live(ask)
    print("began", child, file=news)
    while os.WIFSTOPPED(status := os.waitpid(child, os.WUNTRACED)[1]):
        print("stopped", child, file=news)
    print("ended", os.waitstatus_to_exitcode(status), file=news)
    news.close()
    os._exit(0)

signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children that attend to the commands
for line in sys.stdin:
    if not os.fork():
        try:
            attend(json.loads(line))
        finally:
            os._exit(99)
"""


class Forks:
    """The process that is forked, for any number of commands at a time.

    On Linux, where there is a compiler, the library of tests/odd_disk.c is loaded in it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._lock = threading.Lock()
        can_build = sys.platform == "linux" and shutil.which("gcc")
        disk = {"LD_PRELOAD": str(build(Path(self._folder.name)))} if can_build else {}
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(rights.__file__).parent)]), **disk},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call, and takes no lock
        )

    def start(self, argv: list[str], cwd: Path, env: dict[str, str], *, rights: bool = True) -> Forked:
        """Start `truss-cache` with these arguments.

        Args:
            rights: whether it has those of root, where the tests have them.
        """
        assert self._server.stdin is not None
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        said = [folder / name for name in ("out", "err")]
        for path in said:
            path.touch()
        os.mkfifo(folder / "news")
        ask = {
            "argv": argv,
            "cwd": str(cwd),
            "env": env,
            "said": list(map(str, said)),
            "news": str(folder / "news"),
            "rights": rights,
        }
        with self._lock:
            self._server.stdin.write(json.dumps(ask) + "\n")
            self._server.stdin.flush()
        return Forked(folder)

    def end(self) -> None:
        """End the process."""
        self._server.communicate()
        self._folder.cleanup()


class Forked:
    """A command that runs; `pid` is its process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._news = (folder / "news").open("rb", buffering=0)  # else select() would not see what is buffered
        self.pid = int(self._news.readline().split()[1])
        self._code, self._has_ended = 0, False

    def has_news(self, within_s: float = 0.0) -> bool:
        """Whether the command ends or stops within this time."""
        return bool(select.select([self._news], [], [], within_s)[0])

    def stops(self) -> bool:
        """Wait until the command stops itself or ends; return whether it stands still now."""
        what, number = self._news.readline().decode().split()
        self._code, self._has_ended = int(number), what == "ended"
        return not self._has_ended

    def go_on(self) -> None:
        """Let a command go on that stands still."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the command, if it did not end by itself."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> Ran:
        """Wait until the command has ended, and return how."""
        if not self._has_ended:
            assert not self.stops(), "it stopped itself"
        self._news.close()
        out, err = ((self._folder / name).read_text() for name in ("out", "err"))
        shutil.rmtree(self._folder)
        return Ran(self._code, out, err)


class ForkedTruss(Truss):
    def __init__(self, root: Path, *, forks: Forks, hub: Any = None, **env: str) -> None:
        super().__init__(root, hub=hub, **env)
        self.forks = forks

    def cli(  # type: ignore[override]  # no variable is called so
        self, *args: str, dies_at: int = 0, rights: bool = True, **env: str
    ) -> Ran:
        if "LD_PRELOAD" in env:  # what a process is forked from has loaded its libraries already
            assert not dies_at
            return super().cli(*args, **env)
        disk = variables(self.root, f"change=kill@{dies_at}") if dies_at else {}
        env = {**self.env, **disk, **env}
        return checked(self, env, self.forks.start(list(args), self.folder, env, rights=rights).end())

    def fork(self, *args: str, **env: str) -> Forked:
        """Start `truss-cache` in a fork."""
        return self.forks.start(list(args), self.folder, {**self.env, **env})


def calls_of(truss: ForkedTruss, *args: str) -> dict[str, int]:
    """Run `truss-cache`, which must succeed; return how many calls of each kind it made below the folder of `truss`."""
    count = truss.root.with_name(f"{truss.root.name}.count")
    ran = truss.fork(*args, **variables(truss.root, "", count)).end()
    assert ran.code == 0, ran.text
    calls = {name: int(number) for name, number in map(str.split, count.read_text().splitlines())}
    count.unlink()
    return calls


def interleave(one: Forked, other: Callable[[], Forked]) -> tuple[Ran, Ran, bool]:
    """Start the command of `other` when `one` stopped itself; let that go on when `other` has ended, or waits for it.

    Returns:
        How the two ended, and whether `one` stopped.
    """
    was_stopped = one.stops()
    another = other()
    if was_stopped:
        another.has_news(_PATIENCE_S)
        one.go_on()
    return one.end(), another.end(), was_stopped
