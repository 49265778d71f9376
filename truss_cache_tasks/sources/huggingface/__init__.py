"""The Hugging Face Hub."""

from truss_cache_tasks.sources.huggingface.source import HuggingFaceSource

__all__ = ["HuggingFaceSource"]
