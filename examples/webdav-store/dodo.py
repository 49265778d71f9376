from truss_cache_tasks import cache_tasks

DOIT_CONFIG = {"default_tasks": ["cache_weights"]}

task_cache_weights = cache_tasks(model_cache_dir="cache")
