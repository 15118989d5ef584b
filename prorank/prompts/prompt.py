"""Prompt: defines how a (query, document) pair becomes token ids in training, evaluation, serving and export.

A Prompt contains settings only and is saved with the checkpoint as `prompt.json`. `bind(tokenizer)` returns an encoder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic.dataclasses import dataclass

from ..errors import PromptError, nearest
from ..utils.files import can_be_read, parse_json, read_text
from .list_encoder import ListPromptEncoder
from .pair_encoder import Encoded, PairPromptEncoder, TruncationCounts
from .presets import PRESETS as TEXTS
from .prompt_settings import CONFIG, FIELDS, PromptSettings
from .template import render_frame, with_bos

__all__ = ["PRESETS", "AnyPromptEncoder", "ListPromptEncoder", "PairPromptEncoder", "TruncationCounts", "Encoded", "Prompt"]

AnyPromptEncoder = PairPromptEncoder | ListPromptEncoder


@dataclass(frozen=True, config=CONFIG)
class Prompt(PromptSettings):
    """Settings that define how queries and documents become token ids; `bind` returns an encoder for a tokenizer.

    The arguments are those of `PromptSettings`.
    """

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> "Prompt":
        """Return the preset `name` with `changes` to its fields. Raises PromptError for an unknown name or field."""
        if name not in PRESETS:
            raise PromptError(f"unknown prompt preset '{name}'{nearest(name, PRESETS)}")
        unknown = next((key for key in changes if key not in FIELDS), None)
        if unknown is not None:
            raise PromptError(f"prompt: unknown key '{unknown}'{nearest(unknown, FIELDS)}")
        return replace(PRESETS[name], **changes)

    @classmethod
    def of(cls, value: "str | dict | PromptSettings | None", **changes: Any) -> "Prompt":
        """Make a Prompt.

        Args:
            value: name of a preset, mapping ({preset: name, key: value}), path of a YAML file, or Prompt. None means the default
                preset.
            **changes: fields to replace.

        Raises:
            PromptError: a name, field or value is invalid, or the file cannot be read.
        """
        if isinstance(value, PromptSettings):
            return replace(value if isinstance(value, cls) else cls(**vars(value)), **changes)
        if isinstance(value, (str, Path)) and _names_file(value):
            from ..utils.config_files import read_values

            value = read_values(value, "prompt", PromptError)
        if isinstance(value, dict):
            value = {str(key): item for key, item in value.items()}
            return cls.preset(value.pop("preset", "prorank"), **{**value, **changes})
        return cls.preset(value or "prorank", **changes)

    @classmethod
    def load(cls, folder: str | Path) -> "Prompt | None":
        """Read `prompt.json` of a checkpoint folder; None if there is none. Raises PromptError if the file is invalid."""
        path = Path(folder) / "prompt.json"
        if not path.is_file():
            return None
        try:
            return cls.preset("prorank", **parse_json(read_text(path, raised=PromptError)))
        except (ValueError, TypeError, RecursionError, PromptError) as error:
            raise PromptError(f"{path}: not a saved prompt ({error})") from error

    def bind(self, tokenizer: Any, max_positions: int | None = None) -> "PairPromptEncoder":
        """Return the encoder of this prompt for a tokenizer.

        Args:
            tokenizer: tokenizer of transformers.
            max_positions: number of positions of the model, which limits `max_length`; None for no limit.

        Raises:
            PromptError: an answer is not a single token, the template leaves no room for documents, or the prompt shows several
                documents (use `bind_list`).
        """
        if self.lists:
            raise PromptError(f"prompt {self.name} shows several documents at once and cannot score single ones; use a list method")
        return PairPromptEncoder(self._resolved(tokenizer), tokenizer, max_positions)

    def bind_list(self, tokenizer: Any, max_positions: int | None = None) -> "ListPromptEncoder":
        """Return the encoder of a prompt that shows several documents.

        Args:
            tokenizer, max_positions: see `bind`.

        Raises:
            PromptError: the prompt shows one document (use `bind`), or see `ListPromptEncoder`.
        """
        if not self.lists:
            raise PromptError(f"prompt {self.name} shows one document; list methods need a prompt of kind setwise or listwise")
        return ListPromptEncoder(self._resolved(tokenizer), tokenizer, max_positions)

    def _resolved(self, tokenizer: Any) -> "Prompt":
        """Return the prompt with its template as literal text for this tokenizer."""
        template = self.template
        if template == "auto":
            template = render_frame(self, tokenizer)
        elif isinstance(template, str):
            template = with_bos(template, tokenizer)
        return replace(self, template=template)


def _names_file(value: str | Path) -> bool:
    """Whether a value is a path (a YAML file or any existing file) and not the name of a preset."""
    return str(value).endswith((".yaml", ".yml", ".json")) or value not in PRESETS and can_be_read(value)


PRESETS: dict[str, Prompt] = {name: Prompt(name=name, **settings) for name, settings in TEXTS.items()}
