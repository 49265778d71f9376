"""The commands that remove weights, or write the files beside a config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.commands.choice import choose_entries, open_named_configs
from truss_cache_tasks.app.commands.command_line import Options
from truss_cache_tasks.app.commands.exit_status import DONE, MISUSED, report_error
from truss_cache_tasks.app.configs import is_there_a_config
from truss_cache_tasks.errors import DiskError

if TYPE_CHECKING:
    from truss_cache_tasks.store.removal.removal import Cleaned


def clean(options: Options) -> int:
    """Remove the files and claims of these entries."""
    from truss_cache_tasks.app.reports import format_cleaned, format_left

    configs = open_named_configs(options, changes="clean")
    chosen = choose_entries(options, configs)
    signals.install()
    failed = False
    done: list[Cleaned] = []
    for workspace in configs.workspaces.values():
        names = [context.name for _, its, context in chosen if its is workspace] if options.names else None
        if names == []:
            continue
        try:
            workspace.clean(names, dry=options.dry_run)
        except DiskError as error:  # one root failed, the others were cleaned
            report_error(error, options.facts)
            failed = True
        done.append(workspace.cleaned)
        options.facts.warn(workspace.cleaned.warnings)
    files, size = sum(one.files for one in done), sum(one.size for one in done)
    kept, left = [line for one in done for line in one.kept], [line for one in done for line in one.left]
    options.facts.put(dry=options.dry_run, files=files, size=size, kept=kept, left=left)
    _write(options)(*format_cleaned(files, size, kept, dry=options.dry_run))
    if left:
        output.notify(*format_left(left))
    return MISUSED if left or failed else DONE


def lock(options: Options) -> int:
    """Write, move or check the lock file."""
    from truss_cache_tasks.app import lockfile

    configs = open_named_configs(options, changes="lock --upgrade" if options.upgrade else "")
    chosen = configs.choose(options.names)
    status = DONE
    for workspace in configs.workspaces.values():
        contexts = [context for _, its, context in chosen if its is workspace] if options.names else None
        if contexts == []:
            continue
        status |= lockfile.lock(
            workspace,
            contexts,
            options.write,
            options.facts,
            upgrade=options.upgrade,
            check=options.check,
            remote=options.remote,
        )
    return status


def prune(options: Options) -> int:
    """Remove what no living claim lists."""
    from truss_cache_tasks.app import usage

    if is_there_a_config(options.config):
        scope = usage.scope_of(open_named_configs(options, changes="prune").workspaces.values())
    else:
        scope = usage.scope_of_machine()
    return usage.write_prune(
        scope,
        _write(options),
        options.facts,
        older_than_s=options.older_than,
        keep_bytes=options.keep_bytes,
        yes=options.yes,
    )


def init(options: Options) -> int:
    """Write dodo.py and the lines of .gitignore."""
    from truss_cache_tasks.app.init import init as write_files

    return max(write_files(Path(path), options.write, options.facts) for path in options.config or ["."])


def _write(options: Options) -> output.Write:
    """Return what writes the lines of a removal; with -q nothing does, as what fails is written to stderr."""
    return output.write_nothing if options.quiet else options.write
