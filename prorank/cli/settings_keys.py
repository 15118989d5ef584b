"""`prorank train --list-keys`: the settings keys of the stages with type, default and description."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from ..utils.terminal import json_line, plain, print_lines, stdout_console

if TYPE_CHECKING:
    from ..utils.config_files import Key


def show_keys(stage: str | None = None) -> None:
    """Print the keys of one stage, or the keys that all stages share and then those of each stage."""
    from ..train.settings.stage_settings import STAGE_SETTINGS, list_keys

    if stage is not None:
        _print_keys(f"stage {stage}", list_keys(stage))
        return
    keys = {name: list_keys(name) for name in STAGE_SETTINGS}
    shared = [key for key in next(iter(keys.values())) if all(key in others for others in keys.values())]
    _print_keys("every stage", shared)
    for name, own in keys.items():
        _print_keys(f"stage {name}", [key for key in own if key not in shared])


def _print_keys(title: str, keys: list[Key]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in keys:
        facts = ", ".join(filter(None, (key.type, _default_text(key.default))))
        about = [plain(facts, "dim")] + ([plain(key.description)] if key.description else [])
        table.add_row(plain(key.name), Text("\n").join(about))
    stdout_console().print(table)
    print_lines([""])


def _default_text(default: Any) -> str:
    """Return the default as YAML; "" for required values, and for nested settings, whose keys follow."""
    return "" if default == "" or is_dataclass(default) else f"default {json_line(default)}"
