"""Write, move and check the lock file of a config: for `truss-cache lock` and `doit cache-lock`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from truss_cache_tasks.app import output, signals
from truss_cache_tasks.app.facts import Facts
from truss_cache_tasks.app.output import Write, format_bytes, format_count
from truss_cache_tasks.app.workspace import RUN_LOCK, Workspace
from truss_cache_tasks.config.files import shown_path
from truss_cache_tasks.config.lockfile import lock_path, read_usable, update_lock
from truss_cache_tasks.errors import CacheTaskError, ConfigError, Stopped
from truss_cache_tasks.model.keys import RequestKey
from truss_cache_tasks.model.lockfile import Locked, LockedEntry, LockFile, PinKey, format_pin, pin_key
from truss_cache_tasks.model.request import Request
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.lockfile import Moves, ask_moves, find_moves, from_manifest, known_versions, resolve
from truss_cache_tasks.store.records.root_state import RootState

Resolved = dict[RequestKey, tuple[str, LockedEntry]]  # the commit, and the entry

_TAKE_LOCKED = "`truss-cache lock --upgrade` or `doit cache-lock --upgrade` takes what is there now."
_TAKE_UNLOCKED = "`truss-cache run -a` or `doit run -a cache_weights` takes what is there now."


def lock(
    workspace: Workspace,
    contexts: Sequence[EntryContext] | None,
    write: Write,
    facts: Facts,
    *,
    upgrade: bool,
    check: bool,
    remote: bool,
) -> int:
    """Write the lock file of a config, or with `check` compare it; write a line for each entry that differs.

    Entries that the file has stay as they are. Missing ones are added: from the manifest of a fresh entry, else as the
    store has them now. Entries that left the config are dropped.

    Args:
        contexts: which entries; None: all. Those with the same source and revision as one of them count too.
        upgrade: ask the stores anew for what the file has.
        check: write nothing.
        remote: with `check`: ask the stores what has moved.

    Returns:
        0; 1 if an entry failed, or with `check` if the file is missing or outdated or something moved.

    Raises:
        ConfigError: the lock file cannot be used, or the options exclude each other.
        DiskError: it cannot be written.
    """
    if check and upgrade:
        raise ConfigError("--check and --upgrade: found both, expected one of them", hint="Leave one of them out.")
    if remote and not check:
        raise ConfigError("--remote: found it without --check, expected both", hint="Add --check.")
    signals.install()
    workspace.lock_warning = ""  # the lines say it
    workspace.warn()
    facts.config(workspace)
    chosen = _with_same_pin(workspace, contexts)
    now = _read(workspace, may_be_broken=upgrade and contexts is None)
    if remote or not check:
        for context in chosen:
            workspace.require_server(context)
    if check:
        return _check(workspace, chosen, now, write, facts, is_all=contexts is None, remote=remote)
    return _write(workspace, chosen, now, write, facts, upgrade=upgrade, may_be_broken=upgrade and contexts is None)


def _read(workspace: Workspace, *, may_be_broken: bool) -> LockFile | None:
    """Return the lock file; raise why it cannot be used, unless it is about to be replaced whole."""
    if may_be_broken:
        return read_usable(workspace.path)
    workspace.require_readable_lock()
    return workspace.lock


def _with_same_pin(workspace: Workspace, contexts: Sequence[EntryContext] | None) -> list[EntryContext]:
    if contexts is None:
        return list(workspace.contexts)
    wanted = {_pin_of(context) for context in contexts}
    return [context for context in workspace.contexts if _pin_of(context) in wanted]


def _pin_of(context: EntryContext) -> PinKey:
    return pin_key(context.entry.request)


def _report(error: CacheTaskError, context: EntryContext, label: str, facts: Facts) -> None:
    if isinstance(error, Stopped):  # the handler of the signal wrote the message
        raise error
    output.notify(*output.format_error(error, label))
    facts.error(error, label)
    facts.entry(label, context, state="failed")


# Writing


def _write(
    workspace: Workspace,
    chosen: Sequence[EntryContext],
    now: LockFile | None,
    write: Write,
    facts: Facts,
    *,
    upgrade: bool,
    may_be_broken: bool,
) -> int:
    name = shown_path(lock_path(workspace.path))
    resolved: Resolved = {}
    failed = 0
    for pin in dict.fromkeys(map(_pin_of, chosen)):
        group = [context for context in chosen if _pin_of(context) == pin]
        found: Resolved = {}
        try:
            for context in group:
                if not upgrade and now is not None and context.entry.key in now.entries:
                    continue
                commit = next((commit for commit, _ in found.values()), "")
                found[context.entry.key] = _resolved(workspace, context, commit, now, upgrade=upgrade)
        except CacheTaskError as error:  # the others of this source and revision stay too: they share its pin
            _report(error, context, context.name, facts)
            failed += 1
            continue
        resolved |= found
        for context in group:
            if context.entry.key in found:
                write(f"{context.name}: {_format_change(now, context, *found[context.entry.key])}")
                facts.entry(context.name, context, **_facts_of_change(now, context, *found[context.entry.key]))
            else:
                facts.entry(context.name, context, state="unchanged")
    requests = [context.entry.request for context in workspace.contexts]
    if now is None and not resolved:
        if not failed:
            write(f"{name}: not written, the config has no entries")
            _add_file(facts, workspace, "not written")
        return int(bool(failed))
    gone = _gone(now, requests)
    for line in gone:
        write(line)
    has_changed = update_lock(
        workspace.path, lambda there: (there or LockFile()).changed(requests, resolved), broken_is_none=may_be_broken
    )
    write(f"{name}: {'written' if has_changed else 'unchanged'}")
    _add_file(facts, workspace, "written" if has_changed else "unchanged", gone)
    return int(bool(failed))


def _add_file(facts: Facts, workspace: Workspace, state: str, notes: Sequence[str] = ()) -> None:
    facts.add("locks", {"path": lock_path(workspace.path), "state": state, "notes": notes})


def _gone(now: LockFile | None, requests: Sequence[Request]) -> list[str]:
    if now is None:
        return []
    gone = sorted({entry.pin for entry in now.entries.values()} - set(map(pin_key, requests)))
    return [f"{format_pin(pin)}: dropped, it is not in the config any more" for pin in gone]


def _resolved(
    workspace: Workspace, context: EntryContext, commit: str, now: LockFile | None, *, upgrade: bool
) -> tuple[str, LockedEntry]:
    """Return what an entry is to be locked at.

    Args:
        commit: that of another entry with the same pin; "" for none.
    """
    status = workspace.read_status(context)
    known = now.find(context.entry.request) if now is not None else None
    if upgrade:  # it puts right what somebody edited, so the lock itself is not asked
        known = known_versions(context, status.manifest)
    else:
        commit = commit or (known.commit if known is not None else "")
        manifest = status.fresh_manifest
        if manifest is not None and commit in ("", manifest.revision):
            found = from_manifest(context, manifest)
            if found is not None:
                return found
        if not commit:  # the one that a run would take
            pins = [RootState(root).pin_of(context.entry.request) for root in context.roots]
            commit = next((pin.commit for pin in pins if pin is not None), "")
    with workspace.showing_run(context) as run:
        return resolve(context, run, commit=commit, known=known)


def _facts_of_change(now: LockFile | None, context: EntryContext, commit: str, entry: LockedEntry) -> dict[str, Any]:
    locked = now.find(context.entry.request) if now is not None else None
    if locked is None or not locked.is_complete:
        size = sum(file.size for file in entry.files)
        return {"state": "locked", "commit": commit, "files": len(entry.files), "size": size}
    return _facts_of_moves(find_moves(locked, commit, entry))


def _facts_of_moves(moves: Moves) -> dict[str, Any]:
    if not moves:
        return {"state": "unchanged"}
    return {"state": "moved", "moves": dataclasses.asdict(moves)}


def _format_change(now: LockFile | None, context: EntryContext, commit: str, entry: LockedEntry) -> str:
    locked = now.find(context.entry.request) if now is not None else None
    if locked is None or not locked.is_complete:
        size = sum(file.size for file in entry.files)
        at = f" at {commit[:12]}" if commit else ""
        return f"locked{at}, {format_count(len(entry.files), 'file')}, {format_bytes(size)}"
    moves = find_moves(locked, commit, entry)
    return _format_moves(moves, entry.revision) if moves else "unchanged"


# Checking


def _check(
    workspace: Workspace,
    chosen: Sequence[EntryContext],
    now: LockFile | None,
    write: Write,
    facts: Facts,
    *,
    is_all: bool,
    remote: bool,
) -> int:
    name = shown_path(lock_path(workspace.path))
    if now is None:
        if not workspace.contexts:
            write(f"{name}: not needed, the config has no entries")
            _add_file(facts, workspace, "not needed")
            return 0
        write(f"{name}: missing")
        _add_file(facts, workspace, "missing")
        output.notify(f"hint: {RUN_LOCK}.")
        return 1
    asked = workspace.contexts if is_all else chosen
    outdated = now.find_outdated({context.name: context.entry.request for context in asked})
    if not is_all:
        outdated = [line for line in outdated if any(line.startswith(f"{context.name} ") for context in asked)]
    for line in outdated:
        write(f"{name}: {line}")
    _add_file(facts, workspace, "outdated" if outdated else "up to date", outdated)
    if outdated:
        output.notify(f"hint: {RUN_LOCK}.")
    elif not remote:
        write(f"{name}: {format_count(len(asked), 'entry', 'entries')}, up to date")
    moved = _check_remote(workspace, chosen, now, write, facts) if remote else False
    return int(bool(outdated) or moved)


def _check_remote(
    workspace: Workspace, chosen: Sequence[EntryContext], now: LockFile, write: Write, facts: Facts
) -> bool:
    """Ask the stores, and write what has moved; return whether anything has, or an entry failed."""
    asked = Remote(facts)
    for context in chosen:
        locked = now.find(context.entry.request)
        if locked is not None and locked.is_complete and (line := asked.ask(workspace, context, context.name, locked)):
            write(f"{context.name}: {line}")
    for hint in asked.hints:
        output.notify(f"hint: {hint}")
    return asked.has_moved or asked.has_failed


class Remote:
    """Asks the stores what has moved since entries were locked or fetched: for `lock --check` and `why`.

    Attributes:
        has_moved: whether anything has, of any entry.
        has_failed: whether any store could not be asked; the lines about it are written.
        hints: how to take what is there now.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.has_moved = False
        self.hints: set[str] = set()
        self.has_failed = False
        self._commits: dict[tuple[Path, PinKey], str] = {}  # what a revision stands for now: asked once

    def ask(self, workspace: Workspace, context: EntryContext, label: str, before: Locked) -> str:
        """Return what has moved of an entry, as text; `unchanged` if nothing; "" if the store cannot be asked."""
        key = (workspace.path, _pin_of(context))
        try:
            with workspace.showing_run(context) as run:
                moves, commit = ask_moves(context, run, before, commit=self._commits.get(key, ""))
        except CacheTaskError as error:
            _report(error, context, label, self._facts)
            self.has_failed = True
            return ""
        self._commits[key] = commit
        self._facts.entry(label, context, **_facts_of_moves(moves))
        if not moves:
            return "unchanged"
        self.has_moved = True
        self.hints.add(_TAKE_UNLOCKED if context.locked is None else _TAKE_LOCKED)
        return _format_moves(moves, context.entry.request.revision)


def _format_moves(moves: Moves, revision: str) -> str:
    """Return `main: 1a2b3c4d5e6f -> ...; 2 files changed, 1 new, 1 gone, 1.2 GB to fetch`."""
    counts = []
    if moves.changed:
        counts.append(f"{format_count(len(moves.changed), 'file')} changed")
    counts += [f"{len(paths):,} {word}" for paths, word in ((moves.new, "new"), (moves.gone, "gone")) if paths]
    counts.append(f"{format_bytes(moves.size)} to fetch" if counts else "no file changed")
    pin = f"{revision}: {moves.before[:12]} -> {moves.after[:12]}; " if moves.before != moves.after else ""
    return pin + ", ".join(counts)
