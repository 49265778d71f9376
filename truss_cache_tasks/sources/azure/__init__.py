"""Azure Blob Storage: requests, signatures and listings are our own, Entra is azure-identity's (docs/adr/0033)."""

from truss_cache_tasks.sources.azure.source import AzureSource

__all__ = ["AzureSource"]
