"""`truss-cache` in a process of its own for each command, forked from one that has everything imported: 20 ms each.

truss = ForkedTruss(tmp_path, forks=forks, hub=hub)     # its `cli` is forked; `doit` and `start` are as ever
truss.cli("clean", dies_at=7)                           # SIGKILL at the 7th change that it makes to the disk
truss.cli(rights=False)                                 # of a user whom a file of mode 0 refuses
forks = Forks(odd_disk.build(folder))                   # its commands obey the variables of odd_disk
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import rights
from servers.tools import die_with_parent
from trusses import Ran, Truss

_SERVER = """
import ctypes, json, os, signal, sys
import rights
import awscrt.checksums, boto3, botocore.auth, botocore.config, google.cloud.storage, google.oauth2.service_account
import concurrent.futures, http.client, huggingface_hub.hf_api, urllib3, xxhash, yaml
from truss_cache_tasks.app import cli

CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.truncate"}

def die_at(number):
    left = number
    def hook(event, arguments):
        nonlocal left
        makes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if event in CHANGES or makes:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def live(ask):
    os.chdir(ask["cwd"])
    os.environ.clear()
    os.environ.update(ask["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (1, 2):
        os.dup2(os.open(ask["said"][number - 1], os.O_WRONLY), number)
    if not ask["rights"]:
        rights.give_up_rights()
    if ask["dies_at"]:
        die_at(ask["dies_at"])
    is_odd = "ODD_DISK_RULES" in os.environ
    if is_odd:
        ctypes.CDLL(None).odd_disk_arm()
    status = cli.main(ask["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    if is_odd:
        ctypes.CDLL(None).odd_disk_report()
    os._exit(status)

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            live(json.loads(line))
        finally:
            os._exit(99)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """The process that is forked; one command at a time."""

    def __init__(self, preload: Path | None = None) -> None:
        """Start it.

        Args:
            preload: the library of odd_disk.
        """
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name, name) for name in ("out", "err")]
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(rights.__file__).parent),
                **({} if preload is None else {"LD_PRELOAD": str(preload)}),
            },
            preexec_fn=die_with_parent,  # noqa: PLW1509 - it makes one system call, and takes no lock
        )

    def run(self, argv: list[str], cwd: Path, env: dict[str, str], dies_at: int = 0, *, rights: bool = True) -> Ran:
        """Run `truss-cache` with these arguments, and return how it ended."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        for path in self._said:
            path.write_text("")
        ask: dict[str, Any] = {"argv": argv, "cwd": str(cwd), "env": env, "dies_at": dies_at, "rights": rights}
        self._server.stdin.write(json.dumps({**ask, "said": [str(path) for path in self._said]}) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        out, err = (path.read_text() for path in self._said)
        return Ran(code, out, err)

    def end(self) -> None:
        """End the process."""
        self._server.communicate()
        self._folder.cleanup()


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
        return self.forks.run(list(args), self.folder, {**self.env, **env}, dies_at, rights=rights)
