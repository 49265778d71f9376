"""`truss-cache run`: fetch what is stale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.commands.choice import choose_entries, open_named_configs
from truss_cache_tasks.app.commands.command_line import Options
from truss_cache_tasks.app.commands.exit_status import DONE, FAILED, INTERNAL
from truss_cache_tasks.app.configs import Labelled
from truss_cache_tasks.app.facts import facts_of_manifest
from truss_cache_tasks.errors import CacheTaskError, ConfigError, Stopped
from truss_cache_tasks.operations.context import EntryContext

if TYPE_CHECKING:
    from truss_cache_tasks.operations.fetch.online_fetch import Outcome


def run(options: Options) -> int:
    """Fetch the entries that are stale, side by side; return the highest exit status of them."""
    if options.dry_run:
        from truss_cache_tasks.app.commands.queries import plan

        return plan(options)
    configs = open_named_configs(options)
    chosen = choose_entries(options, configs)
    configs.require_claims_of_their_own()
    signals.install()
    for workspace in configs.workspaces.values():
        workspace.require_lock()
        if options.json and workspace.settings.events is not None:
            _refuse_events_on_stdout(workspace.settings.events)
        workspace.require_event_log(is_running=True)
    stale: list[Labelled] = []
    for label, workspace, context in chosen:
        status = workspace.read_status(context)
        if not status.verdict.fresh or options.always:
            stale.append((label, workspace, context))
            options.facts.entry(label, context, status="unfinished")
        elif options.json:
            there = facts_of_manifest(context, status.fresh_manifest) if status.fresh_manifest else {}
            options.facts.entry(label, context, status="fresh", **there, fetched_files=0, fetched_size=0)
    for _, workspace, context in stale:
        workspace.require_server(context)
    failed = _fetch_all(stale, options) if stale else {}
    if (fresh := len(chosen) - len(stale)) and not options.quiet:
        output.notify(f"{_entries(fresh)} fresh{' already' if stale else ', nothing to do'}")
    if failed and len(chosen) > 1:  # the names are in the lines of the errors
        output.notify(f"{_entries(len(failed))} of {len(chosen)} failed")
    return max(failed.values(), default=DONE)


def _refuse_events_on_stdout(path: Path) -> None:
    from truss_cache_tasks.app.event_log import names_stdout

    if names_stdout(path):
        raise ConfigError(
            f"--json and events to {path}: found both, expected one of them on stdout", hint="Log the events to a file."
        )


def _entries(count: int) -> str:
    return output.format_count(count, "entry", "entries")


def _fetch_all(stale: Sequence[Labelled], options: Options) -> dict[str, int]:
    """Fetch these entries side by side; return the exit status of each that failed, by label."""
    from truss_cache_tasks.app.fetch import fetch_side_by_side, fetch_with_display  # not needed if all are fresh

    group, run_id = f"weights of {_entries(len(stale))}", stale[0][1].run_id
    show = {"quiet": options.quiet, "verbose": options.verbose, "group": group}

    def fetch_one(label: str, context: EntryContext) -> Outcome:
        try:
            outcome = fetch_with_display(context, run_id, label, force=options.always, **show)
        except Stopped:  # the handler of the signal wrote the message
            raise
        except CacheTaskError as error:
            output.notify(*output.format_error(error, label))
            failed(label, context, error)
            raise
        except Exception as exc:
            output.notify(f"{label}: {(message := output.format_internal_error(exc))}")
            failed(label, context, exc, message)
            raise
        came = {"fetched_files": outcome.files, "fetched_size": outcome.size}
        options.facts.entry(label, context, status=outcome.how, **facts_of_manifest(context, outcome.manifest), **came)
        return outcome

    def failed(label: str, context: EntryContext, error: Exception, message: str = "") -> None:
        options.facts.entry(label, context, status="failed")
        options.facts.error(error, label, message)

    ended = fetch_side_by_side([(label, context) for label, _, context in stale], fetch_one)
    return {
        label: FAILED if isinstance(end, CacheTaskError) else INTERNAL
        for label, end in ended.items()
        if isinstance(end, BaseException)
    }
