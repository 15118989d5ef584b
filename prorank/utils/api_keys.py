"""Read API keys from environment variables, for servers and clients.

Keys are not command line options, because other users of the machine can read those.
"""

from __future__ import annotations

import os

from ..errors import ConfigError


def key_of(name: str | None) -> str | None:
    """Return the key in the environment variable `name`; None if `name` is None. Raises ConfigError if it is unset or empty."""
    if name is None:
        return None
    if not os.environ.get(name, "").strip():
        raise ConfigError(f"--api-key-env {name}: the environment variable {name} is not set or empty; put the key there")
    return os.environ[name].strip()
