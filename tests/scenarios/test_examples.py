"""Every example is parsed and planned, and runs against a stand-in of its store once its credential is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from servers.azurite import ACCOUNT, Azurite
from servers.gcs import Gcs
from servers.hub import Hub, Rights
from servers.s3 import S3Server
from servers.tools import require
from trusses import Truss, tree

from truss_cache_tasks import load_config

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
BUCKET = "example-truss-weights/models/llm"
CONTAINER = "exampletruss/weights"

# Sub-tasks of each dodo.py, and what each entry asks for.
TASKS = {
    "quickstart": {"cache_weights:weights": "file://./weights"},
    "sdxl": {
        f"cache_weights:{SDXL}": f"hf://{SDXL}@main",
        "cache_weights:madebyollin/sdxl-vae-fp16-fix": "hf://madebyollin/sdxl-vae-fp16-fix@main",
    },
    "gated-llama": {
        "cache_weights:meta-llama/Llama-3.2-1B-Instruct": "hf://meta-llama/Llama-3.2-1B-Instruct@main",
    },
    "private-azure": {f"cache_weights:{CONTAINER}/models/llm": f"azure://{CONTAINER}/models/llm"},
    "private-gcs": {f"cache_weights:{BUCKET}": f"gs://{BUCKET}"},
    "private-s3": {f"cache_weights:{BUCKET}": f"s3://{BUCKET}"},
    "hf-cache-alias": {f"cache_weights:{MINILM}": f"hf://{MINILM}@main"},
    "monorepo": {
        f"weights_embed:{MINILM}": f"hf://{MINILM}@main",
        "weights_transcribe:openai/whisper-tiny": "hf://openai/whisper-tiny@main",
    },
}
# What `truss push` does to a config.yaml before it asks anybody; prints the kind of cache, or why it is refused.
PUSH = """
import sys
from pathlib import Path
from truss.base.truss_config import TrussConfig
for path in map(Path, sys.argv[1:]):
    try:
        config = TrussConfig.from_yaml(path)
        config.validate_forbid_extra()
        config.to_dict()
        print("baked" if config.model_cache.is_v1 else "volume" if config.model_cache.is_v2 else "none")
    except ValueError as why:
        print("refused:", " ".join(str(why).split()))
"""
NOT_TO_PUSH = "# Not for `truss push`: "
CREDENTIALS = {
    "private-azure": "data/azure_credentials.json",
    "private-gcs": "data/service_account.json",
    "private-s3": "data/s3_credentials.json",
}


@pytest.fixture
def example(truss: Truss, request: pytest.FixtureRequest) -> Truss:
    """Return a copy of the example that the test names, where its caches and records do not touch the repository."""
    shutil.rmtree(truss.folder)
    shutil.copytree(EXAMPLES / request.param, truss.folder, ignore=shutil.ignore_patterns("cache", "hf", ".doit.db*"))
    del truss.env["TRUSS_MODEL_CACHE_DIR"]
    return truss


def running(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


def test_every_example_is_tried_here() -> None:
    elsewhere = {"webdav-store"}  # in test_installed_store.py, as its package has to be installed
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == {*TASKS, *elsewhere}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_example_has_a_readme_and_a_config_without_warnings(name: Any) -> None:
    assert (EXAMPLES / name / "README.md").is_file()
    configs = sorted((EXAMPLES / name).rglob("config.yaml"))
    assert configs
    for config in configs:
        loaded = load_config(config)
        assert loaded.entries
        assert loaded.warnings == ()


def test_truss_takes_every_example_but_those_that_say_why_not() -> None:
    judge = EXAMPLES.parent / ".venv-truss" / "bin" / "python"
    require(str(judge), "VENV=.venv-truss sh .ci/venv truss==0.18.36")
    configs = sorted(path for name in TASKS for path in (EXAMPLES / name).rglob("config.yaml"))
    done = subprocess.run([judge, "-c", PUSH, *configs], capture_output=True, text=True, timeout=100, check=True)
    said = dict(zip(configs, done.stdout.splitlines(), strict=True))
    for config, answer in said.items():
        assert answer.startswith("refused:") == (NOT_TO_PUSH in config.read_text()), (config, answer)
        volumes = [entry.use_volume for entry in load_config(config).entries]
        assert answer.startswith("refused:") or answer == ("volume" if all(volumes) else "baked"), (config, answer)
    assert sum(NOT_TO_PUSH in config.read_text() for config in configs) == 1


@pytest.mark.parametrize(("example", "tasks"), TASKS.items(), ids=list(TASKS), indirect=["example"])
def test_an_example_is_planned_as_its_readme_says(example: Truss, tasks: dict[str, str]) -> None:
    listed = example.doit("list", "--all")
    assert listed.code == 0, listed.text
    lines = [line.split(maxsplit=1) for line in listed.out.splitlines()]
    assert {name: said for name, said in lines if ":" in name} == tasks


@pytest.mark.parametrize(("name", "credential"), CREDENTIALS.items())
def test_git_ignores_the_real_credential_file_and_not_its_example(name: str, credential: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("cache"))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)

    def ignored(path: str) -> bool:
        return subprocess.run(["git", "check-ignore", "--quiet", path], cwd=folder, check=False).returncode == 0

    assert ignored(credential)
    assert not ignored(f"{credential}.example")
    assert not (EXAMPLES / name / credential).exists() or ignored(credential)
    shape = json.loads((folder / f"{credential}.example").read_text())
    assert shape


def test_the_s3_policy_allows_the_configured_prefix_and_nothing_more() -> None:
    policy = json.loads((EXAMPLES / "private-s3" / "policy.json").read_text())
    bucket, _, prefix = BUCKET.partition("/")
    listing, reading = policy["Statement"]
    assert policy["Version"] == "2012-10-17"
    assert (listing["Effect"], listing["Action"]) == ("Allow", "s3:ListBucket")
    assert listing["Resource"] == f"arn:aws:s3:::{bucket}"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}}
    assert (reading["Effect"], reading["Action"]) == ("Allow", "s3:GetObject")
    assert reading["Resource"] == f"arn:aws:s3:::{bucket}/{prefix}/*"


def test_the_gcs_role_holds_the_two_permissions() -> None:
    role = json.loads((EXAMPLES / "private-gcs" / "role.json").read_text())
    assert role["includedPermissions"] == ["storage.objects.get", "storage.objects.list"]


@running("quickstart")
def test_the_quickstart_fetches_once_and_an_edit_fetches_what_is_new(example: Truss) -> None:
    first = example.doit("cache_weights")
    assert first.code == 0, first.text
    weights = example.folder / "cache" / "weights"
    assert list(tree(weights)) == ["silero_vad_16k.safetensors"]
    assert example.doit("cache_weights").out.splitlines() == ["-- cache_weights:weights", "-- cache_weights"]

    config = example.folder / "config.yaml"
    config.write_text(config.read_text().partition("    allow_patterns")[0])
    assert "allow_patterns: ['*.safetensors'] -> None" in example.doit("cache-why").out
    again = example.doit("cache_weights")
    assert "fetched 1 file" in again.err
    assert list(tree(weights)) == ["LICENSE", "silero_vad_16k.safetensors"]

    assert example.doit("clean", "cache_weights").code == 0
    assert tree(example.folder / "cache") == {}


@running("sdxl")
def test_sdxl_selects_the_half_precision_weights_alone(example: Truss, hub: Hub) -> None:
    wanted = [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    ]
    unwanted = [
        "README.md",
        "sd_xl_base_1.0.safetensors",
        "text_encoder/model.onnx",
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae_1_0/diffusion_pytorch_model.fp16.safetensors",
    ]
    commit = hub.create(SDXL).commit({path: path.encode() for path in wanted + unwanted})
    vae = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"vae", "sdxl.vae.safetensors": b"twin"}
    hub.create("madebyollin/sdxl-vae-fp16-fix").commit(vae)
    ran = example.doit("cache_weights")
    assert ran.code == 0, ran.text
    repo = example.hub_cache / "models--stabilityai--stable-diffusion-xl-base-1.0"
    assert list(tree(repo / "snapshots" / commit)) == wanted
    assert {r.path.partition("/resolve/")[2].partition("/")[2] for r in hub.asked("GET") if "/resolve/" in r.path} == {
        *wanted,
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


@running("gated-llama")
def test_a_gated_repo_needs_the_token_of_its_secret(example: Truss, hub: Hub) -> None:
    hub.tokens["good"] = Rights()
    repo = hub.create("meta-llama/Llama-3.2-1B-Instruct", gated=True)
    commit = repo.commit({"model.safetensors": b"weights", "original/consolidated.00.pth": b"twin"})
    refused = example.doit("cache_weights")
    assert refused.code == 1
    assert "gated" in refused.err
    assert "Traceback" not in refused.text

    (example.secrets / "hf_access_token").write_text("good\n")
    ran = example.doit("cache_weights")
    assert ran.code == 0, ran.text
    snapshot = example.hub_cache / "models--meta-llama--Llama-3.2-1B-Instruct" / "snapshots" / commit
    assert tree(snapshot) == {"model.safetensors": b"weights"}


@running("hf-cache-alias")
def test_hf_cache_fills_the_hub_that_the_config_names(example: Truss, hub: Hub) -> None:
    files = {"config.json": b"{}", "1_Pooling/config.json": b"{}", "model.safetensors": b"weights"}
    hub.create(MINILM).commit({**files, "pytorch_model.bin": b"twin", "onnx/model.onnx": b"twin"})
    ran = example.doit("cache_weights")
    assert ran.code == 0, ran.text
    repo = example.folder / "hf" / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    (snapshot,) = (repo / "snapshots").iterdir()
    assert tree(snapshot) == files


@running("monorepo")
def test_a_broken_truss_of_the_monorepo_leaves_the_other_alone(example: Truss, hub: Hub) -> None:
    commit = hub.create(MINILM).commit({"config.json": b"{}", "model.safetensors": b"embeds"})
    hub.create("openai/whisper-tiny").commit({"config.json": b"{}", "model.safetensors": b"hears"})
    ran = example.doit("-n", "4", "-P", "thread")
    assert ran.code == 0, ran.text
    assert (example.folder / "cache" / "whisper" / "model.safetensors").read_bytes() == b"hears"
    assert commit in example.doit("report").out

    (example.folder / "transcribe" / "config.yaml").write_text("model_cache: words\n")
    assert example.doit("list").code == 0
    assert example.doit("weights_embed").code == 0
    broken = example.doit("weights_transcribe")
    assert broken.code == 1
    assert "config.yaml:1: model_cache" in broken.text


def put_credential(example: Truss, name: str, value: Any) -> None:
    (example.folder / CREDENTIALS[name]).write_text(json.dumps(value))


@running("private-s3")
def test_private_s3_runs_with_the_key_in_its_file(example: Truss, seaweed: S3Server) -> None:
    bucket, _, prefix = BUCKET.partition("/")
    admin = seaweed.client("admin")
    admin.create_bucket(Bucket=bucket)
    for name in ("config.json", "model.safetensors", "notes.md"):
        admin.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=name.encode())
    put_credential(example, "private-s3", {**seaweed.identities["ro"].fields(), "aws_secret_access_key": "wrong"})
    refused = example.doit("cache_weights", AWS_ENDPOINT_URL_S3=seaweed.url)
    assert refused.code == 1
    assert "data/s3_credentials.json" in refused.err

    put_credential(example, "private-s3", seaweed.identities["ro"].fields())
    ran = example.doit("cache_weights", AWS_ENDPOINT_URL_S3=seaweed.url)
    assert ran.code == 0, ran.text
    assert list(tree(example.folder / "cache" / BUCKET)) == ["config.json", "model.safetensors"]


@running("private-gcs")
def test_private_gcs_runs_with_the_key_in_its_file(example: Truss, gcs: Gcs) -> None:
    bucket, _, prefix = BUCKET.partition("/")
    gcs.bucket(bucket)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        gcs.put(bucket, f"{prefix}/{name}", name.encode())
    put_credential(example, "private-gcs", gcs.service_account())
    ran = example.doit("cache_weights", **gcs.env)
    assert ran.code == 0, ran.text
    assert list(tree(example.folder / "cache" / BUCKET)) == ["config.json", "model.safetensors"]


@running("private-azure")
def test_private_azure_runs_with_the_sas_in_its_file(example: Truss, azure: Azurite) -> None:
    container = azure.container()
    for name in ("config.json", "model.safetensors", "pytorch_model.bin"):
        azure.put(container, f"models/llm/{name}", name.encode())
    config = example.folder / "config.yaml"
    config.write_text(config.read_text().replace(CONTAINER, f"{ACCOUNT}/{container}"))
    put_credential(example, "private-azure", {"sas_token": azure.sas(container)})
    ran = example.doit("cache_weights", **azure.env)
    assert ran.code == 0, ran.text
    assert list(tree(example.folder / "cache" / "llm")) == ["config.json", "model.safetensors"]


@running("hf-cache-alias")
def test_the_redeploy_of_the_docs_brings_the_main_that_moved(example: Truss, hub: Hub) -> None:
    repo = hub.create(MINILM)
    first = repo.commit({"config.json": b"{}", "model.safetensors": b"the first"})
    assert example.doit("cache_weights").code == 0
    second = repo.commit({"model.safetensors": b"the second"})
    asked = len(hub.requests)
    assert example.doit("cache_weights").code == 0
    assert example.doit("cache-why", "--check").code == 0
    assert len(hub.requests) == asked  # pinned, on purpose

    assert example.doit("clean", "cache_weights").code == 0
    assert example.doit("cache-why", "--check").code == 1
    ran = example.doit("cache_weights")
    assert ran.code == 0, ran.text
    folder = example.folder / "hf" / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    assert (folder / "refs" / "main").read_text() == second
    assert (folder / "snapshots" / second / "model.safetensors").read_bytes() == b"the second"
    assert not (folder / "snapshots" / first).exists()
    assert example.doit("cache-why", "--check").code == 0

    third = repo.commit({"model.safetensors": b"the third"})
    again = example.doit("run", "-a", "cache_weights")
    assert "fetched 1 file" in again.err, again.text  # config.json is in both commits
    assert (folder / "refs" / "main").read_text() == third


def runs(page: Path) -> list[tuple[str, list[str]]]:
    """Return each `doit` command line of a page's captured runs, with the lines that the page shows below it."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^ *```console\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in textwrap.dedent(block).splitlines():
            if line.startswith("$ "):
                found.append((line.rpartition("doit ")[2], []))
            else:
                found[-1][1].append(line)
    return found


def timeless(lines: Iterable[str]) -> list[str]:
    """Return the lines, sorted, without times and rates, and without the folder that holds the example."""
    lines = (re.sub(r"in [\d.]+ s, [\d.]+ .?B/s", "in T s", line) for line in lines)
    return sorted(re.sub(r": in /.*/cache/", ": in cache/", line) for line in lines)


@running("quickstart")
@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/first-run.md"])
def test_a_captured_run_is_what_the_quickstart_prints(example: Truss, page: str) -> None:
    (dodo,) = blocks("README.md")
    example.dodo(dodo)
    config = example.folder / "config.yaml"
    captured = runs(ROOT / page)
    assert len(captured) >= 3
    for command, shown in captured:
        if command == "cache-why":
            config.write_text(re.sub(r"    allow_patterns:\n .*\n", "", config.read_text()))
        ran = example.doit(*command.split())
        assert ran.code == 0, ran.text
        assert timeless(ran.text.splitlines()) == timeless(shown)


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@running("quickstart")
def test_the_dependent_task_of_the_docs_runs_exactly_when_the_weights_changed(example: Truss, hub: Hub) -> None:
    repo = hub.create("org/name")
    repo.commit({"model.safetensors": b"the first"})
    example.config("model_cache:\n  - repo_id: org/name\n")
    example.dodo(blocks("docs/how-to/dependent-tasks.md")[0])
    first = example.doit("report")
    assert first.out.splitlines()[0] == ".  cache_weights:org/name", first.text
    assert ".  report" in first.out
    assert "-- report" in example.doit("report").out

    repo.commit({"model.safetensors": b"the second"})
    assert "-- report" in example.doit("report").out
    assert example.doit("run", "-a", "cache_weights").code == 0
    assert ".  report" in example.doit("report").out


@running("quickstart")
def test_the_program_of_the_docs_fetches_and_says_what_it_did(example: Truss) -> None:
    shutil.copytree(example.folder, example.folder / "my-truss", ignore=shutil.ignore_patterns("my-truss"))
    (program,) = blocks("docs/how-to/python.md")
    ran = example.python(program)
    assert (ran.code, ran.err) == (0, ""), ran.text
    assert ran.out.splitlines()[0] == "weights: 1 files, 1239748 bytes to fetch"
    assert ran.out.splitlines()[1] == f"weights fetched {example.folder / 'cache' / 'weights'}"


@running("quickstart")
def test_the_recipe_for_a_build_server_runs_as_it_is_written(example: Truss) -> None:
    shutil.copytree(example.folder, example.folder / "my-truss", ignore=shutil.ignore_patterns("my-truss"))
    page = (ROOT / "docs" / "how-to" / "build-server.md").read_text()
    recipe, _ = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ran = example.run(["sh", "-euc", recipe])
    assert ran.code == 0, ran.text
    assert ran.out == "weights: fresh\n"
    assert tree(example.folder / "cache" / "model_cache") == {
        "weights/silero_vad_16k.safetensors": (EXAMPLES / "quickstart/weights/silero_vad_16k.safetensors").read_bytes()
    }
    again = example.run(["sh", "-euc", recipe])
    assert again.err == "1 entry fresh, nothing to do\n"
