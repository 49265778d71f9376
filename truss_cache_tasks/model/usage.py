"""Values: the files of ours in cache roots and what needs them. Choose which of them go to keep a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from truss_cache_tasks.model.records import ClaimId, Maker

UNOWNED = ""  # the unit of what dead runs left and no record lists


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One file of ours.

    Attributes:
        inode: (device, inode): what has several names takes its bytes once.
        size: bytes; of a partial, those that the disk gave to it.
        units: what lists it: paths of manifests, and of notes of dead fetches. It can go with the last of them.
        kind: `staged` is whole and not yet listed by a manifest, `partial` is being fetched; `whole` is any other.
        is_kept: it stays whatever goes: a running job, an unfinished fetch or another tool needs it.
    """

    inode: tuple[int, int]
    size: int
    units: frozenset[str]
    kind: Literal["whole", "staged", "partial"] = "whole"
    is_kept: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadClaim:
    """A claim that protects nothing any more.

    Attributes:
        claim: its project and name.
        request: the request key.
        why: one clause.
    """

    claim: ClaimId
    maker: Maker
    request: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What is kept or removed as a whole: the files of one manifest, or of the note of one dead fetch.

    Attributes:
        is_claimed: a living claim or a running job needs it.
        claims: the living claims that hold it.
        last_used: seconds since the epoch: the last fetch or claim. A run with nothing to do does not count.
    """

    is_claimed: bool
    last_used: float
    claims: frozenset[ClaimId] = frozenset()


@dataclass(frozen=True, kw_only=True, slots=True)
class RootUsage:
    """What lies in one cache root.

    Attributes:
        root: its path.
        protected: why nothing of it can be told to be unclaimed; "" where that is known.
        files: of ours.
        units: by the path of the record, relative to the root.
        dead: claims that do not count.
        makers: project id -> who made its last claim.
        foreign_files, foreign_size: what the user and other tools put there; 0 where it was not looked for.
    """

    root: str
    protected: str
    files: tuple[StoredFile, ...]
    units: Mapping[str, Unit]
    dead: tuple[DeadClaim, ...] = ()
    makers: Mapping[str, Maker] = field(default_factory=dict)
    foreign_files: int = 0
    foreign_size: int = 0

    def is_claimed(self, file: StoredFile) -> bool:
        """Whether a living claim, a running job or another tool needs a file."""
        return any(self.units[unit].is_claimed for unit in file.units) or (file.is_kept and file.kind == "whole")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Bytes of ours, each file counted once however many names it has.

    Attributes:
        claimed: a living claim, a running job or another tool needs them.
        staged, partial: whole, or incomplete, of fetches that are under way or can be resumed.
        unclaimed: all others: what `prune` removes.
    """

    claimed: int = 0
    staged: int = 0
    partial: int = 0
    unclaimed: int = 0

    @property
    def ours(self) -> int:
        """All of them."""
        return self.claimed + self.staged + self.partial + self.unclaimed


def sizes_of(usages: Iterable[RootUsage]) -> Sizes:
    """Return the bytes of ours in these roots together."""
    found: dict[tuple[int, int], tuple[int, int]] = {}  # inode -> (rank of its use, size)
    for usage in usages:
        for file in usage.files:
            rank = 0 if usage.is_claimed(file) else 3
            if rank and file.is_kept:
                rank = 1 if file.kind == "staged" else 2
            found[file.inode] = min(found.get(file.inode, (rank, file.size)), (rank, file.size))
    total = Counter[int]()
    for rank, size in found.values():
        total[rank] += size
    return Sizes(claimed=total[0], staged=total[1], partial=total[2], unclaimed=total[3])


def choose_units(usages: Sequence[RootUsage], limit: int) -> dict[str, frozenset[str]]:
    """Return the unclaimed units that go, the least recently used first, until the bytes of ours are at most `limit`.

    Returns:
        The units by root; no root without any. All unclaimed ones together may not suffice.
    """
    files = [(usage, file) for usage in usages for file in usage.files]
    names = Counter(file.inode for _, file in files)
    sizes = {file.inode: file.size for _, file in files}
    left = {number: {unit for unit in file.units if unit in usage.units} for number, (usage, file) in enumerate(files)}
    listed: dict[tuple[str, str], list[int]] = {}
    for number, (usage, file) in enumerate(files):
        for unit in file.units:
            listed.setdefault((usage.root, unit), []).append(number)
    ours, chosen = sum(sizes.values()), dict[str, set[str]]()
    for _, root, unit in sorted(
        (one.last_used, usage.root, unit) for usage in usages for unit, one in usage.units.items() if not one.is_claimed
    ):
        if ours <= limit:
            break
        chosen.setdefault(root, set()).add(unit)
        for number in listed.get((root, unit), ()):
            left[number].discard(unit)
            file = files[number][1]
            if not left[number] and not file.is_kept:
                names[file.inode] -= 1
                ours -= 0 if names[file.inode] else sizes[file.inode]
    return {root: frozenset(units) for root, units in chosen.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryUsage:
    """What one entry, or all claims of one maker, hold.

    Attributes:
        name: for people.
        size: bytes.
        unique: of these, what no other living claim holds and no other tool links to: what its clean would free.
        last_used: seconds since the epoch; None where nothing is there.
    """

    name: str
    size: int
    unique: int
    last_used: float | None

    @property
    def shared(self) -> int:
        """Bytes that another claim holds too."""
        return self.size - self.unique


def usage_of(name: str, claims: frozenset[ClaimId], usages: Iterable[RootUsage]) -> EntryUsage:
    """Return what these claims together hold in these roots."""
    held: dict[tuple[int, int], int] = {}
    shared: set[tuple[int, int]] = set()
    used: list[float] = []
    for usage in usages:
        mine = {unit: one for unit, one in usage.units.items() if one.claims & claims}
        used += [one.last_used for one in mine.values()]
        for file in usage.files:
            if not mine.keys().isdisjoint(file.units):
                held[file.inode] = file.size
            if file.is_kept or any(usage.units[unit].claims - claims for unit in file.units):
                shared.add(file.inode)
    unique = sum(size for inode, size in held.items() if inode not in shared)
    return EntryUsage(name=name, size=sum(held.values()), unique=unique, last_used=max(used, default=None))
