"""The roots of an entry during its run: made, kept open, locked, remembered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from truss_cache_tasks.errors import (
    CacheTaskError,
    DiskError,
    Stopped,
)
from truss_cache_tasks.model.keys import request_key
from truss_cache_tasks.model.request import Layout
from truss_cache_tasks.operations.context import EntryContext
from truss_cache_tasks.operations.run import RunContext
from truss_cache_tasks.store.files import disk
from truss_cache_tasks.store.files.locks import locked
from truss_cache_tasks.store.layouts.layout import CacheRoot
from truss_cache_tasks.store.records.known_roots import forget_empty_roots, remember_roots
from truss_cache_tasks.store.removal.clean import forget_empty_note, remove_empty_folders

if TYPE_CHECKING:
    pass


@contextlib.contextmanager
def opened_roots(context: EntryContext, run: RunContext) -> Iterator[None]:
    """Make the folders of the entry's root, and keep its roots open for the block.

    If the block fails, remove the folders that stayed empty.
    """
    if not disk.is_writable(context.root.records):
        raise DiskError(
            f"the cache folder {context.root.path} is not writable",
            hint=_hint_of_another_folder(context),
        )
    with contextlib.ExitStack() as opened:
        for root in context.roots:
            opened.enter_context(root.tree.kept_open())
        context.root.layout.make_folders()
        try:
            yield
        except CacheTaskError:
            with contextlib.suppress(OSError, DiskError, Stopped):  # the error of the block counts
                for root in context.roots:
                    remove_empty_folders(root)
                forget_empty_roots(context.settings, context.project, cancel=run.cancel, on_wait=run.waits_for_root)
            raise


def _hint_of_another_folder(context: EntryContext) -> str:
    """Return the hint for a root that cannot be written: the one variable that moves it, with a value to paste."""
    import shlex  # imported here: only a failure needs it

    variable, folder = {
        Layout.HUB: ("HF_HOME", "huggingface"),
        Layout.MOUNT: ("TRUSS_MOUNT_ROOT", "mounts"),
    }.get(context.entry.request.layout, ("TRUSS_MODEL_CACHE_DIR", "cache"))
    if variable == "HF_HOME" and context.entry.hub_env:
        return "Make it writable, or name another folder in environment_variables of config.yaml, which decides."
    value = shlex.quote(str(context.entry.config.parent / folder))
    return f"Choose another: export {variable}={value}"


@contextlib.contextmanager
def wait_for_other_process(context: EntryContext, root: CacheRoot, run: RunContext) -> Iterator[None]:
    """Wait for another process that fetches this entry, and hold the entry's lock in `root` for the block.

    If the block fails, and nothing is left of what the note of its fetch lists, remove the note.
    """
    key = request_key(context.request_in(root))
    with (
        locked(root.entry_lock(key), run.cancel, run.waits_for_entry) as held,
        run.record.holding(root, held),
    ):
        try:
            yield
        except CacheTaskError:
            with contextlib.suppress(OSError, DiskError):  # the error of the block counts
                forget_empty_note(root, key, (context.project.id, context.claim_in(root)))
            raise


def remember_roots_of(context: EntryContext, run: RunContext) -> None:
    """Note the roots of the config outside them, before the first write below one that stays."""
    remember_roots(context.settings, context.project, run.warn, cancel=run.cancel, on_wait=run.waits_for_root)
