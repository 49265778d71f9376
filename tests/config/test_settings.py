"""The environment: our own variables, and where huggingface_hub keeps its cache."""

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import truss_cache_tasks
from truss_cache_tasks.config.settings import VARIABLES, read_settings
from truss_cache_tasks.errors import ConfigError

HERE = Path("/here")


def test_nothing_set_is_all_defaults() -> None:
    settings = read_settings({}, HERE)
    assert settings.secrets_dirs == (Path("/secrets"), Path("/etc/secrets"))
    assert (settings.config, settings.model_cache_dir, settings.mount_root, settings.project) == (None,) * 4
    assert (settings.connections, settings.max_rate) == (None,) * 2
    assert (settings.offline, settings.debug, settings.replace, settings.follow_links) == (False,) * 4
    assert settings.accept_unverified is False


def test_every_variable_is_read() -> None:
    env = {
        "TRUSS_CONFIG": "sd",
        "TRUSS_MODEL_CACHE_DIR": "cache/",
        "TRUSS_MOUNT_ROOT": "/mnt/../m",
        "TRUSS_SECRETS_DIR": "~/secrets",
        "HOME": "/home/me",
        "TRUSS_CACHE_PROJECT": "my-project.1",
        "TRUSS_CACHE_CONNECTIONS": "256",
        "TRUSS_CACHE_MAX_RATE": "1.5M",
        "TRUSS_CACHE_MAX_BYTES": "1.5T",
        "TRUSS_CACHE_REPLACE": "1",
        "TRUSS_CACHE_ACCEPT_UNVERIFIED": "1",
        "TRUSS_CACHE_FOLLOW_LINKS": "yes",
        "TRUSS_CACHE_DIGESTS": "https://h/w?a=b=sha256:00\n https://h/v=sha256:11",
        "TRUSS_CACHE_LOCKED": "on",
        "TRUSS_CACHE_R2_ENDPOINT": "https://{account_id}.eu.r2.cloudflarestorage.com/",
        "TRUSS_CACHE_HF_ENDPOINTS": "https://a.example/hub/, http://b:8090,https://a.example/hub",
        "TRUSS_CACHE_XET": "0",
        "TRUSS_CACHE_EVENTS": "events.jsonl",
        "TRUSS_CACHE_DEBUG": "1",
    }
    settings = read_settings(env, HERE)
    assert settings.config == "sd"
    assert settings.model_cache_dir == Path("/here/cache")
    assert settings.hub_mirrors == settings.network.hub_mirrors == ("https://a.example/hub", "http://b:8090")
    assert settings.mount_root == Path("/m")
    assert settings.secrets_dirs == (Path("/home/me/secrets"), Path("/etc/secrets"))
    assert (settings.project, settings.debug) == ("my-project.1", True)
    assert (settings.connections, settings.max_rate) == (256, 1_500_000)
    assert settings.max_bytes == 1_500_000_000_000
    assert settings.digests == (("https://h/w?a=b", "sha256:00"), ("https://h/v", "sha256:11"))
    assert (settings.replace, settings.accept_unverified, settings.follow_links) == (True, True, True)
    assert settings.locked
    assert settings.events == Path("/here/events.jsonl")
    assert settings.network.variable("TRUSS_CACHE_R2_ENDPOINT") == env["TRUSS_CACHE_R2_ENDPOINT"]
    assert {variable.name for variable in VARIABLES} == {name for name in env if name.startswith("TRUSS_")}


def test_an_empty_variable_of_ours_counts_as_not_set() -> None:
    assert read_settings({variable.name: "" for variable in VARIABLES}, HERE) == read_settings({}, HERE).__class__(
        cwd=HERE, environment={variable.name: "" for variable in VARIABLES}
    )


@pytest.mark.parametrize(
    ("text", "rate"), [("1", 1), ("500K", 500_000), ("50m", 50_000_000), ("2G", 2_000_000_000), ("0.5K", 500)]
)
def test_a_rate_is_bytes_a_second_with_suffixes_of_1000(text: str, rate: int) -> None:
    assert read_settings({"TRUSS_CACHE_MAX_RATE": text}, HERE).max_rate == rate


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        *[("TRUSS_CACHE_CONNECTIONS", value, "1 to 256") for value in ("0", "257", "-1", "x", "1.5", "1_0", " 5", "٣")],
        *[("TRUSS_CACHE_MAX_RATE", value, "K, M or G") for value in ("0", "-5", "fast", "5T", "5KB", "1 M", "nan")],
        *[("TRUSS_CACHE_LOCKED", value, "1 or 0") for value in ("2", "maybe")],
        *[("TRUSS_CACHE_DEBUG", value, "1 or 0") for value in ("2", "maybe")],
        *[("TRUSS_CACHE_REPLACE", value, "1 or 0") for value in ("2", "force")],
        *[("TRUSS_CACHE_ACCEPT_UNVERIFIED", value, "1 or 0") for value in ("2", "md5")],
        *[("TRUSS_CACHE_FOLLOW_LINKS", value, "1 or 0") for value in ("2", "all")],
        *[
            ("TRUSS_CACHE_R2_ENDPOINT", value, "https://HOST")
            for value in (
                "r2.test",
                "ftp://r2.test",
                "https://",
                "https://r2.test/bucket",
                "https://r2.test?a=b",
                "https://r2.test#a",
                "https://{account}.r2.test",
                "https://r2.test:x",
                "https://r 2.test",
            )
        ],
        ("TRUSS_CACHE_XET", "1", "0: files that the Hub keeps in Xet come by their resolve URLs"),
        *[("TRUSS_CACHE_PROJECT", value, "letters") for value in ("a/b", "..", "a b", "x" * 101)],
    ],
)
def test_a_bad_value_names_its_variable_and_what_it_may_hold(name: Any, value: Any, want: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({name: value}, HERE)
    assert str(caught.value).startswith(f"{name}: got {value!r}, expected ")
    assert want in str(caught.value)
    assert name in (caught.value.hint or "")


def test_a_password_in_the_url_of_a_bad_value_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        read_settings({"TRUSS_CACHE_R2_ENDPOINT": "https://user:hunter2/@r2.test/"}, HERE)
    assert str(caught.value).startswith("TRUSS_CACHE_R2_ENDPOINT: got 'https://***@r2.test/', expected https://HOST")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000", "https://[::1]:9000/", "https://account_id.r2.test", "https://{account_id}.us.r2"]
)
def test_an_endpoint_is_the_url_of_a_server(url: str) -> None:
    assert read_settings({"TRUSS_CACHE_R2_ENDPOINT": url}, HERE).network.variable("TRUSS_CACHE_R2_ENDPOINT") == url


@pytest.mark.parametrize(
    ("env", "offline"),
    [({"HF_HUB_OFFLINE": "1"}, True), ({"HF_HUB_OFFLINE": "on"}, True), ({"HF_HUB_OFFLINE": "0"}, False),
     ({"TRANSFORMERS_OFFLINE": "TRUE"}, True), ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "1"}, False),
     ({"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"}, True)],
)  # fmt: skip
def test_offline_is_what_huggingface_hub_takes_for_it(env: dict[str, Any], offline: bool) -> None:
    assert read_settings(env, HERE).offline is offline


ENVIRONMENTS: list[dict[str, str]] = [
    {},
    {"HOME": "/h"},
    {"HOME": ""},
    {"HOME": "/"},
    {"HOME": "/h/"},
    {"HF_HUB_CACHE": "/a", "HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c", "XDG_CACHE_HOME": "/d"},
    {"HUGGINGFACE_HUB_CACHE": "/b", "HF_HOME": "/c", "XDG_CACHE_HOME": "/d"},
    {"HF_HOME": "/c", "XDG_CACHE_HOME": "/d"},
    {"XDG_CACHE_HOME": "/d"},
    {"HF_HOME": "~/x/$WHO/${WHO}/$NOBODY/$", "WHO": "me", "HOME": "/h"},
    {"HUGGINGFACE_HUB_CACHE": "~/$WHO", "WHO": "$HOME", "HOME": "/h"},
    {"HF_HOME": "$WHO", "WHO": "~/x", "HOME": "/h"},
    {"HF_HOME": f"~{pwd.getpwuid(0).pw_name}/x"},
    {"HF_HOME": "~nobody-of-that-name/x"},
    {"HF_HUB_CACHE": ""},
    {"HUGGINGFACE_HUB_CACHE": "", "HF_HOME": "/c"},
    {"HF_HOME": "", "XDG_CACHE_HOME": "/d"},
    {"XDG_CACHE_HOME": ""},
    {"HF_HUB_CACHE": "relative/hub"},
    {"HF_TOKEN_PATH": "~/t", "HOME": "/h"},
    {"HF_TOKEN_PATH": ""},
]


@pytest.fixture(scope="module")
def theirs() -> list[tuple[str, str]]:
    """What huggingface_hub's own constants say in each environment, in one child process."""
    script = f"""
import importlib.util, json, os, sys
path = importlib.util.find_spec('huggingface_hub').submodule_search_locations[0] + '/constants.py'
for env in {ENVIRONMENTS!r}:
    os.environ.clear()
    os.environ.update(env)
    spec = importlib.util.spec_from_file_location('constants', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(json.dumps([module.HF_HUB_CACHE, module.HF_TOKEN_PATH]))
"""
    import json

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("number", range(len(ENVIRONMENTS)))
@pytest.mark.slow
def test_the_hub_cache_is_where_huggingface_hub_has_it(number: int, theirs: list[tuple[str, str]]) -> None:
    settings = read_settings(ENVIRONMENTS[number], HERE)
    hub, token = theirs[number]
    assert settings.hub_cache() == Path(os.path.normpath(HERE / hub))
    assert settings.token_file() == Path(os.path.normpath(HERE / token))


def test_hub_variables_of_the_config_stand_alone_where_it_sets_any() -> None:
    process = {"HF_HUB_CACHE": "/process", "HF_TOKEN_PATH": "/token", "HOME": "/h"}
    settings = read_settings(process, HERE)
    assert settings.hub_cache((("HF_HOME", "/config"),)) == Path("/config/hub")
    assert settings.hub_cache((("HF_HOME", "~/$HOME"), ("HUGGINGFACE_HUB_CACHE", "/c"))) == Path("/c")
    assert settings.hub_cache((("XDG_CACHE_HOME", "~/x"),)) == Path("/h/x/huggingface/hub")
    assert settings.hub_cache(()) == Path("/process")
    assert settings.token_file() == Path("/token")


def test_settings_do_not_print_the_environment() -> None:
    assert "hunter2" not in repr(read_settings({"HF_TOKEN": "hunter2"}, HERE))


@pytest.mark.slow
def test_importing_the_package_and_reading_a_config_loads_no_sdk(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model_cache: [{repo_id: a/b}]")
    script = """
import sys
from truss_cache_tasks import load_config
import truss_cache_tasks.config.credentials
load_config(sys.argv[1])
print([name for name in sys.modules if name.partition('.')[0] in
       ('huggingface_hub', 'boto3', 'botocore', 'google', 'doit', 'rich', 'urllib3', 'awscrt')])
"""
    run = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_environment_is_read_in_one_module_and_written_in_one() -> None:
    package = Path(truss_cache_tasks.__file__).parent
    named = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if "os.environ" in path.read_text()}
    # settings.py speaks of it; the front ends hand it to read_settings; session.py has its reason beside it; the reads
    # of SourceContract reach servers as a front end would
    assert named == {
        "config/settings.py",
        "app/workspace.py",
        "app/output.py",
        "app/display/display.py",
        "sources/huggingface/session.py",
        "sources/testing.py",
    }
