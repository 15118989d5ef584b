"""Prompts of published rerankers that have no prompt.json, recognised by name, config or model card.

A reranker needs the prompt it was trained with; with another one its scores are plausible but wrong.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import ModelError
from ..prompts.prompt import PRESETS, Prompt
from ..prompts.published import MXBAI_TASK, QWEN3_SYSTEM

log = logging.getLogger("prorank")
# Presets by a pattern that matches the normalised names of their models.
PRESET_OF = (
    (re.compile(r"mxbai-rerank-(base|large)-v2"), "mxbai"),
    (re.compile(r"qwen3-reranker"), "qwen3-reranker"),
    (re.compile(r"rank-r1(?!\d)"), "rank-r1"),
    (re.compile(r"rerank-r0"), "rerank-r0"),
)
# Presets by the first sentence of their instruction, which some chat templates contain.
PHRASE_OF = ((MXBAI_TASK.split(". ")[0], "mxbai"), (QWEN3_SYSTEM.split(". ")[0], "qwen3-reranker"))
RERANKER = re.compile(
    r"re-?rank|(^|[-/])((ze|rea|reason|lim|e)-?rank|rank-?(k?1(?!\d)|llama|zephyr|vicuna|gpt|mistral))|text-ranking|mono-?(qwen|t5)"
)
logged: set[tuple[Path, str]] = set()  # each (folder, message) is logged once in a process


def known_prompt(name: str, folders: list[Path], base: str = "") -> Prompt | None:
    """Return the preset of a published reranker.

    Args:
        name: the name that the user gave.
        folders: folders of the adapter, if any, and of the weights.
        base: name of the adapter's base.

    Returns:
        The preset, None if the model is not a known reranker.
    """
    for evidence in _evidence(name, folders, base):
        preset = next((preset for pattern, preset in PRESET_OF if pattern.search(evidence)), None)
        if preset:
            return _taken(folders[0], preset, f"'{evidence}' identifies it")
    preset = next((preset for phrase, preset in PHRASE_OF if any(phrase in text for text in _templates(folders))), None)
    return _taken(folders[0], preset, "it has the chat template of this preset") if preset else None


def check_plain(name: str, folders: list[Path], base: str = "") -> None:
    """Warn that a checkpoint without a prompt is used with the default preset.

    Args:
        name, folders, base: see `known_prompt`.

    Raises:
        ModelError: the checkpoint calls itself a reranker, but its prompt is unknown.
    """
    for evidence in _evidence(name, folders, base):
        if RERANKER.search(evidence):
            why = f"a reranker ('{evidence}') without prompt.json, and no preset is known for it"
            raise ModelError(
                f"{name}: {why}; name the prompt that it was trained with (prompt= or --prompt: a YAML file, or one of "
                f"{', '.join(PRESETS)})"
            )
    _tell(folders[0], f"{name}: has no prompt of its own; using preset prorank, which may not be the prompt of its training")


def _taken(folder: Path, preset: str, why: str) -> Prompt:
    _tell(folder, f"{folder.name}: has no prompt.json; using preset {preset}, because {why}", logging.INFO)
    return Prompt.preset(preset)


def _tell(folder: Path, text: str, level: int = logging.WARNING) -> None:
    if (folder, text) not in logged:
        logged.add((folder, text))
        log.log(level, "%s", text)


def _evidence(name: str, folders: list[Path], base: str) -> Iterator[str]:
    """Yield names of a checkpoint in lower case with hyphens between words, most reliable first."""
    named = [name if name.count("/") == 1 and not Path(name).exists() else Path(name).name]
    for folder in (folder.resolve() for folder in folders):
        named += [folder.name, *(part.removeprefix("models--") for part in folder.parts if part.startswith("models--"))]
        named += _in_config(folder / "config.json") + _in_card(folder / "README.md")
    for text in [*named, base]:
        if text:
            yield re.sub(r"[\s_.-]+", "-", text.lower()).strip("-")


def _in_config(path: Path) -> list[str]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # loading the config reports the error
        return []
    name = value.get("_name_or_path") if isinstance(value, dict) else None
    return [Path(name).name] if isinstance(name, str) else []


def _in_card(path: Path) -> list[str]:
    """Model, bases, task and tags in the front matter of a model card, and its title."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    front, _, rest = text[4:].partition("\n---") if text.startswith("---\n") else ("", "", text)
    keys = re.findall(r"^(?:base_model|model_name|pipeline_tag|tags):[ \t]*(.*)((?:\n[ \t]*- .*)*)", front, re.M)
    values = [part.strip(" -[]'\"") for one, many in keys for part in [*one.split(","), *many.splitlines()]]
    title = re.search(r"^# +(.+)$", rest, re.M)
    return [*filter(None, values), *([title[1]] if title else [])]


def _templates(folders: list[Path]) -> Iterator[str]:
    """Yield the contents of the files with chat templates."""
    for path in (folder / name for folder in folders for name in ("chat_template.jinja", "tokenizer_config.json")):
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")
