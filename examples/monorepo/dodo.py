"""Several Trusses, one dodo.py: `doit`, or `doit weights_embed`, or `doit list --all --status`."""

from __future__ import annotations

from typing import Any

from truss_cache_tasks import cache_tasks

DOIT_CONFIG = {"default_tasks": ["weights_embed", "weights_transcribe"]}

# defer_errors: a config that is broken becomes a task that fails, and the other Truss works on.
task_weights_embed = cache_tasks("embed", basename="weights_embed", model_cache_dir="cache", defer_errors=True)
task_weights_transcribe = cache_tasks(
    "transcribe", basename="weights_transcribe", model_cache_dir="cache", defer_errors=True
)


def task_report() -> dict[str, Any]:
    """Say what the embedder's weights are; runs after they are there."""
    return {
        "task_dep": ["weights_embed"],
        "getargs": {"weights": ("weights_embed", "revision")},
        "actions": ["echo '%(weights)s'"],
        "verbosity": 2,
    }
