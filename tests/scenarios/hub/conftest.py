"""The fixtures of tests/machine_fixtures.py: `machine`, `repo`, `judge`, `in_background`, `small_disk`."""

from machine_fixtures import in_background, judge, machine, repo, small_disk

__all__ = ["in_background", "judge", "machine", "repo", "small_disk"]
