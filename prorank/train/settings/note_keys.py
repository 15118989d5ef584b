"""Translate the keys of Rerank-R0's configuration file to those of this package.

`configs/rerank-r0/stage_a.yaml` is the unchanged configuration of the public Rerank-R0 note. It has a `ppo` block and neither stage
nor base. Only such files may use the note's keys; elsewhere they are unknown.
"""

from __future__ import annotations

from typing import Any

NOTE_BASE = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
NOTE_KEYS = {"kl_coef": "beta"}
NOTE_PPO_KEYS = {"cliprange": "epsilon", "cliprange_value": "epsilon_value"}


def is_note_file(values: dict[str, Any]) -> bool:
    """Whether the settings come from the note's file."""
    return "stage" not in values and "ppo" in values


def from_note(values: dict[str, Any]) -> dict[str, Any]:
    """Convert settings of the note's file to those of stage `reason`.

    Keys of this package (from the command line) take precedence over the note's.
    """
    values = {"stage": "reason", "base": NOTE_BASE, **_translated(values, NOTE_KEYS)}
    if isinstance(values["ppo"], dict):
        values["ppo"] = _translated(values["ppo"], NOTE_PPO_KEYS)
    return values


def _translated(values: dict[str, Any], keys: dict[str, str]) -> dict[str, Any]:
    renamed = {keys[key]: value for key, value in values.items() if key in keys}
    return renamed | {key: value for key, value in values.items() if key not in keys}
