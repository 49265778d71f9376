"""What must be true of a world at every moment, however it came there. Each function raises Broken with what is not."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from scenarios.cache.world.model import (
    DONE,
    FAILED,
    INCOMPLETE,
    INTERNAL,
    OUTSIDE,
    PROJECTS,
    ROOTS,
    Broken,
    Node,
    Ran,
    World,
)
from scenarios.cache.world.records import FOLDERS, RECORDS, Records, is_key
from scenarios.cache.world.sources import HUB, MOUNT, VOLUME, Entry, Version

COMMIT = re.compile("[0-9a-f]{40}")


def check(world: World, *, settled: bool = False) -> None:
    """Check everything that holds after any step.

    Args:
        settled: every project has just run to its end: nothing may be left of what was killed or failed before.
    """
    disk, records = world.scan(), world.records()
    check_the_users_files(world, disk)
    for project in PROJECTS:
        for entry, _, fresh in world.targets(project):
            if fresh:
                check_fresh(world, disk, project, entry)
    check_records(world, disk, records)
    check_owners(world, disk, records, settled=settled)


# (a) What is judged fresh is what the source has


def check_fresh(world: World, disk: Mapping[Path, Node], project: str, entry: Entry, *, flips: bool = True) -> None:
    """Compare every file of a fresh entry with a version of its source: one that it may be at, and the same for all.

    Args:
        flips: whether files that rotted behind their stat are forgiven.
    """
    versions = world.versions(project, entry)[world.resolved.get((project, entry), 0) :]
    if entry.layout == HUB and COMMIT.fullmatch(entry.revision) is None:
        ref = disk.get(entry.root(world.base) / "refs" / entry.revision)
        if ref is None:
            raise Broken(f"{project}: {entry} is fresh, and refs/{entry.revision} is missing")
        versions = [version for version in versions if version.label.encode() == ref.content]
    wrong = ["its source never was what refs says"]
    for version in reversed(versions):
        wrong = differences(world, disk, project, entry, version, flips=flips)
        if not wrong:
            return
    raise Broken(
        f"{project}: {entry} is judged fresh, but differs from its source: {'; '.join(wrong)}"
        + (f" (and from {len(versions) - 1} earlier versions)" if len(versions) > 1 else "")
    )


def differences(
    world: World, disk: Mapping[Path, Node], project: str, entry: Entry, version: Version, *, flips: bool
) -> list[str]:
    """Name the files that are not as this version has them."""
    shown = entry.shown(world.base, version)
    wrong = [] if shown else ["it selects nothing"]
    for path, data in shown.items():
        node = resolved(disk, path)
        world.figures.hashed += len(data)
        if node is None or node.kind != "file":
            wrong.append(f"{world.short(path)} is no file")
        elif node.content != data and not (flips and world.flipped.get(node.inode) == node.content):
            wrong.append(f"{world.short(path)} holds {told(node.content)}, the source has {told(data)}")
    if has_place_of_its_own(world, project, entry):
        place = entry.place(world.base)
        more = {
            p for p, node in disk.items() if node.kind != "folder" and place in p.parents and RECORDS not in p.parts
        }
        wrong += [f"{world.short(path)} is there too" for path in sorted(more - shown.keys() - world.foreign.keys())]
    return wrong


def check_records(world: World, disk: Mapping[Path, Node], records: Records) -> None:
    """A file that has the size and time of its record has its bytes too: any run may take them from there, unread."""
    for root, manifests in records.files.items():
        for one in (one for files in manifests.values() for one in files):
            path = root / (one["blob"] or one["path"])
            node = disk.get(path)
            if node is None or (len(node.content), node.mtime_ns) != (one["size"], one["mtime_ns"]):
                continue
            world.figures.hashed += one["size"]
            is_right = xxh3_128_hexdigest(node.content) == one["xxh3"] and has_digest(node.content, one["digest"])
            if not is_right and world.flipped.get(node.inode) != node.content:
                raise Broken(f"{world.short(path)} holds {told(node.content)}, its record says {one['digest']}")


def has_digest(data: bytes, text: str) -> bool:
    """Whether `algorithm:hex` is the digest of these bytes; what is no digest of the whole file is not looked at."""
    algorithm, _, value = text.partition(":")
    if algorithm == "git-sha1":
        algorithm, data = "sha1", b"blob %d\0" % len(data) + data
    if algorithm not in ("sha256", "sha1", "md5"):
        return True
    return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest() == value


def resolved(disk: Mapping[Path, Node], path: Path) -> Node | None:
    """Return what is at `path`; of a link in `snapshots`, the file that it leads to."""
    node = disk.get(path)
    if node is not None and node.kind == "link" and "snapshots" in path.parts:
        target = node.content.decode()
        return disk.get(Path(*_normal((path.parent / target).parts)))
    return node


def _normal(parts: Iterable[str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        found.pop() if part == ".." else found.append(part)
    return found


def has_place_of_its_own(world: World, project: str, entry: Entry) -> bool:
    """Whether nobody else ever had files in, above or below the folder of this entry."""
    if entry.layout not in (VOLUME, MOUNT) or entry.root(world.base) in world.lost:
        return False
    place = entry.place(world.base)
    near = [users for other, users in world.users.items() if is_nested(other, place)]
    return set().union(*near) == {world.user(project, entry)}


def is_nested(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def told(data: bytes) -> str:
    return f"{data[:12]!r}{f'... ({len(data)} bytes)' if len(data) > 12 else ''}"


# (b) What is the user's stays as it is


def check_the_users_files(world: World, disk: Mapping[Path, Node]) -> None:
    for path, node in world.foreign.items():
        if disk.get(path) != node:
            now = disk.get(path)
            raise Broken(
                f"the user's {node.kind} {world.short(path)} was {told(node.content)}, and "
                + (f"is now a {now.kind} with {told(now.content)}" if now else "is gone")
                + (" (replaced by a copy)" if now and now.content == node.content else "")
            )
    outside = world.base / "outside"
    files = {
        path.relative_to(outside).as_posix(): node.content
        for path, node in disk.items()
        if outside in path.parents and node.kind == "file"
    }
    if files != OUTSIDE:
        raise Broken(f"the user's files outside the roots changed: {sorted(files)}, expected {sorted(OUTSIDE)}")


# (c) Every byte of ours has an owner


def check_owners(world: World, disk: Mapping[Path, Node], records: Records, *, settled: bool) -> None:
    """Name what lies below the roots and is neither the user's, nor listed by a manifest that somebody claims."""
    if settled:
        world.debris -= current_roots(world)
        world.killed_in -= current_roots(world)
    owned = records.owned()
    stray = [
        path
        for path, node in disk.items()
        if node.kind != "folder"
        and path.relative_to(world.base).parts[0] in ROOTS
        and path not in world.foreign
        and not has_owner(world, records, owned, path)
        and not is_in(path, world.debris | world.lost)
    ]
    if stray:
        raise Broken(f"nobody owns {', '.join(world.short(path) for path in sorted(stray))}")


def has_owner(world: World, records: Records, owned: Mapping[Path, object], path: Path) -> bool:
    """Whether a file or link is listed by a manifest that somebody claims, or is a record that may stay."""
    if ".locks" in path.parts:  # huggingface_hub's own, which stay (docs/adr/0006)
        return path.suffix == ".lock" and not path.is_symlink() and not path.stat().st_size
    if RECORDS not in path.parts:
        return path in owned or is_ref(world, records, path)
    at = path.parts.index(RECORDS)
    root, inside = Path(*path.parts[:at]), path.parts[at + 1 :]
    match inside:
        case ("manifests", name):
            return is_key(name) and name.partition(".")[0] in records.claimed[root]
        case ("claims", _) | ("pins.json",) | ("runs.jsonl",):
            return True
        case ("blobs", _, name):
            return name.partition(".")[0] in records.blob_ids(root)
    return False


def is_ref(world: World, records: Records, path: Path) -> bool:
    root = next((root for root in path.parents if root.parent == world.base / "hub"), None)
    return (
        root is not None
        and path.relative_to(root).parts[0] == "refs"
        and not path.is_symlink()
        and path.read_text() in records.labels.get(root, ())
    )


def is_in(path: Path, roots: set[Path]) -> bool:
    """Whether a path belongs to one of the roots; the locks of a repo lie beside it, in `hub/.locks`."""
    if ".locks" in path.parts:
        at = path.parts.index(".locks")
        return any(root.name.startswith("models--") and root.name in path.parts[at + 1] for root in roots)
    return any(root in path.parents for root in roots)


def current_roots(world: World) -> set[Path]:
    return {r for entries in world.projects.values() for entry in entries for r in entry.roots(world.base)}


def check_nothing_is_left(world: World) -> None:
    """After a clean of every project: below the roots are only the user's things, and the roots themselves."""
    disk = world.scan()
    users = {parent for path in world.foreign for parent in (path, *path.parents)} | world.made
    roots = {parent for roots in world.roots_of.values() for root in roots for parent in (root, *root.parents)}
    roots = {root for root in roots if not root.name.startswith("models--")} | {world.base / "hub"}
    roots |= {path / "snapshots" for path in users if path.parent == world.base / "hub"}  # scan_cache_dir() wants one
    left = [
        world.short(path)
        for path in sorted(disk)
        if path.relative_to(world.base).parts[0] in ROOTS and path not in users and path not in roots
        if ".locks" not in path.parts
        if not is_in(path, world.lost)
        and not (disk[path].kind == "folder" and any(lost.is_relative_to(path) for lost in world.lost))
    ]
    if left:
        raise Broken(f"every project is clean, and this is left: {', '.join(left)}")


def check_no_records_are_left(world: World) -> None:
    """After a clean of every project and a prune: no record of ours is left, whichever records were removed before."""
    users = {parent for path in world.foreign for parent in (path, *path.parents)} | world.made
    if left := [path for path in world.scan() if RECORDS in path.parts and path not in users]:
        raise Broken(
            f"every project is clean and pruned, and this is left: {', '.join(map(world.short, sorted(left)))}"
        )


# (d) `clean -n` says what `clean` does, and both say what the disk gets back


def check_clean(world: World, project: str, *names: str) -> Ran:
    """Clean the project's config or some of its entries: compare what `-n` said, what is said, and the disk."""
    before, fresh = world.scan(), fresh_entries(world, but=project)
    payload = world.payload()
    dry = world.clean(project, *names, dry=True)
    if world.scan() != before:
        raise Broken(f"{project}: clean -n {' '.join(names)} changed the disk")
    ran = world.clean(project, *names)
    check_exit(world, ran, allowed={DONE, INCOMPLETE} if has_blocked_records(world, project) else {DONE})
    now = world.payload()
    gone = {path: stat for path, stat in payload.items() if path not in now}
    kept = {(stat.st_dev, stat.st_ino) for stat in now.values()}
    freed = {
        (s.st_dev, s.st_ino): s.st_size
        for path, s in gone.items()
        if (s.st_dev, s.st_ino) not in kept and before[path].kind == "file"
    }
    said = {ran.removed} if ran.code == INCOMPLETE else {dry.removed, ran.removed}  # it may have been kept from a root
    if said != {(len(gone), sum(freed.values()))}:
        raise Broken(
            f"{project}: clean {' '.join(names)}: -n said {dry.removed} (paths, bytes), clean said {ran.removed}, "
            f"and the disk lost {(len(gone), sum(freed.values()))}: {', '.join(sorted(map(world.short, gone)))}"
        )
    if lost := fresh - fresh_entries(world, but=project):
        who, entry = sorted(lost, key=str)[0]
        raise Broken(f"{project}: clean {' '.join(names)} took files of {who}: {entry} was fresh and is not")
    return ran


def check_prune(world: World, project: str, *options: str) -> Ran:
    """Prune: what `--yes` does not say it changes stays, no fresh entry of anybody is less, what it says is gone."""
    before, fresh, payload = world.scan(), fresh_entries(world, but=""), world.payload()
    dry = world.prune(project, *options)
    if world.scan() != before:
        raise Broken(f"{project}: prune {' '.join(options)} changed the disk")
    ran = world.prune(project, *options, "--yes")
    allowed = {DONE, INCOMPLETE} if world.foreign else {DONE}  # a user's file may be where a folder of ours was
    check_exit(world, dry, allowed=allowed)
    check_exit(world, ran, allowed=allowed)
    gone = payload.keys() - world.payload().keys()
    if ours := [path for path in gone if path in world.foreign]:
        raise Broken(f"{project}: prune took the user's {', '.join(map(world.short, ours))}")
    if lost := fresh - fresh_entries(world, but=""):
        who, entry = sorted(lost, key=str)[0]
        raise Broken(f"{project}: prune {' '.join(options)} took files of {who}: {entry} was fresh and is not")
    return ran


def check_no_claims(world: World, project: str) -> None:
    """A project whose config is gone has no claim after a prune."""
    config = str(world.base / project / "config.yaml")
    for top in ROOTS:
        for path in (world.base / top).rglob(f"{RECORDS}/claims/*.json"):
            if path not in world.foreign and config in path.read_text(errors="replace"):
                raise Broken(f"{project}: its config is gone, and {world.short(path)} is there after a prune")


def fresh_entries(world: World, but: str) -> set[tuple[str, Entry]]:
    return {(p, entry) for p in PROJECTS if p != but for entry, _, fresh in world.targets(p) if fresh}


def has_blocked_records(world: World, project: str) -> bool:
    """Whether something of the user's lies where a folder or a file of ours must be."""
    return any(is_in(path, world.reach(project)) for path in world.foreign)


# (e) A run fails only where the model says why


def check_run(world: World, ran: Ran, project: str, *, entries: list[Entry], names: Mapping[str, Entry]) -> None:
    """Check how a run of these entries ended."""
    check_exit(world, ran, allowed={DONE, FAILED})
    failed = {names[name] for name in ran.failed}
    if (ran.code == FAILED) != bool(failed):
        raise Broken(f"{project}: exit {ran.code}, and no error says what failed: {ran.text}")
    for entry in failed:
        check_excuse(world, ran, project, entry)
    for entry, _, fresh in world.targets(project):
        if entry in entries and entry not in failed and not fresh and not is_shared(world, project, entry):
            raise Broken(f"{project}: {entry} is stale after a run that ended well:\n{ran.text}")


def check_excuse(world: World, ran: Ran, project: str, entry: Entry) -> None:
    if not excuses(world, project, entry):
        raise Broken(f"{project}: {entry} failed, and nothing in the world explains it:\n{ran.text}")


def check_exit(world: World, ran: Ran, allowed: set[int]) -> None:
    if ran.code == INTERNAL or "internal error" in ran.text or "Traceback" in ran.text:
        raise Broken(f"an internal error: {ran.text}")
    if ran.code not in allowed:
        raise Broken(f"exit {ran.code}, expected {' or '.join(map(str, sorted(allowed)))}: {ran.text}")


def is_shared(world: World, project: str, entry: Entry) -> bool:
    """Whether another entry of the config may rightly turn this one stale: a path or a pin in common."""
    mine = set(wanted(world, project, entry))
    return any(
        other != entry
        and (
            mine & set(wanted(world, project, other))
            or (entry.is_hub and (entry.uri, entry.revision) == (other.uri, other.revision))
        )
        for other in world.projects[project]
    )


def wanted(world: World, project: str, entry: Entry) -> dict[Path, set[bytes]]:
    """Return path -> the bytes that may have to be shown there: a pinned revision may be any that it ever was."""
    found: dict[Path, set[bytes]] = {}
    versions = world.versions(project, entry)
    for version in versions if entry.is_hub else versions[-1:]:
        for path, data in entry.shown(world.base, version).items():
            found.setdefault(path, set()).add(data)
    return found


def wanted_behind(world: World, project: str, entry: Entry) -> dict[Path, set[bytes]]:
    """Return what `wanted` does of the hub cache behind an entry with plain files; nothing of another entry."""
    found: dict[Path, set[bytes]] = {}
    if entry.is_hub and entry.layout != HUB:
        for version in world.versions(project, entry):
            place, snapshot = entry.place(world.base), entry.repo(world.base) / "snapshots" / version.label
            for path, data in entry.shown(world.base, version).items():
                found.setdefault(snapshot / path.relative_to(place), set()).add(data)
    return found


def excuses(world: World, project: str, entry: Entry) -> list[str]:
    """Return every reason that this entry may fail for."""
    versions = world.versions(project, entry)
    found = [
        "a version of its source has nothing that it selects"
        for version in (versions if entry.is_hub else versions[-1:])
        if not entry.shown(world.base, version)
    ]
    if project in world.locked and not entry.is_hub:
        found.append("its lock file may name objects that the store has no more")
    mine = wanted(world, project, entry)
    needed = mine | wanted_behind(world, project, entry)
    roots = entry.roots(world.base)
    if roots & world.lost:
        found.append("records were removed: what they listed may count as the user's")
    for path, node in world.foreign.items():
        if path in needed and (node.kind != "file" or needed[path] != {node.content}):
            found.append(f"the user's {node.kind} {world.short(path)} is in its place")
        elif roots & set(path.parents) and any(path in p.parents for p in needed):
            found.append(f"the user's {node.kind} {world.short(path)} is where it needs a folder")
        elif any(p in path.parents for p in needed):
            found.append(f"the user has {world.short(path)} in a folder where it needs a file")
        elif any(blocks_records(path, root) for root in world.reach(project)):  # nested roots are asked too
            found.append(f"the user's {node.kind} {world.short(path)} is where our records are")
    found += [
        f"a folder {world.short(path)} is in its place, if an empty one"
        for path, node in world.scan().items()
        if path in needed and node.kind == "folder"
    ]
    for other_project in PROJECTS:
        for other in world.projects[other_project]:
            if other == entry and other_project == project:
                continue
            found += collisions(world, mine, wanted(world, other_project, other), same=other_project == project)
    others = {path for path in world.records().owned() if not any(path in e for e in (mine,))}
    found += [
        f"{world.short(path)} is a file where it needs a folder"
        for path in others
        if any(path in p.parents for p in mine)
    ]
    found += [
        f"{world.short(path)} is in a folder where it needs a file"
        for path in others
        if any(p in path.parents for p in mine)
    ]
    return found


def collisions(
    world: World, mine: Mapping[Path, set[bytes]], theirs: Mapping[Path, set[bytes]], *, same: bool
) -> list[str]:
    """Name the paths that two entries cannot share; other bytes at one path matter within one config alone."""
    found = [
        f"{world.short(p)} has other bytes"
        for p in mine.keys() & theirs.keys()
        if same and len(mine[p] | theirs[p]) > 1
    ]
    found += [f"{world.short(p)} is a folder of another entry" for p in mine if any(p in q.parents for q in theirs)]
    found += [f"{world.short(q)} is a file of another entry" for q in theirs if any(q in p.parents for p in mine)]
    return found


def blocks_records(path: Path, root: Path) -> bool:
    """Whether something of the user's lies where a run must have a folder or a record of its own."""
    if root not in path.parents:
        return False
    inside = path.relative_to(root).parts
    if inside[0] == RECORDS:
        return len(inside) == 1 or (len(inside) == 2 and inside[1] in FOLDERS)
    return root.name.startswith("models--") and (inside[0] == "refs" or len(inside) == 1)
