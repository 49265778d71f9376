"""Rewrite a config with `model_cache` (or `hf_cache`) into one with `weights` that fetches the same files.

Places are those of Truss's own `truss migrate`, as far as it handles an entry (docs/adr/0037-migrate-prints-a-diff.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node

from truss_cache_tasks.config.document import read_document
from truss_cache_tasks.config.entries import Entry
from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.config.loader import load_config
from truss_cache_tasks.errors import ConfigError

MODEL_CACHE = "/app/model_cache"  # of Truss: where the paths of model code begin
_SECTIONS = ("model_cache", "hf_cache", "weights")
_MOST_PATTERNS = 8  # that one pattern is written as


class Migration(NamedTuple):
    """The texts of a config before and after.

    Attributes:
        before, after: equal where there is nothing to migrate.
        notes: one sentence each on what the reader has to look at.
    """

    before: str
    after: str
    notes: tuple[str, ...]


def migrate(path: Path) -> Migration:
    """Return the config at `path`, a file, with its entries as `weights`. Everything else stays as it is written.

    Raises:
        ConfigError: the config is wrong; or its section cannot be replaced line by line.
    """
    config = load_config(path)
    text = path.read_bytes().decode()
    models = [entry for entry in config.entries if entry.mount_location is None]
    if not models:
        return Migration(text, text, ())
    before = _parsed(text)
    written = before.pop("model_cache", None) or before.pop("hf_cache", None) or models
    items, notes = _items(models, [written] if isinstance(written, dict) else written)
    after = _replaced(text, path, items)
    rest = {name: value for name, value in before.items() if name not in _SECTIONS}
    if _parsed(after) != {**rest, "weights": items}:
        where = f"{shown_path(path)}:{min(_lines(path))[0] + 1}"
        raise ConfigError(
            f"{where}: the section cannot be replaced line by line, expected a list in block style without anchors",
            hint="Write each entry on lines of its own, then run the command again.",
        )
    return Migration(text, after, tuple(notes))


def _items(models: Sequence[Entry], written: Sequence[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the items of `weights`, and notes.

    Args:
        written: the same entries as YAML reads them.
    """
    items: list[dict[str, Any]] = []
    notes = []
    taken: set[str] = set()
    for entry, fields in zip(models, written, strict=True):
        store = entry.request.source.store
        mount = _mount(entry, taken)
        prefix = "" if store.is_hub else entry.request.source.prefix
        item: dict[str, Any] = {"source": _source(entry, fields), "mount_location": mount}
        if store.is_hub or entry.secret_is_named:
            item["auth_secret_name"] = entry.runtime_secret_name
        for name, patterns in (("allow_patterns", entry.allow_patterns), ("ignore_patterns", entry.ignore_patterns)):
            if patterns is not None:
                item[name] = [new for old in patterns for new in translate_pattern(old, prefix)]
                odd = [old for old in patterns if _is_odd(old)]
                notes += [f"{entry.where}.{name}: {old!r} may select other files in `weights`" for old in odd]
        items.append(item)
        if store.is_hub and not entry.use_volume:
            notes.append(f"{entry.where}: its files move from the hub cache to {mount}; load them there")
        if store.is_local:
            notes.append(f"{entry.where}: Truss itself knows no file:// in `weights`")
    return items, notes


def _source(entry: Entry, fields: Any) -> str:
    """Return the URI, with the revision only if the entry gives one."""
    source = entry.request.source
    if source.store.is_hub:
        has_revision = "@" in entry.repo_id or (isinstance(fields, dict) and fields.get("revision"))
        return f"hf://{source.root}" + (f"@{entry.revision}" if has_revision else "")
    return f"{source.scheme}://{entry.repo_id.partition('://')[2].rstrip('/')}"


def _mount(entry: Entry, taken: set[str]) -> str:
    """Return the folder in the container, and add it to `taken`, the folders of the entries before."""
    source = entry.request.source
    name = f"{source.root}/{source.prefix}".rstrip("/")
    if entry.use_volume:
        name = entry.request.folder
    elif source.store.is_hub:
        name = source.root.replace("/", "_")
    elif source.store.is_local:
        name = source.root.rpartition("/")[2]
    mount, count = f"{MODEL_CACHE}/{name}", 1
    while mount in taken:
        count += 1
        mount = f"{MODEL_CACHE}/{name}-{count}"
    taken.add(mount)
    return mount


# Patterns


def _is_odd(pattern: str) -> bool:
    """Return whether a pattern has what matches a `/` in `model_cache` and not in `weights`, or is too long."""
    return re.search(r"\?|\[!|\[[^]]*[/\\]", pattern) is not None or len(list(_alternatives(pattern))) > _MOST_PATTERNS


def translate_pattern(pattern: str, prefix: str = "") -> list[str]:
    """Return the patterns of `weights` that together select what one of `model_cache` does, where `*` crosses `/`.

    Args:
        prefix: of a bucket; a pattern that begins with it is one of the full key.

    >>> translate_pattern("*.bin"), translate_pattern("unet/"), translate_pattern("config.json")
    (['**/*.bin'], ['unet/**'], ['config.json'])
    >>> translate_pattern("model-*.bin")
    ['model-*.bin', 'model-*/**/*.bin']
    """
    pattern = pattern.replace("\\", "/")
    if prefix and pattern.startswith(f"{prefix}/"):
        pattern = pattern[len(prefix) + 1 :]
    if pattern.endswith("/"):
        pattern += "*"
    found = list(_alternatives(pattern))
    return found if len(found) <= _MOST_PATTERNS else [pattern]


def _alternatives(pattern: str) -> Iterator[str]:
    """Yield each way to write the stars of a pattern: one that stays in a folder, or one that crosses some."""
    parts = re.split(r"(\[!?\]?[^\]]*\]|\*+)", pattern)  # a star in a class is no star
    choices: list[tuple[str, ...]] = []
    for at, part in enumerate(parts):
        before, after = "".join(parts[:at]), "".join(parts[at + 1 :])
        choices.append(_stars(before, after) if part and set(part) == {"*"} else (part,))
    yield from ("".join(chosen) for chosen in product(*choices))


def _stars(before: str, after: str) -> tuple[str, ...]:
    """Return the ways to write a star between `before` and `after`."""
    if before.endswith("/") or not before:  # it begins a name
        return ("**/*",) if after else ("**",)
    if not after:
        return ("*", "*/**")
    return ("*/**",) if after.startswith("/") else ("*", "*/**/*")


# The text


def _lines(path: Path) -> list[tuple[int, int]]:
    """Return the lines of each section, from 0: the first, and the one after the last."""
    root = read_document(path)
    assert root is not None, "it has entries"
    pairs = [(key, value) for key, value in root.node.value if key.value in _SECTIONS]
    return [(key.start_mark.line, _last_line(value) + 1) for key, value in pairs]


def _last_line(node: Node) -> int:
    """Return the last line of a node, without the comments after it."""
    last: Node | None = None
    if isinstance(node, CollectionNode) and node.value and not node.flow_style:
        last = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    if last is not None:
        return _last_line(last)
    mark = node.end_mark
    line: int = mark.line
    return max(line - (mark.column == 0), node.start_mark.line)


def _replaced(text: str, path: Path, items: list[dict[str, Any]]) -> str:
    """Return `text` with the section `weights` in the place of the first section of entries, and without the others."""
    lines = re.findall(r".*\n|.+", text)
    section = yaml.safe_dump({"weights": items}, sort_keys=False, allow_unicode=True, width=4096)
    if lines[0].endswith("\r\n"):
        section = section.replace("\n", "\r\n")
    kept = dict(enumerate(lines))
    for first, after in sorted(_lines(path), reverse=True):
        for line in range(first, after):
            del kept[line]
    kept[min(_lines(path))[0]] = section
    return "".join(kept[line] for line in sorted(kept))


def _parsed(text: str) -> dict[str, Any]:
    """Return what YAML reads; {} where it has a tag that only Truss knows."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
