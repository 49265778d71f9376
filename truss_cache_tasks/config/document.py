"""Read a config file into composed YAML nodes; an error of PyYAML becomes a ConfigError."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from truss_cache_tasks.config.fields import Value, line_of
from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.errors import ConfigError

_LARGEST = 16 << 20  # bytes of a config file; 10,000 entries are 2 MB
_MOST_NODES = 1_000_000  # with every alias expanded; 1000 entries have 15,000
_DEEPEST = 100  # levels of nesting, as resolving merges is recursive; real configs have 10
# libyaml's loader where PyYAML was built with it: 1000 entries take it 45 ms, the Python one 400.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_FIX_YAML = "Make it valid YAML; the mistake may stand a line or two above."
_FLATTEN = "Write it with fewer lists and mappings inside one another."


def read_document(path: Path, loader: Any = _LOADER) -> Value | None:
    """Return the root mapping of the YAML file at `path`, or None for an empty document.

    No Python value is constructed from the nodes. All uses of an alias are one node. The number of nodes with every
    alias expanded, and the depth, are limited, and cycles are refused, so that loops and recursion over the result end.

    Args:
        loader: a loader class of PyYAML.

    Raises:
        ConfigError: unreadable, not UTF-8, not YAML, several documents, nested too deeply, aliases that expand to too
            much, or no mapping.
    """
    file = shown_path(path)
    text = _decoded(_read(path, file), file)
    root = _composed(text, file, loader)
    if root is None or root.tag == "tag:yaml.org,2002:null":
        return None
    _refuse_depth(root, file)
    if "&" in text:
        _refuse_large_aliases(root, file)
    value = Value(file, "", root)
    if not value.is_mapping:
        raise ConfigError(
            f"{file}:{value.line}: got {value.shown()}, expected a mapping", hint="Write `key: value` lines."
        )
    return value


def find_duplicate_keys(root: Value, skip: tuple[str, ...]) -> Iterator[tuple[int, str, int]]:
    """Yield (line, key, line of the first) for each key that is given twice in a mapping of the file.

    Args:
        root: the whole document.
        skip: top-level keys whose values are left out: their duplicates are errors, raised where they are read.
    """
    seen: set[int] = set()
    stack: list[Node] = [root.node]
    while stack:
        node = stack.pop()
        if id(node) in seen or isinstance(node, ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, MappingNode):
            yield from _duplicates_in(node)
            top = node is root.node
            stack.extend(value for key, value in node.value if not (top and key.value in skip))
        else:
            stack.extend(node.value)


def _duplicates_in(node: MappingNode) -> Iterator[tuple[int, str, int]]:
    first: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode) or key.tag.endswith(":merge"):
            continue
        line = line_of(key)
        if (key.tag, key.value) in first:
            yield line, key.value, first[key.tag, key.value]
        first.setdefault((key.tag, key.value), line)


def _read(path: Path, file: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST + 1)
    except OSError as why:
        raise ConfigError(f"{file}: cannot be read ({why.strerror})", hint="Make it readable for this user.") from why
    if len(data) > _LARGEST:
        raise ConfigError(f"{file}: is larger than {_LARGEST >> 20} MiB", hint="Name the Truss's own config.yaml.")
    return data


def _decoded(data: bytes, file: str) -> str:
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as why:
        line = data.count(b"\n", 0, why.start) + 1
        message = f"{file}:{line}: not UTF-8 (byte 0x{data[why.start]:02x})"
        raise ConfigError(message, hint="Save the file as UTF-8.") from None


def _composed(text: str, file: str, loader: Any) -> Node | None:
    """Compose the one document. Errors have PyYAML's message and not its snippet, which could show a secret."""
    try:
        return _compose(text, file, loader)
    except yaml.MarkedYAMLError as why:
        mark = why.problem_mark or why.context_mark
        if mark and "maximum nesting depth" in str(why.problem):  # libyaml's own limit, 1000
            _too_deep(file, mark.line + 1)
        line = "" if mark is None else f":{mark.line + 1}"
        problem = " ".join(filter(None, (why.context, why.problem)))
        raise ConfigError(f"{file}{line}: not YAML: {problem}", hint=_yaml_hint(text, mark)) from None
    except yaml.reader.ReaderError as why:
        line = str(text.encode()[: why.position].count(b"\n") + 1)
        message = f"{file}:{line}: not YAML: control characters are not allowed"
        raise ConfigError(message, hint="Remove the control character.") from None


def _compose(text: str, file: str, loader: Any) -> Node | None:
    stream = loader(text)
    try:
        root: Node | None = stream.get_single_node()
        return root
    except RecursionError:  # of the loader without libyaml
        _too_deep(file, stream.line + 1)
    finally:
        stream.dispose()


def _yaml_hint(text: str, mark: object) -> str:
    lines = text.splitlines()
    line = getattr(mark, "line", len(lines))
    if line < len(lines) and "\t" in lines[line][: len(lines[line]) - len(lines[line].lstrip())]:
        return "Indent with spaces; YAML takes no tabs there."
    return _FIX_YAML


def _refuse_depth(root: Node, file: str) -> None:
    """Raise ConfigError if the file as written, with no alias expanded, is nested too deeply. Visit each node once."""
    level = {id(root): root}
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        seen.update(level)
        below = [child for node in level.values() for child in _children(node)]
        level = {id(node): node for node in below if isinstance(node, CollectionNode) and id(node) not in seen}
    for node in level.values():
        _too_deep(file, line_of(node))


def _too_deep(file: str, line: int) -> NoReturn:
    raise ConfigError(f"{file}:{line}: nested more than {_DEEPEST} levels deep", hint=_FLATTEN)


def _refuse_large_aliases(root: Node, file: str) -> None:
    """Raise ConfigError where aliases expand to too many nodes, too deep a nesting, or themselves.

    Visits each node once, in post-order, with an explicit stack in place of recursion.
    """
    done: dict[int, tuple[int, int]] = {}
    begun: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in done:
            stack.pop()
            continue
        children = list(_children(node))
        if id(node) not in begun:
            begun.add(id(node))
            if any(id(child) in begun and id(child) not in done for child in children):
                _fail_for_alias(file, node, "an alias that holds itself")
            stack.extend(child for child in children if id(child) not in done)
            continue
        sizes = [done[id(child)] for child in children]
        size, depth = 1 + sum(s for s, _ in sizes), 1 + max((d for _, d in sizes), default=0)
        if size > _MOST_NODES or depth > _DEEPEST:
            _fail_for_alias(
                file, node, "aliases that expand to " + ("too much" if size > _MOST_NODES else "too deep a nesting")
            )
        done[id(node)] = (size, depth)
        stack.pop()


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, CollectionNode):
        yield from node.value


def _fail_for_alias(file: str, node: Node, what: str) -> None:
    raise ConfigError(f"{file}:{line_of(node)}: {what}", hint="Write the values out instead of `*alias`.")
