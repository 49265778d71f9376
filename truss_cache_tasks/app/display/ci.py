"""What the log of a CI service understands beyond text: groups of lines, annotations, and the summary of a job.

Each service is known by its own variable: GITHUB_ACTIONS, GITLAB_CI, BUILDKITE.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from truss_cache_tasks.app.display.lines import format_duration, format_rate
from truss_cache_tasks.app.display.progress import Progress
from truss_cache_tasks.app.output import escaped, format_bytes, format_count, format_error

Level = Literal["error", "warning"]

_HEAD = ("| entry | result | files | fetched | reused | time | rate |", "|---|---|--:|--:|--:|--:|--:|")
_PLACE = re.compile(r"(?P<file>[^:\n]+):(?P<line>[0-9]+): ")
_LARGEST_SUMMARY = 1 << 20  # GitHub shows no more bytes of a step


class Service(Protocol):
    """A CI service. Each method returns what is written to stderr as it is, "" for nothing."""

    def begin_group(self, title: str, epoch_s: int) -> str:
        """Begin a group of lines."""
        ...

    def end_group(self, epoch_s: int) -> str:
        """End the group."""
        ...

    def annotate(self, level: Level, title: str, message: str, where: str) -> str:
        """Return an annotation.

        Args:
            where: ``file:line: ...``, the place in a config; "" if it is not known.
        """
        ...

    def summarize(self, label: str, progress: Progress) -> None:
        """Add an entry that has ended to the summary of the job. An error is ignored."""
        ...


def service_of(env: Mapping[str, str]) -> Service | None:
    """Return the service that runs this process, None outside of those that are known."""
    if env.get("GITHUB_ACTIONS") == "true":
        return GitHub(env.get("GITHUB_STEP_SUMMARY", ""), env.get("GITHUB_WORKSPACE", ""))
    if env.get("GITLAB_CI") == "true":
        return GitLab()
    if env.get("BUILDKITE") == "true":
        return Buildkite()
    return None


class GitHub:
    """GitHub Actions: "Workflow commands" of its documentation."""

    def __init__(self, summary: str, workspace: str) -> None:
        """Write nothing.

        Args:
            summary: path of the file that becomes the summary of the step; "" for none.
            workspace: the folder that annotations are relative to; "" for the current one.
        """
        self._summary = summary
        self._workspace = workspace

    def begin_group(self, title: str, epoch_s: int) -> str:
        """Begin a group of lines."""
        return f"::group::{_data(title)}\n"

    def end_group(self, epoch_s: int) -> str:
        """End the group."""
        return "::endgroup::\n"

    def annotate(self, level: Level, title: str, message: str, where: str) -> str:
        """Return an annotation of the line in the config."""
        properties = {"title": title}
        if place := _PLACE.match(where) or _PLACE.match(message):
            properties = {"file": self._relative(place["file"]), "line": place["line"], **properties}
        listed = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
        return f"::{level} {listed}::{_data(message)}\n"

    def summarize(self, label: str, progress: Progress) -> None:
        """Append a row to the table in the summary; the first one begins the table."""
        if not self._summary:
            return
        with contextlib.suppress(OSError, ValueError):
            path = Path(self._summary)
            size = path.stat().st_size if path.exists() else 0
            if size > _LARGEST_SUMMARY:
                return
            before = path.read_text(errors="replace") if size else ""
            head = "" if before.endswith("|\n") and _HEAD[0] in before else "\n".join(["", *_HEAD, ""])
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{head}{_row(label, progress)}\n")

    def _relative(self, file: str) -> str:
        """Return a path as annotations want it: relative to the workspace where it is below that."""
        workspace = os.path.realpath(self._workspace or ".")
        relative = os.path.relpath(os.path.realpath(file), workspace)
        return file if relative.startswith("..") else relative


class GitLab:
    """GitLab: "Custom collapsible sections" of its documentation."""

    _count = 0

    def begin_group(self, title: str, epoch_s: int) -> str:
        """Begin a section; each has a name of its own."""
        self._count += 1
        return f"\x1b[0Ksection_start:{epoch_s}:{self._name}\r\x1b[0K{escaped(title)}\n"

    def end_group(self, epoch_s: int) -> str:
        """End the section."""
        return f"\x1b[0Ksection_end:{epoch_s}:{self._name}\r\x1b[0K\n"

    def annotate(self, level: Level, title: str, message: str, where: str) -> str:
        """Return nothing: the line of the log says it."""
        return ""

    def summarize(self, label: str, progress: Progress) -> None:
        """Do nothing."""

    @property
    def _name(self) -> str:
        return f"truss_cache_{os.getpid()}_{self._count}"


class Buildkite:
    """Buildkite: "Managing log output" of its documentation."""

    def begin_group(self, title: str, epoch_s: int) -> str:
        """Begin a group, which the next one ends."""
        return f"--- {escaped(title)}\n"

    def end_group(self, epoch_s: int) -> str:
        """Begin the group of the results, which is shown unfolded."""
        return "+++ Weights\n"

    def annotate(self, level: Level, title: str, message: str, where: str) -> str:
        """Unfold the current group where something failed, as the line about that is in it."""
        return "^^^ +++\n" if level == "error" else ""

    def summarize(self, label: str, progress: Progress) -> None:
        """Do nothing."""


def _data(text: str) -> str:
    """Return the text of a workflow command: no newline ends it, no store forges another one."""
    return escaped(text).replace("%", "%25")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _row(label: str, progress: Progress) -> str:
    end = progress.committed
    seconds = progress.elapsed(progress.began)
    took = f"{seconds:.1f} s" if seconds < 100 else format_duration(seconds)
    if end is None:
        cause = format_error(progress.failed, label)[0].removeprefix(f"{label}: ") if progress.failed else "stopped"
        cells = [f"failed: {cause}", "", "", "", took, ""]
    else:
        unverified = f", {end.unverified:,} unverified" if end.unverified else ""
        rate = format_rate(progress.fresh / seconds) if progress.fresh and seconds > 0 else ""
        cells = [
            f"{end.how}{unverified}",
            f"{end.files:,}",
            f"{format_count(end.fetched_files, 'file')}, {format_bytes(end.fetched_size)}",
            f"{format_count(end.files - end.fetched_files, 'file')}, {format_bytes(end.size - end.fetched_size)}",
            took,
            rate,
        ]
    return "".join(f"| {_cell(text)} " for text in [label, *cells]) + "|"


def _cell(text: str) -> str:
    """Return text that is only text in a cell of a Markdown table: no link, HTML, or column of its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&])", r"\\\1", escaped(text))
