"""The repository keeps its word: README, docs and CI say what is so."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib.metadata
import json
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from truss_cache_tasks import load_config
from truss_cache_tasks.app.commands.table import COMMANDS
from truss_cache_tasks.config.settings import VARIABLES, read_settings
from truss_cache_tasks.events import Committed, Retrying
from truss_cache_tasks.model import lockfile
from truss_cache_tasks.model.keys import canonical
from truss_cache_tasks.model.lockfile_text import parse, to_text
from truss_cache_tasks.model.records import FORMAT, Claims, Maker, Pin, Project
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.operations.run_record import RunRecord
from truss_cache_tasks.store.files import names as store_names
from truss_cache_tasks.store.files.locks import FileLock
from truss_cache_tasks.store.files.tree import FileTree
from truss_cache_tasks.store.layouts.flat_layout import flat_root
from truss_cache_tasks.store.layouts.hub_layout import hub_root
from truss_cache_tasks.store.records.claims import read_claims, read_pins, write_claims
from truss_cache_tasks.store.records.fetch_notes import note_fetch
from truss_cache_tasks.store.records.history import new_line
from truss_cache_tasks.store.records.known_roots import remember_roots
from truss_cache_tasks.store.records.manifest import from_json, to_json

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ON_DISK = (ROOT / "docs" / "on-disk-format.md").read_text()
SCRIPTS = ("azurite", "release", "lowest", "newest")
QUICKSTART, TESTS = re.findall(r"^```sh\n(sh \.ci/venv[^\n]*)\n```", README, re.MULTILINE)
PAGES = sorted(path for path in ROOT.rglob("*.md") if not path.relative_to(ROOT).parts[0].startswith("."))
NOT_PAGES = ("docs/letter.txt", "docs/a.b")  # files of made-up repos
KEYS = re.findall(r"```yaml\n(.*?)```\n\n```json\n(.*?)\n```\n\n`([0-9a-f]{64})`", ON_DISK, re.DOTALL)


def git(repository: Path, *args: str) -> str:
    return subprocess.run(["git", *args], cwd=repository, capture_output=True, text=True, check=True).stdout


def tracked() -> list[Path]:
    listed = git(ROOT, "ls-files", "-z")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def links_leading_out(repository: Path) -> list[str]:
    """Return the committed symlinks that are absolute or lead out of the repository, itself or through another link."""
    out = []
    for entry in filter(None, git(repository, "ls-files", "-s", "-z").split("\0")):
        (mode, blob, _), name = entry.partition("\t")[0].split(), entry.partition("\t")[2]
        if mode == "120000":
            target = git(repository, "cat-file", "blob", blob)
            inside = (repository / name).parent.joinpath(target).resolve().is_relative_to(repository.resolve())
            if target.startswith("/") or not inside:
                out.append(name)
    return out


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def records(kind: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(rf"```json {kind}\n(.*?)```", ON_DISK, re.DOTALL)]


def test_ci_runs_the_readmes_test_command() -> None:
    steps = re.findall(r'^step "(.*?)"(?: #.*)?$', (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert TESTS in steps
    linters = ["ruff check .", "ruff format --check .", "mypy", "mypy tests", "lint-imports"]
    for linter in linters:
        assert f".venv/bin/{linter}" in steps
    for script in SCRIPTS:
        assert [step for step in steps if f"sh .ci/{script} " in f"{step} "], script


def test_the_readmes_first_command_is_the_quickstart() -> None:
    assert QUICKSTART == "sh .ci/venv && .venv/bin/doit cache_weights"
    assert 'cache_tasks("examples/quickstart"' in (ROOT / "dodo.py").read_text()


def test_what_the_package_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    declared = {re.split(r"[\[>=<]", line)[0].lower().replace("_", "-") for line in lines}
    homes = importlib.metadata.packages_distributions()
    shipped_tests = ROOT / "truss_cache_tasks" / "sources" / "testing.py"  # whoever uses them has pytest
    for path in {*(ROOT / "truss_cache_tasks").rglob("*.py")} - {shipped_tests}:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in sys.stdlib_module_names and top not in ("truss_cache_tasks", "google", "azure"):
                    assert {home.lower().replace("_", "-") for home in homes[top]} & declared, (path, name)
                if top == "google":  # several distributions share it; google-auth has these two
                    assert name.split(".")[1] in ("auth", "oauth2"), (path, name)
                if top == "azure":  # azure-identity, and azure-core, which it requires
                    assert name.split(".")[1] in ("identity", "core"), (path, name)


@pytest.mark.slow  # it asks git
def test_each_exception_to_a_linter_says_why_on_its_line() -> None:
    silent = re.compile(r"# (noqa|type: ignore)(: [A-Z0-9, ]+|\[[a-z, -]+\])?\s*$")
    for path in tracked():
        if path.suffix == ".py":
            for number, line in enumerate(path.read_text().splitlines(), 1):
                assert not silent.search(line), f"{path}:{number}"


@pytest.mark.parametrize("failing", ["0", "1"])
@pytest.mark.slow
def test_ci_exits_with_1_when_any_step_fails(failing: str, tmp_path: Path) -> None:
    """Run `.ci/run` with every tool replaced by one that answers at once."""
    script = (ROOT / ".ci" / "run").read_text()
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text(script)
    for tool in ("venv", *SCRIPTS):
        (tmp_path / ".ci" / tool).write_text("exit 0\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for tool in ("pytest", "ruff", "mypy", "lint-imports"):
        path = tmp_path / ".venv" / "bin" / tool
        path.write_text(f"#!/bin/sh\necho {tool} $CI\nexit {failing if tool == 'ruff' else 0}\n")
        path.chmod(0o755)
    done = subprocess.run(["sh", ".ci/run"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == int(failing)
    assert "pytest true" in done.stdout
    assert done.stdout.rstrip().endswith("all green") == (failing == "0")
    assert done.stdout.count("lint-imports true") == 1  # later steps run, whatever failed before


@pytest.mark.slow
def test_ci_says_plainly_when_no_newer_python_was_tried(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    (tools / "python3.14").write_text("#!/bin/sh\nexit 127\n")  # a shim of a version that is not there
    (tools / "python3.14").chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / ".ci" / "newest"], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no Python newer than 3.11 is on this machine: only 3.11 was tried\n"


@pytest.mark.slow
def test_no_path_or_host_of_a_developers_machine_is_in_the_tree() -> None:
    # A class of one character each, so that this file passes its own test.
    machine = re.compile(r"/[w]ork/|/root/[.]pyenv|/opt/[p]ypi|/opt/[w]heels|/tmp/[w]/|[i]ndex-url")
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        assert not machine.search(text), path


@pytest.mark.slow
def test_no_committed_link_is_absolute_or_leads_out_of_the_repository(tmp_path: Path) -> None:
    assert links_leading_out(ROOT) == []

    git(tmp_path, "init", "--quiet", "repo")
    repo = tmp_path / "repo"
    (repo / "docs" / "adr").mkdir(parents=True)
    targets = {
        "docs/sibling": "adr",
        "docs/up": "../docs/adr/nothing-yet",
        "docs/absolute": "/usr/bin/python3",
        "absolute-into-itself": str(repo / "docs"),
        "docs/parent": "../../elsewhere",
        "through": "docs/adr/back/../../elsewhere",
        "docs/adr/back": "../..",
    }
    for name, target in targets.items():
        (repo / name).symlink_to(target)
    git(repo, "add", "--all")
    assert links_leading_out(repo) == ["absolute-into-itself", "docs/absolute", "docs/parent", "through"]


def test_every_variable_is_in_the_reference_with_its_meaning() -> None:
    lines = (ROOT / "docs" / "reference" / "environment.md").read_text().splitlines()
    for variable in VARIABLES:
        row = next((line for line in lines if line.startswith(f"| `{variable.name}` |")), "")
        assert row, variable.name
        said = row.replace("`", "")
        assert variable.meaning.partition(":")[0].split(",")[0] in said, variable.name
        assert f"| {variable.default} |" in said, variable.name


@pytest.mark.slow
def test_no_doc_and_no_example_offers_a_variable_that_nothing_reads() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(p for p in tracked() if "examples" in p.parts)]
    texts = [page.read_text() for page in pages if page.suffix in (".md", ".py", ".yaml")]
    offered = {name for text in texts for name in re.findall(r"\bTRUSS_[A-Z0-9_]*[A-Z]\b", text)}
    assert offered == {variable.name for variable in VARIABLES}


def test_every_command_is_in_the_reference() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    assert re.findall(r"^\| `truss-cache (\w+)` \|", page, re.MULTILINE) == list(COMMANDS)


each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_every_block_of_code_ends_and_every_row_has_the_cells_of_its_table(page: Path) -> None:
    cells = 0
    fence = ""
    for line in map(str.strip, page.read_text().splitlines()):
        assert not line.startswith(("<<<<<<<", ">>>>>>>")), line
        if found := re.match(r"`{2,}", line):
            assert found[0] == "```", line
            fence = "" if fence else line
        elif line.startswith("|") and not fence:
            found_cells = len(re.findall(r"(?<!\\)\|", line))
            assert found_cells == (cells or found_cells), line
            cells = found_cells
        else:
            cells = 0
    assert not fence


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if "://" not in target:
            there = page.parent / target if target else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_is_linked_from_the_readme_or_from_a_page_that_is() -> None:
    found: set[Path] = set()
    to_read = {ROOT / "README.md"}
    while to_read:
        page = to_read.pop()
        found.add(page)
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            linked = (page.parent / target).resolve()
            to_read |= ({linked, *linked.glob("*.md")} & set(PAGES)) - found
    assert found == set(PAGES)


def test_every_module_that_the_docs_name_is_there() -> None:
    for page in PAGES:
        for module in re.findall(r"`((?:\w+/)+\w+\.py)", page.read_text()):
            assert (ROOT / module).exists() or (ROOT / "truss_cache_tasks" / module).exists(), (page, module)


def test_every_name_of_code_in_the_architecture_is_in_the_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "truss_cache_tasks").rglob("*.py"))
    page = (ROOT / "docs" / "architecture.md").read_text()
    names = {name.rpartition(".")[2] for name in re.findall(r"`([A-Za-z_][\w.]*)(?:\(\))?`", page)}
    assert len(names) > 30
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", source)] == []


def test_the_eight_changes_name_files_that_are_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| (.*?) \| (.*?) \| .* \|$", page.partition("## Where do I change")[2], re.MULTILINE)[1:9]
    assert len(table) == 8
    for change, files in table:
        named = re.findall(r"`([\w/]+\.py|\w+/)`", files)
        assert 1 <= len(named) <= 2, change
        for file in named:
            assert (ROOT / "truss_cache_tasks" / file).exists(), (change, file)


@pytest.mark.slow
def test_every_page_that_the_code_cites_is_there() -> None:
    for path in tracked():
        if path.suffix == ".py" and path != Path(__file__):
            for cited in re.findall(r"\bdocs/[a-z][\w/.-]*\w", path.read_text()):
                assert cited in NOT_PAGES or list(ROOT.glob(f"{cited}*")), (path, cited)


def test_the_api_page_is_made_of_the_docstrings() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "reference" / "make_api.py"))["page"]()
    assert (ROOT / "docs" / "reference" / "api.md").read_text() == made, "run `doit docs`"


def test_the_docs_write_out_a_key_for_every_form() -> None:
    assert {json.loads(form)["form"] for _, form, _ in KEYS} == {form.value for form in Layout}


@pytest.mark.parametrize(("config", "form", "key"), KEYS, ids=[key[:8] for _, _, key in KEYS])
def test_a_written_out_request_key_is_that_of_its_config(config: str, form: str, key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(config)
    (entry,) = load_config(path).entries
    assert canonical(entry.request) == json.loads(form)
    assert hashlib.sha256(form.encode()).hexdigest() == key
    assert entry.key == key


@pytest.mark.parametrize("written", records("manifest"), ids=lambda written: written["folder"][:9])
def test_a_written_out_manifest_is_one(written: dict[str, Any]) -> None:
    assert written["format"] == FORMAT
    manifest = from_json(written)
    assert to_json(manifest) == written
    form = json.dumps(written["request"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(form.encode()).hexdigest() == written["key"]
    assert manifest.snapshot == written["snapshot"]


def test_written_out_claims_and_pins_are_read_as_they_stand(tmp_path: Path) -> None:
    place = flat_root(tmp_path)
    (claims,) = records("claims")
    (pins,) = records("pins")
    for name, value in (("claims/docs.json", claims), ("pins.json", pins)):
        path = place.records / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    assert {name: pin._asdict() for name, pin in read_pins(place).items()} == pins["pins"]
    assert all(isinstance(pin, Pin) for pin in read_pins(place).values())
    found = read_claims(place, "docs")
    assert found != Claims({})
    write_claims(place, "again", found)
    assert json.loads((place.records / "claims" / "again.json").read_text()) == claims


def test_a_written_out_file_that_is_shown_decoded_is_read_as_it_stands() -> None:
    (written,) = records("file")
    whole = records("manifest")[-1]
    assert to_json(from_json({**whole, "files": [written]}))["files"] == [written]


def test_a_written_out_note_of_a_fetch_is_read_as_it_stands(tmp_path: Path) -> None:
    place = hub_root(tmp_path)
    (written,) = records("fetches")
    ((project, name),) = written["claims"]
    maker = Maker(**written["makers"][project])
    uses, size = written["uses"], written["size"]
    note_fetch(
        place, "0" * 64, (project, name), maker, blobs=written["blobs"], paths=written["paths"], uses=uses, size=size
    )
    assert json.loads((place.records / "fetches" / f"{'0' * 64}.json").read_text()) == written


def test_a_written_out_file_of_roots_is_that_of_its_project(tmp_path: Path) -> None:
    settings = read_settings({"XDG_STATE_HOME": str(tmp_path)}, tmp_path)
    (written,) = records("roots")
    remember_roots(
        settings, Project("docs", written["config"], {}, tuple(written["roots"]), written["host"]), pytest.fail
    )
    assert json.loads((tmp_path / "truss-cache" / "docs.json").read_text()) == written


def test_a_written_out_line_of_the_history_has_the_fields_of_one() -> None:
    (written,) = records("runs")
    record = RunRecord()
    record(Retrying(path="w.bin", cause="429", attempt=1, delay_s=0))
    line = new_line(written["run"], written["project"], "fetched")
    line |= record.as_line(Committed(how="fetched", files=1, size=1, unverified=0))
    assert written.keys() == line.keys() | {"entry", "source", "revision", "snapshot"}
    (fault,) = line["faults"]
    assert written["faults"][0].keys() == fault.keys()
    assert written["files"] == written["reused_files"] + written["fetched_files"]
    assert written["size"] == written["reused_size"] + written["fetched_size"]


def test_a_written_out_lock_is_read_as_it_stands(tmp_path: Path) -> None:
    (written,) = records("lock")
    (tmp_path / "one.lock").write_text(json.dumps(written))
    holder = FileLock(FileTree(tmp_path), "one.lock").read_holder()
    assert holder is not None
    assert {"format": FORMAT, **asdict(holder)} == written


def test_a_written_out_lock_file_is_as_it_is_written() -> None:
    (text,) = re.findall(r"```json lockfile\n(.*?)```", ON_DISK, re.DOTALL)
    assert to_text(parse(text.encode(), "docs")) == text
    fields = {field.name for field in dataclasses.fields(lockfile.LockedFile)}
    assert fields <= set(re.findall(r"^\| `(\w+)` \|", ON_DISK.partition("## The lock file")[2], re.MULTILINE))


def test_the_documented_tree_has_the_names_of_the_code() -> None:
    tree = re.search(r"```text\n\{root\}/\.truss_cache/\n(.*?)\{hub\}", ON_DISK, re.DOTALL)
    assert tree is not None

    def names(text: str) -> set[str]:
        """Return the first component of each name; a line that only goes on has more than 8 spaces before it."""
        return {found.partition("/")[0] for found in re.findall(r"^ {4}(?: {4})?(\S+)", text, re.MULTILINE)}

    assert names(tree[1]) == names(store_names.__doc__ or "")


def test_each_message_of_the_docs_is_in_the_code() -> None:
    source = "".join(path.read_text() for path in (ROOT / "truss_cache_tasks").rglob("*.py"))
    rows = re.findall(r"^\| [`(].*", (ROOT / "docs" / "reference" / "errors.md").read_text(), re.MULTILINE)
    assert len(rows) > 25
    for row in rows:
        for quoted in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
            for words in quoted.split("..."):
                assert words.strip() in source, (words, row)
