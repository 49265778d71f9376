"""The fixtures of tests/machine_fixtures.py: `machine`, `repo`, `judge`, `in_background`."""

from machine_fixtures import in_background, judge, machine, repo

__all__ = ["in_background", "judge", "machine", "repo"]
