"""All generations of Truss's config: what Truss 0.18.36 accepts is accepted here, and what differs is in the docs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.tools import require

from truss_cache_tasks import Config, load_config
from truss_cache_tasks.errors import ConfigError

pytestmark = pytest.mark.slow  # starts a process

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reference" / "config.md"
TRUSSES = sorted((HERE / "trusses").glob("*.yaml"))
CASES: list[dict[str, str]] = yaml.safe_load((HERE / "generations.yaml").read_text())
# Of the configs of real Trusses, those that both refuse, and ours alone accepts.
REFUSED = {"natural-sql-7b@2bc92238a", "truss-caching@006a4cfe8"}
OLD = {"deepspeed-mii@d0c68169f", "stable-diffusion-xl-1.0@596fe03f3", "pygmalion-6b@041199480", "binocular",
       "metavoice-1b", "truss-caching-revision@975d2e6d6"}  # fmt: skip

# What `truss push` does to each config before it asks anybody. Prints a JSON line: what it read, or why it refuses.
JUDGE = """
import json, logging, sys, warnings
from pathlib import Path
from truss.base.truss_config import TrussConfig
logging.disable()
warnings.simplefilter("ignore")
for path in map(Path, sys.argv[1:]):
    try:
        config = TrussConfig.from_yaml(path)
        config.validate_forbid_extra()
        config.model_cache.is_v1  # refuses entries that disagree
        read = {name: getattr(config, name).model_dump(mode="json") for name in ("model_cache", "weights")}
        print(json.dumps(read))
    except Exception as why:  # also AttributeError
        print(json.dumps({"refused": " ".join(f"{type(why).__name__}: {why}".split())}))
"""


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Truss says of each real config, by its name, and of each case, by its number."""
    judge = ROOT / ".venv-truss" / "bin" / "python"
    require(str(judge), "VENV=.venv-truss sh .ci/venv truss==0.18.36")
    folder = tmp_path_factory.mktemp("cases")
    for number, case in enumerate(CASES):
        (folder / f"{number}.yaml").write_text(case["config"])
    paths = [*TRUSSES, *(folder / f"{number}.yaml" for number in range(len(CASES)))]
    done = subprocess.run([judge, "-c", JUDGE, *paths], capture_output=True, text=True, timeout=100, check=True)
    lines = done.stdout.splitlines()
    return {path.stem: json.loads(line) for path, line in zip(paths, lines, strict=True)}


def load(path: Path) -> Config | None:
    try:
        return load_config(path)
    except ConfigError:
        return None


def as_truss_reads(config: Config) -> dict[str, Any]:
    """Return our entries with the names and defaults of Truss's own classes, as far as both have them."""
    models = [
        {
            "repo_id": entry.repo_id,
            "revision": entry.revision,
            "use_volume": entry.use_volume,
            "volume_folder": entry.volume_folder,
            "runtime_secret_name": entry.runtime_secret_name,
            **patterns_of(entry),
        }
        for entry in config.entries
        if entry.mount_location is None
    ]
    weights = [
        {
            "source": entry.repo_id,
            "mount_location": entry.mount_location,
            "secret": entry.runtime_secret_name if entry.secret_is_named else None,
            "role": (entry.role.method, entry.role.account, entry.role.scope) if entry.role else None,
            **patterns_of(entry),
        }
        for entry in config.entries
        if entry.mount_location is not None
    ]
    return {"model_cache": models, "weights": weights}


def patterns_of(entry: Any) -> dict[str, Any]:
    lists = {"allow_patterns": entry.allow_patterns, "ignore_patterns": entry.ignore_patterns}
    return {name: None if patterns is None else list(patterns) for name, patterns in lists.items()}


def comparable(read: dict[str, Any]) -> dict[str, Any]:
    """Return what Truss read in the same form."""
    models = [
        {
            **{k: v for k, v in model.items() if k != "kind"},
            "revision": model["revision"] or "main" * ("://" not in model["repo_id"]),
        }
        for model in read["model_cache"]
    ]
    weights = []
    for source in read["weights"]:
        auth = {name: value for name, value in (source["auth"] or {}).items() if value}
        method = auth.pop("auth_method", None)
        inner = auth.pop("auth_secret_name", None)
        secret = inner if method == "CUSTOM_SECRET" else None if method else source["auth_secret_name"]
        role = (method, *auth.values()) if method not in (None, "CUSTOM_SECRET") else None
        known = ("source", "mount_location", "allow_patterns", "ignore_patterns")
        weights.append({**{name: source[name] for name in known}, "secret": secret, "role": role})
    return {"model_cache": models, "weights": weights}


@pytest.mark.parametrize("path", TRUSSES, ids=lambda path: path.stem)
def test_a_real_config_that_truss_accepts_is_read_as_truss_reads_it(path: Path, verdicts: dict[str, Any]) -> None:
    truss, ours = verdicts[path.stem], load(path)
    assert ("refused" in truss) == (path.stem in REFUSED | OLD)
    assert (ours is None) == (path.stem in REFUSED)
    if ours is not None and "refused" not in truss:
        assert as_truss_reads(ours) == comparable(truss)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[re.sub(r"\W+", "-", case["what"]) for case in CASES])
def test_truss_and_this_plugin_decide_as_the_docs_say(number: int, verdicts: dict[str, Any], tmp_path: Path) -> None:
    case, truss = CASES[number], verdicts[str(number)]
    path = tmp_path / "config.yaml"
    path.write_text(case["config"])
    ours = load(path)
    assert ("refuses" if "refused" in truss else "accepts") == case["truss"], truss
    assert ("refuses" if ours is None else "accepts") == case["ours"]
    if ours is not None and "refused" not in truss:
        assert as_truss_reads(ours) == comparable(truss)


def test_the_docs_list_exactly_what_differs() -> None:
    heads = {
        "accepts": "## What Truss accepts and this plugin refuses",
        "refuses": "## What Truss refuses and this plugin",
    }
    for verdict, head in heads.items():
        section = PAGE.read_text().partition(head)[2].partition("\n## ")[0]
        listed = re.findall(r"^\| ([^|`-][^|]*?) \|", section.replace("`", ""), re.MULTILINE)[1:]
        differing = [case["what"] for case in CASES if case["truss"] == verdict != case["ours"]]
        assert listed == list(dict.fromkeys(differing))


def test_a_name_of_the_file_that_truss_does_not_read_is_read(tmp_path: Path) -> None:
    shutil.copy(HERE / "trusses" / "glm5.yaml", tmp_path / "config.yml")
    assert [entry.repo_id for entry in load_config(tmp_path).entries] == ["hf://zai-org/GLM-5-FP8@main"]
    shutil.copy(HERE / "trusses" / "glm5.yaml", tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"config.yml"):
        load_config(tmp_path)
