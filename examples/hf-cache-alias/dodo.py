"""A config with `hf_cache`, and a hub cache of its own: `doit cache_weights`."""

from truss_cache_tasks import task_cache_weights  # noqa: F401 - doit finds the task by its name
