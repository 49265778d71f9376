"""The only reader of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Everything that the process's environment says, read once and checked.

    Args:
        config: TRUSS_CONFIG as written, or None.
        model_cache_dir: TRUSS_MODEL_CACHE_DIR, absolute, or None.
        mount_root: TRUSS_MOUNT_ROOT, absolute, or None.
        secrets_dirs: where named secrets are looked up, in order: (/secrets, /etc/secrets), or TRUSS_SECRETS_DIR in
            place of the first.
        project: TRUSS_CACHE_PROJECT, or None.
        connections: TRUSS_CACHE_CONNECTIONS (1 to 256), or None.
        max_rate: TRUSS_CACHE_MAX_RATE in bytes a second, or None.
        offline: HF_HUB_OFFLINE says so.
        env: the process's environment, for the look-ups that the ecosystems define (hub cache, tokens, endpoints).
    """

    config: str | None = None
    model_cache_dir: Path | None = None
    mount_root: Path | None = None
    secrets_dirs: tuple[Path, ...] = (Path("/secrets"), Path("/etc/secrets"))
    project: str | None = None
    connections: int | None = None
    max_rate: int | None = None
    offline: bool = False
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    def hub_cache(self, hub_env: tuple[tuple[str, str], ...] = ()) -> Path:
        """Return the hub cache: over `hub_env` (of a config) alone if it sets anything, else over the process's."""
        raise NotImplementedError


def read_settings(env: Mapping[str, str], cwd: Path) -> Settings:
    """Read our variables. Raises ConfigError that names the variable and what it may hold."""
    raise NotImplementedError
