"""API keys: taken from environment variables, for servers and for their clients.

A key never comes from the command line, where others on the machine could read it.
"""

from __future__ import annotations

import os

from ..errors import ConfigError


def key_of(name: str | None) -> str | None:
    """The key in the environment variable of this name. Raises ConfigError where it is empty."""
    if name is None:
        return None
    if not os.environ.get(name, "").strip():
        raise ConfigError(f"--api-key-env {name}: the environment variable {name} is not set or empty; put the key there")
    return os.environ[name].strip()
