"""The commands that print what is asked for, and change nothing."""

from __future__ import annotations

import hashlib

from truss_cache_tasks.app.commands.choice import choose_entries, open_named_configs
from truss_cache_tasks.app.commands.command_line import Options
from truss_cache_tasks.app.commands.exit_status import DONE
from truss_cache_tasks.app.configs import is_there_a_config
from truss_cache_tasks.app.workspace import Workspace
from truss_cache_tasks.model.records import FORMAT


def plan(options: Options) -> int:
    """Print what a run would fetch, and whether there is room."""
    from truss_cache_tasks.app.preview import write_plan

    options.facts.command = "plan"  # also of `run --dry-run`
    chosen = choose_entries(options, open_named_configs(options))
    return write_plan(chosen, options.write, options.facts, force=options.always, quiet=options.quiet)


def path(options: Options) -> int:
    """Print the folder to open of each entry."""
    from truss_cache_tasks.app.reports import write_paths

    return write_paths(choose_entries(options, open_named_configs(options)), options.write, options.facts)


def why(options: Options) -> int:
    """Print which entries are fresh, or which input changed."""
    from truss_cache_tasks.app import reports

    chosen = choose_entries(options, open_named_configs(options))
    return reports.why(chosen, options.write, options.facts, check=options.check, remote=options.remote)


def verify(options: Options) -> int:
    """Hash everything again, and name each bad file."""
    from truss_cache_tasks.app import reports

    chosen = choose_entries(options, open_named_configs(options))
    return reports.verify(
        chosen, options.write, options.facts, quick=options.quick, quiet=options.quiet, verbose=options.verbose
    )


def du(options: Options) -> int:
    """Print what the cache holds."""
    from truss_cache_tasks.app import usage

    if not is_there_a_config(options.config) and not options.names:
        return usage.write_usage(usage.scope_of_machine(), options.write, options.facts)
    configs = open_named_configs(options)
    chosen = choose_entries(options, configs)
    scope = usage.scope_of(configs.workspaces.values(), ((label, context) for label, _, context in chosen))
    return usage.write_usage(scope, options.write, options.facts)


def key(options: Options) -> int:
    """Print the portable cache key."""
    configs = open_named_configs(options)
    for workspace in configs.workspaces.values():
        workspace.warn()
        workspace.require_readable_lock()
    key = cache_key(*configs.workspaces.values())
    options.facts.put(key=key)
    options.write(key)
    return DONE


def migrate(options: Options) -> int:
    """Print the config with `weights`, as a diff."""
    from truss_cache_tasks.app.migration import print_migration

    for workspace in open_named_configs(options).workspaces.values():
        print_migration(workspace.path, options.write, options.facts)
    return DONE


def cache_key(*workspaces: Workspace) -> str:
    """Return 64 hex digits that are equal for configs whose entries make equal requests, in any order.

    What a lock file names for a request counts too. What several configs request counts once.
    """
    contexts = [context for workspace in workspaces for context in workspace.contexts]
    keys = sorted({f"{c.entry.key} {c.locked.snapshot}" if c.locked else c.entry.key for c in contexts})
    return hashlib.sha256("\n".join([f"format {FORMAT}", *keys]).encode()).hexdigest()
