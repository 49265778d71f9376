"""Google Cloud Storage."""

from truss_cache_tasks.sources.gcs.source import GcsSource

__all__ = ["GcsSource"]
