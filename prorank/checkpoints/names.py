"""Names of checkpoints: which may be hub ids, and suggestions for folders that do not exist."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# Usual first parts of local paths; they are not treated as owners on a hub.
FOLDERS = {"run", "runs", "out", "output", "outputs", "model", "models", "checkpoint", "checkpoints", "ckpt", "data", "tmp"}


def may_be_hub_id(text: str) -> bool:
    """Whether a name has the form OWNER/NAME and OWNER is neither a local folder nor a common name of a local folder."""
    owner = text.partition("/")[0]
    return bool(HUB_ID.fullmatch(text)) and owner.lower() not in FOLDERS and not os.path.exists(owner)


def similar(path: Path) -> str:
    """Return a suggestion for a missing path, such as "; did you mean 'runs/demo'?", or the contents of its parent folder."""
    parts = path.parts
    here = next((count for count in range(len(parts) - 1, 0, -1) if os.path.isdir(Path(*parts[:count]))), 0)
    parent = Path(*parts[:here])
    try:
        beside = sorted(name for name in os.listdir(parent) if not name.startswith("."))
    except OSError:
        return ""
    wanted = {name.lower(): name for name in beside}
    close = [wanted[name] for name in get_close_matches(parts[here].lower(), wanted, n=3)] if here < len(parts) else []
    if close:
        paths = [parent / name / Path(*parts[here + 1 :]) for name in close]
        shown = [whole if whole.exists() else parent / name for whole, name in zip(paths, close)]
        return f"; did you mean {' or '.join(f'{str(one)!r}' for one in shown)}?"
    return f"; {parent} holds {', '.join(beside[:5])}{', …' if len(beside) > 5 else ''}" if here and beside else ""
