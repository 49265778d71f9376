"""Check the URL of a server that a variable names."""

from __future__ import annotations

from urllib.parse import urlsplit

from truss_cache_tasks.errors import ConfigError

HUB = "https://huggingface.co"


def parse_base_url(text: str) -> str:
    """Return `text` without slashes at its end. Raises ValueError, whose text repeats nothing of it: it may be secret.

    >>> parse_base_url("https://mirror.example:8443/hub/")
    'https://mirror.example:8443/hub'
    """
    try:
        parts = urlsplit(text)
        has_port = parts.port != 0  # raises ValueError for one that is none
    except ValueError:
        has_port = False
    if not has_port or parts.scheme not in ("http", "https") or not parts.hostname or not text.isprintable():
        raise ValueError("https://HOST, https://HOST:PORT or https://HOST/PATH")
    if "@" in parts.netloc or "?" in text or "#" in text or " " in text:
        raise ValueError("a URL without credentials, query and blanks")
    return text.rstrip("/")


def hub_endpoint(text: str) -> str:
    """Return HF_ENDPOINT without slashes at its end, by default that of Hugging Face. Raises ConfigError.

    >>> hub_endpoint(""), hub_endpoint("https://mirror.example/hub/")
    ('https://huggingface.co', 'https://mirror.example/hub')
    """
    try:
        return parse_base_url(text or HUB)
    except ValueError as exc:
        hint = f"Set it to a URL such as {HUB}."
        raise ConfigError(f"HF_ENDPOINT is not the URL of a Hub, expected {exc}", hint=hint) from None
