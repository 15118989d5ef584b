"""sentence-transformers: a Reranker with the face of its CrossEncoder, for evaluators, miners and other code that takes one.

A checkpoint saved by ProRank loads in the real CrossEncoder as it is; this class adds the engine for CPUs, adapters,
GGUF files and documents cut where the prompt says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, nearest
from ..rank.validation import RankOptions, items
from .shared import Model, reranker_of


class NoCard:
    """Where evaluators leave their figures for a model card, which there is none of here; they return them, too."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Forget them."""


class CrossEncoder:
    """`predict` and `rank` as in sentence_transformers.CrossEncoder. Scores are log-odds.

    Args:
        model: a Reranker, or a checkpoint as Reranker takes it.
        prompts: instructions by name, for `prompt_name`.
        activation_fn: what scores go through, such as torch.nn.Sigmoid(); nothing by default.
        options: of Reranker, where `model` names a checkpoint.
    """

    num_labels = 1

    def __init__(
        self, model: Model = DEFAULT, prompts: dict[str, str] | None = None, activation_fn: Callable | None = None, **options: Any
    ) -> None:
        self.reranker, self.prompts = reranker_of(model, options), prompts or {}
        self.activation_fn, self.model_card_data = activation_fn or torch.nn.Identity(), NoCard()

    def predict(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        activation_fn: Callable | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **more: Any,
    ) -> np.ndarray | torch.Tensor | list[torch.Tensor] | np.float32:
        """Scores of (query, document) pairs in their order, fp32 [n]; of a single pair one score.

        `prompt` is the instruction. Batches are chosen by tokens, whatever `batch_size` says; one logit has no softmax. Raises
        ConfigError for options that have no meaning here, such as a pool of processes.
        """
        for key in (key for key, value in more.items() if value is not None):
            raise ConfigError(f"predict: '{key}' has no meaning for a Reranker; leave it out")
        given = items(inputs, "inputs")
        single = len(given) > 0 and isinstance(given[0], str)
        pairs: list[Any] = [given] if single else given
        scores = torch.from_numpy(self.reranker.score(pairs, self._instruction(prompt_name, prompt)))
        scores = (activation_fn or self.activation_fn)(scores)
        out = scores if convert_to_tensor else scores.numpy() if convert_to_numpy else list(scores)
        return out[0] if single else out

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **more: Any,
    ) -> list[dict[str, Any]]:
        """[{"corpus_id", "score", "text" if asked for}], best first; equal scores keep the order of the input."""
        documents, kept = items(documents, "documents"), RankOptions(top_k).top_k
        pairs = [(query, document) for document in documents]
        scores: list[float] = torch.as_tensor(self.predict(pairs, prompt_name, prompt, **more)).tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        texts = [{"text": document} if return_documents else {} for document in documents]
        return [{"corpus_id": i, "score": scores[i], **texts[i]} for i in order[:kept]]

    def _instruction(self, name: str | None, prompt: str | None) -> str | None:
        if prompt is not None or name is None:
            return prompt
        if name not in self.prompts:
            raise ConfigError(f"no prompt is called '{name}'{nearest(name, self.prompts)}")
        return self.prompts[name]
