"""Single files of web servers, `https://host/path/file`; `http://` on loopback addresses."""

from truss_cache_tasks.sources.https.source import HttpsSource

__all__ = ["HttpsSource"]
