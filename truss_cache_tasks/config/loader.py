"""Load a config.yaml into a Config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from truss_cache_tasks.config.collisions import refuse_collisions
from truss_cache_tasks.config.document import find_duplicate_keys, read_document
from truss_cache_tasks.config.entries import Config, Entry
from truss_cache_tasks.config.fields import Value, line_of, printable
from truss_cache_tasks.config.files import find_config
from truss_cache_tasks.config.model_cache import ConfigContext, read_model
from truss_cache_tasks.config.names import name_entries
from truss_cache_tasks.config.settings import HUB_VARIABLES
from truss_cache_tasks.errors import ConfigError

_LISTS = ("model_cache", "hf_cache", "weights")
_READ = (*_LISTS, "bdn", "data_dir", "environment_variables")
_MOST_EDITS = 2  # of a misspelt section: it would otherwise give an empty config without a word


def load_config(path: str | Path) -> Config:
    """Read and check a whole config file. No other file is read, and no request is sent.

    Args:
        path: the file, or the folder that holds config.yaml (or config.yml); relative to the working folder.

    Raises:
        ConfigError: ``file:line: field: message`` and a hint.
    """
    file = find_config(Path(path))
    root = read_document(file)
    if root is None:
        return Config(file, ())
    members = root.members(strict=_READ.__contains__)
    _refuse_misspelt_section(root, members)
    context = ConfigContext(file, _data_dir(members.get("data_dir"), file.parent), _hub_env(members, file.parent))
    entries = _entries(members, context)
    _check_volumes(members.get("bdn"), entries, context)
    refuse_collisions(entries)
    context.warnings += _warnings(root, members)
    names = name_entries([(entry.request.source, entry.request.revision) for entry in entries])
    named = tuple(entry._replace(name=name) for entry, name in zip(entries, names, strict=True))
    return Config(file, named, tuple(context.warnings))


def _entries(members: dict[str, Value], context: ConfigContext) -> list[Entry]:
    models, alias, weights = (members.get(name) for name in _LISTS)
    if models and alias:
        alias.fail(f"`model_cache` on line {models.line} is the same thing", "Keep `model_cache`, remove `hf_cache`.")
    models = models or alias
    if models and not models.is_empty and weights and not weights.is_empty:
        hint = f"Keep one of the two; `{models.field}` is on line {models.line}."
        weights.fail(f"`weights` and `{models.field}` cannot be used together", hint)
    entries = [read_model(item, context) for item in _items(models, "repo_id: org/name", one=True)]
    if entries or not weights:
        return entries
    from truss_cache_tasks.config.weights import read_weights  # most configs have none

    return [read_weights(item, context) for item in _items(weights, "source: hf://org/name", one=False)]


def _check_volumes(bdn: Value | None, entries: list[Entry], context: ConfigContext) -> None:
    """Raise ConfigError if volumes of `bdn` are all that a config has; beside entries, warn of them."""
    mounts = bdn.members(strict=lambda key: False).get("mounts") if bdn is not None and bdn.is_mapping else None
    if mounts is None or mounts.is_empty:
        return
    found = "volumes of Baseten's delivery network, which have no address outside of it"
    if not entries:
        hint = "Name the source of the files under `weights`, and leave `bdn` to Truss."
        mounts.fail(f"found {found}, expected `weights` or `model_cache`", hint)
    context.warnings.append(f"{mounts.where}: not fetched: {found}")


def _items(value: Value | None, example: str, *, one: bool) -> list[Value]:
    """Return the items of a list; with `one`, a mapping counts as a list of one item, as in the Truss guide."""
    if value is None or value.is_null:
        return []
    if one and value.is_mapping:
        return [value]
    if not value.is_list:
        value.fail(f"got {value.shown()}, expected a list of entries", f"Write a list: `- {example}`.")
    return list(value.items())


def _data_dir(value: Value | None, folder: Path) -> Path:
    """Return the absolute path of the Truss's data folder; Truss's default is `data`."""
    if value is None or value.is_null:
        return folder / "data"
    return Path(os.path.normpath(folder / value.string()))


def _hub_env(members: dict[str, Value], folder: Path) -> tuple[tuple[str, str], ...]:
    """Return the hub variables that the config sets, as sorted pairs; a relative path is relative to the config."""
    value = members.get("environment_variables")
    if value is None or value.is_null:
        return ()
    if not value.is_mapping:
        value.fail(f"got {value.shown()}, expected a mapping", "Write `NAME: value` lines.")
    variables = value.members(strict=HUB_VARIABLES.__contains__)
    found = {name: variables[name] for name in HUB_VARIABLES if name in variables and not variables[name].is_null}
    texts = {name: member.string() for name, member in found.items()}
    return tuple(sorted((n, t if t[0] in "/~$" else str(folder / t)) for n, t in texts.items()))


def _refuse_misspelt_section(root: Value, members: Iterable[str]) -> None:
    """Raise ConfigError for a config whose only section of entries has a misspelt name."""
    if set(members).isdisjoint(_LISTS):
        for where, meant in _misspelt_sections(root):
            raise ConfigError(f"{where}: unknown section, expected {meant}", hint=f"Write {meant}.")


def _misspelt_sections(root: Value) -> Iterator[tuple[str, str]]:
    """Yield ``file:line: key`` of each key that is nearly the name of a section, with that name."""
    for key, _ in root.node.value:
        name = str(key.value)
        if name in _READ:
            continue
        for section in _LISTS:
            if _edits(name.lower(), section) <= _MOST_EDITS:
                yield f"{root.file}:{line_of(key)}: {printable(name)}", section
                break


def _edits(one: str, other: str) -> int:
    """Return how many letters are to be inserted, removed or replaced to make `other` of `one`.

    >>> _edits("model-caches", "model_cache"), _edits("weigths", "weights")
    (2, 2)
    """
    if abs(len(one) - len(other)) > _MOST_EDITS:
        return _MOST_EDITS + 1
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, 1):
        before, row[0] = row[0], at
        for column, wanted in enumerate(other, 1):
            before, row[column] = (
                row[column],
                min(row[column] + 1, row[column - 1] + 1, before + (letter != wanted)),
            )
    return row[-1]


def _warnings(root: Value, members: dict[str, Value]) -> list[str]:
    found = []
    for line, key, first in find_duplicate_keys(root, skip=_LISTS):
        found.append(f"{root.file}:{line}: {printable(key)}: given twice, first on line {first}; the last one wins")
    found += [f"{where}: not read; did you mean {meant}?" for where, meant in _misspelt_sections(root)]
    return found + _literal_secrets(members.get("secrets"))


def _literal_secrets(secrets: Value | None) -> list[str]:
    """Return a warning for each value under `secrets:` that looks like a real secret; none shows the value."""
    if secrets is None or not secrets.is_mapping:
        return []
    from truss_cache_tasks.config.placeholders import looks_real  # most configs have no secrets

    message = "looks like a real secret; it is never used from here, keep it out of the file and write null"
    values = secrets.members(strict=lambda key: False).values()
    return [f"{value.where}: {message}" for value in values if value.is_string and looks_real(value.node.value)]
