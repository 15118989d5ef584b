"""Prompts of published rerankers, known by a checkpoint's name, its settings or its model card where it has no prompt.json.

A reranker that is asked in other words than it was trained with gives scores that look sound and are not.
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
# Presets by what the names of their models hold, marks and case left out.
PRESET_OF = (
    (re.compile(r"mxbai-rerank-(base|large)-v2"), "mxbai"),
    (re.compile(r"qwen3-reranker"), "qwen3-reranker"),
    (re.compile(r"rank-r1(?!\d)"), "rank-r1"),
    (re.compile(r"rerank-r0"), "rerank-r0"),
)
# Presets by the first sentence of their task, which some chat templates hold.
PHRASE_OF = ((MXBAI_TASK.split(". ")[0], "mxbai"), (QWEN3_SYSTEM.split(". ")[0], "qwen3-reranker"))
RERANKER = re.compile(
    r"re-?rank|(^|[-/])((ze|rea|reason|lim|e)-?rank|rank-?(k?1(?!\d)|llama|zephyr|vicuna|gpt|mistral))|text-ranking|mono-?(qwen|t5)"
)
logged: set[tuple[Path, str]] = set()  # what was logged of which folder: once a process


def known_prompt(name: str, folders: list[Path], base: str = "") -> Prompt | None:
    """The preset of a published reranker, None for other models.

    Args:
        name: by which the checkpoint was asked for.
        folders: the adapter's, if it is one, and that of the weights.
        base: what the adapter calls its base.
    """
    for evidence in _evidence(name, folders, base):
        preset = next((preset for pattern, preset in PRESET_OF if pattern.search(evidence)), None)
        if preset:
            return _taken(folders[0], preset, f"it is known by '{evidence}'")
    preset = next((preset for phrase, preset in PHRASE_OF if any(phrase in text for text in _templates(folders))), None)
    return _taken(folders[0], preset, "its chat template is that of the preset") if preset else None


def check_plain(name: str, folders: list[Path], base: str = "") -> None:
    """Warn that a checkpoint without a prompt of its own is asked by the default preset.

    Raises:
        ModelError: it calls itself a reranker, so it was trained with a prompt, which is not known here.
    """
    for evidence in _evidence(name, folders, base):
        if RERANKER.search(evidence):
            why = f"a reranker ('{evidence}') without prompt.json, and no preset is known to be its own"
            raise ModelError(
                f"{name}: {why}; name the prompt that it was trained with (prompt= or --prompt: a YAML file, or one of "
                f"{', '.join(PRESETS)})"
            )
    _tell(folders[0], f"{name}: has no prompt of its own; preset prorank is used, which it may not have been trained with")


def _taken(folder: Path, preset: str, why: str) -> Prompt:
    _tell(folder, f"{folder.name}: has no prompt.json; preset {preset} is used, as {why}", logging.INFO)
    return Prompt.preset(preset)


def _tell(folder: Path, text: str, level: int = logging.WARNING) -> None:
    if (folder, text) not in logged:
        logged.add((folder, text))
        log.log(level, "%s", text)


def _evidence(name: str, folders: list[Path], base: str) -> Iterator[str]:
    """What a checkpoint is called, in small letters with hyphens between words: the strongest first."""
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
    except (OSError, ValueError):  # said where the config is loaded
        return []
    name = value.get("_name_or_path") if isinstance(value, dict) else None
    return [Path(name).name] if isinstance(name, str) else []


def _in_card(path: Path) -> list[str]:
    """What the front matter of a model card names as its model, bases, task and tags, and the card's title."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    front, _, rest = text[4:].partition("\n---") if text.startswith("---\n") else ("", "", text)
    keys = re.findall(r"^(?:base_model|model_name|pipeline_tag|tags):[ \t]*(.*)((?:\n[ \t]*- .*)*)", front, re.M)
    values = [part.strip(" -[]'\"") for one, many in keys for part in [*one.split(","), *many.splitlines()]]
    title = re.search(r"^# +(.+)$", rest, re.M)
    return [*filter(None, values), *([title[1]] if title else [])]


def _templates(folders: list[Path]) -> Iterator[str]:
    """The chat templates of the folders, as they stand in their files."""
    for path in (folder / name for folder in folders for name in ("chat_template.jinja", "tokenizer_config.json")):
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")
