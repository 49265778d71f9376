"""S3, and every store that speaks its protocol."""

from truss_cache_tasks.sources.s3.source import S3Source

__all__ = ["S3Source"]
