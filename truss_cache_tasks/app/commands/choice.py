"""The configs that a command line is about, opened, and the entries that it names."""

from __future__ import annotations

import os
from pathlib import Path

from truss_cache_tasks.app.commands.command_line import Options
from truss_cache_tasks.app.commands.table import COMMANDS
from truss_cache_tasks.app.configs import Configs, Labelled, named_configs, open_configs
from truss_cache_tasks.errors import ConfigError


def open_named_configs(options: Options, *, changes: str = "") -> Configs:
    """Open the configs that the command line names, or the nearest one.

    Args:
        changes: see `named_configs`.
    """
    given = vars(options)
    paths = named_configs(options.config, changes=changes, quiet=given.get("quiet", False))
    configs = open_configs(
        paths,
        replace=given.get("replace", False),
        accept_unverified=given.get("accept_unverified", False),
        strict_patterns=given.get("strict", False),
        events=None if (events := given.get("events")) is None else Path(os.path.abspath(events)),
    )
    for workspace in configs.workspaces.values():
        options.facts.config(workspace)
    return configs


def choose_entries(options: Options, configs: Configs) -> list[Labelled]:
    """Return the entries that the command line names, after the warnings of their configs were written."""
    try:
        chosen = configs.choose(options.names)
    except ConfigError as error:
        if options.command is None:  # the name may be a misspelt command
            from difflib import get_close_matches  # not needed if the name is right

            near = get_close_matches(options.names[0], COMMANDS, 1)
            meant = f"Did you mean `truss-cache {near[0]}`? " if near else ""
            error.hint = f"{meant}{error.hint} The commands: {', '.join(COMMANDS)}."
        raise
    if not getattr(options, "quiet", False):
        for workspace in configs.workspaces.values():
            workspace.warn()
    return chosen
