"""Libraries that tests preload into a command: C of this folder, compiled where it is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from servers.tools import require


def build(name: str, folder: Path) -> Path:
    """Compile `tests/{name}.c` and return the library, in `folder`. Without Linux or a compiler: skip, as `require`."""
    if sys.platform != "linux":
        pytest.skip("LD_PRELOAD of Linux")
    library, source = folder / f"{name}.so", Path(__file__).with_name(f"{name}.c")
    compiler = require("gcc", "apt-get install gcc libc6-dev")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library
