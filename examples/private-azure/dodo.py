"""Weights of a private container of Azure, in a cache beside this file: `doit cache_weights`."""

from truss_cache_tasks import cache_tasks

task_cache_weights = cache_tasks("config.yaml", model_cache_dir="cache")
