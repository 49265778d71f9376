"""The version, and the name under which this package asks servers."""

__version__ = "0.1.0"
USER_AGENT = f"truss-cache-tasks/{__version__}"
