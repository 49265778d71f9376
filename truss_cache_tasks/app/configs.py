"""The configs that a command line is about, by `-f`, TRUSS_CONFIG or a search; and their entries."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from truss_cache_tasks.app import output
from truss_cache_tasks.app.workspace import Workspace, machine_settings, open_workspace
from truss_cache_tasks.config.search import search_config
from truss_cache_tasks.errors import ConfigError
from truss_cache_tasks.operations.context import EntryContext

Labelled = tuple[str, Workspace, EntryContext]  # (the entry's name on the command line, ...)


class Configs(NamedTuple):
    """Configs that were opened; two names of one file are one.

    Attributes:
        workspaces: by the name that `-f` gave; by "" for one without `-f`.
    """

    workspaces: dict[str, Workspace]

    def labelled(self) -> Iterator[Labelled]:
        """Yield all entries. The label is the entry's name; where two configs have that name, `CONFIG:NAME`."""
        everywhere = [context.name for workspace in self.workspaces.values() for context in workspace.contexts]
        for config, workspace in self.workspaces.items():
            for context in workspace.contexts:
                is_alone = everywhere.count(context.name) == 1
                yield context.name if is_alone else f"{config}:{context.name}", workspace, context

    def require_claims_of_their_own(self) -> None:
        """Raise ConfigError if two configs are one project, and an entry of each has one name and other requests.

        Both would have the same claim, so that a run of each makes the other stale.
        """
        seen: dict[tuple[str, str], EntryContext] = {}
        for workspace in self.workspaces.values():
            for context in workspace.contexts:
                other = seen.setdefault((workspace.project.id, context.name), context)
                if other.entry.key != context.entry.key:
                    raise ConfigError(
                        f"TRUSS_CACHE_PROJECT: found {context.name} in two configs with different requests, "
                        "expected an id for each config",
                        hint="Unset it, or run each config by itself under an id of its own.",
                    )

    def choose(self, names: Sequence[str]) -> list[Labelled]:
        """Return the entries with these names, or labels, each once; without names: all.

        Raises:
            ConfigError: no entry has one of them, or entries of several configs do.
        """
        if len(self.workspaces) == 1:
            (workspace,) = self.workspaces.values()
            return [(context.name, workspace, context) for context in workspace.choose(names or None)]
        every = list(self.labelled())
        if not names:
            return every
        configs = {id(workspace): config for config, workspace in self.workspaces.items()}
        full = {f"{configs[id(one[1])]}:{one[2].name}": one for one in every}
        short = {one[0]: one for one in every}
        chosen: dict[str, Labelled] = {}
        for name in names:
            found = full.get(name) or short.get(name)
            if found is None:
                same = [label for label, one in full.items() if one[2].name == name]
                if same:
                    listed = " or ".join(same)
                    raise ConfigError(f"{name}: found in {len(same)} configs, expected one", hint=f"Write {listed}.")
                raise ConfigError(
                    f"no entry is called {name!r}", hint=f"Name one of these configs: {', '.join(short)}."
                )
            chosen[found[0]] = found
        return list(chosen.values())


def named_configs(paths: Sequence[str], *, changes: str = "", quiet: bool = False) -> list[str]:
    """Return the configs that a command is about; [] for that of TRUSS_CONFIG or of the current folder, if any.

    Without `-f` and TRUSS_CONFIG the nearest config counts, of the current folder or one above it. Where it is above,
    its path is written to stderr.

    Args:
        paths: the values of `-f`.
        changes: the command, if it removes or moves something and so needs to be told the config; else "".
        quiet: do not write the path.

    Raises:
        ConfigError: the config is above the current folder, and `changes` is not "".
    """
    settings, _ = machine_settings()
    if paths or settings.config is not None:
        return list(paths)
    found = search_config(Path.cwd(), settings.home)
    if found is None or found == Path.cwd():
        return []
    path = os.path.relpath(found)
    if changes:
        raise ConfigError(f"{changes}: the nearest config is in {path}, expected -f to name it", hint=f"Add -f {path}.")
    if not quiet:
        output.notify(f"config: the one in {path}")
    return [path]


def is_there_a_config(paths: Sequence[str]) -> bool:
    """Return whether `-f` or TRUSS_CONFIG names a config, or one is in the current folder or above it."""
    settings, _ = machine_settings()
    return bool(paths or settings.config) or search_config(Path.cwd(), settings.home) is not None


def open_configs(
    paths: Sequence[str],
    *,
    replace: bool = False,
    accept_unverified: bool = False,
    strict_patterns: bool = False,
    events: Path | None = None,
) -> Configs:
    """Open what `named_configs` returned; the arguments are those of `open_workspace`. Raises ConfigError."""
    opened: dict[str, Workspace] = {}
    seen: set[str] = set()
    for path in paths or (None,):
        workspace = open_workspace(
            path,
            replace=replace,
            accept_unverified=accept_unverified,
            strict_patterns=strict_patterns,
            events=events,
        )
        if (real := os.path.realpath(workspace.path)) not in seen:
            seen.add(real)
            opened[path or ""] = workspace
    run_id = next(iter(opened.values())).run_id  # one run: what resolves the same revision gets the same commit
    for workspace in opened.values():
        workspace.run_id = run_id
    return Configs(workspaces=opened)
