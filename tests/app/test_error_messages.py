"""Each error of docs/reference/errors.yaml, as truss-cache prints it: a cause, what was found, and one remedy."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import Cli, cli
from machine_fixtures import small_disk
from odd_disk import odd_disk
from servers.hub import Hub
from servers.s3_script import Reply, error, scripted_s3
from trusses import Truss, written_secrets

from app.error_states import STATES, prepared_hub

__all__ = ["cli", "odd_disk", "small_disk"]

pytestmark = pytest.mark.slow
FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGE = FOLDER / "errors.yaml"
GROUPS = yaml.safe_load(PAGE.read_text())
VARYING = {
    r"127\.0\.0\.1:\d{4,5}": "{host}",
    r"127\.0\.0\.1_\d{4,5}": "{folder}",
    r"errors-[0-9a-f]{8}": "bucket",
    r"errors/(?:[0-9a-f]{32}|m)": "m",
    r"[\d,]+( are free| with blocks)": r"{bytes}\1",
}
CASES = [case for group in GROUPS for case in group["cases"]]


@pytest.fixture
def repos(hub: Hub) -> None:
    prepared_hub(hub)


def replaced(text: str, places: dict[str, str]) -> str:
    """Return the text with the value of each place that it names."""
    for place, value in places.items():
        text = text.replace(place, value)
    return text


def printed(case: dict[str, Any], truss: Truss, cli: Cli, given: dict[str, str]) -> tuple[int, str]:
    """Return the exit status and all that the command of a case prints, with names in place of what varies."""
    for name, text in case.get("files", {}).items():
        (truss.root / name).parent.mkdir(parents=True, exist_ok=True)
        (truss.root / name).write_text(text)
    for name, target in case.get("links", {}).items():
        (truss.root / name).parent.mkdir(parents=True, exist_ok=True)
        (truss.root / name).symlink_to(target)
    if "config" in case:
        (truss.folder / "config.yaml").write_text(replaced(case["config"], {"{web}": given.get("WEB", "")}))
    replies = [
        Reply(str(reply.get("to", "")), error(reply["code"], reply["message"]), reply["status"])
        for reply in case.get("replies", ())
    ]
    with scripted_s3(replies) as server:
        places = {"{root}": str(truss.root), "{server}": server.url, "{web}": given.get("WEB", "")}
        places["{hub}"] = truss.env["HF_ENDPOINT"]
        env = {name: replaced(text, places) for name, text in case.get("env", {}).items()}
        done = (truss.cli if case.get("child") else cli)(*case.get("args", ()), **given, **env)
    shown = done.text.replace(str(truss.root), "{root}").replace(truss.env["HF_ENDPOINT"], "{hub}")
    if "WEB" in given:
        shown = shown.replace(given["WEB"], "{web}")
    for pattern, name in VARYING.items():
        shown = re.sub(pattern, name, shown)
    return done.code, shown


@pytest.mark.parametrize("case", CASES, ids=[case["title"] for case in CASES])
@pytest.mark.usefixtures("repos")
def test_an_error_says_its_cause_and_one_remedy_and_no_secret(
    case: dict[str, Any], truss: Truss, cli: Cli, request: pytest.FixtureRequest
) -> None:
    given = STATES[case["given"]](request, truss) if "given" in case else {}
    code, text = printed(case, truss, cli, given)
    assert (code, text) == (case["exit"], case["output"])
    assert text.count("hint: ") <= 1
    assert not re.search("sekrit|AKIASECRET", text)


def test_the_page_of_errors_is_made_of_the_same_cases() -> None:
    made = runpy.run_path(str(FOLDER / "make_errors.py"))
    assert made["page"]() == (FOLDER / "errors.md").read_text(), "doit docs"
    assert len(CASES) >= 40


def test_a_secret_that_a_command_prints_or_writes_fails_its_test(truss: Truss) -> None:
    (truss.secrets / "hf_access_token").write_text("hf_sekrit_of_mine")
    with pytest.raises(AssertionError, match="a secret was printed"):
        truss.python("print('Bearer hf_sekrit_of_mine')")
    with pytest.raises(AssertionError, match="a secret was printed"):
        truss.start(["echo", "hf_sekrit_of_mine"]).communicate()
    record = truss.hub_cache / ".truss_cache" / "record.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"token": "hf_sekrit_of_mine"}')
    assert written_secrets(truss) == ["hf/hub/.truss_cache/record.json: hf_sekrit_of_mine"]
    record.unlink()
