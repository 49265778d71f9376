"""A gated Llama's weights in the hub cache of this machine: `doit cache_weights`."""

from truss_cache_tasks import task_cache_weights  # noqa: F401 - doit finds the task by its name
