"""sentence-transformers: a Reranker with the interface of CrossEncoder, for evaluators, hard-negative mining and other code.

The real CrossEncoder loads checkpoints of ProRank as well. This class adds the engine, adapters, GGUF files, and documents
truncated as the prompt says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..checkpoints.default_model import DEFAULT
from ..errors import ConfigError, nearest
from ..rank.validation import RankOptions, items
from .shared import ModelOrReranker, as_reranker


class NoModelCard:
    """Takes the metrics that evaluators store for a model card, and drops them. Evaluators also return their metrics."""

    def set_evaluation_metrics(self, *_: Any) -> None:
        """Drop the metrics."""


class CrossEncoder:
    """`predict` and `rank` of sentence_transformers.CrossEncoder. Scores are log-odds.

    Args:
        model: a Reranker, or a checkpoint as Reranker accepts it.
        prompts: instructions by name, for `prompt_name`.
        activation_fn: applied to scores, such as torch.nn.Sigmoid(); none by default.
        options: arguments of Reranker if `model` is a checkpoint.
    """

    num_labels = 1

    def __init__(
        self,
        model: ModelOrReranker = DEFAULT,
        prompts: dict[str, str] | None = None,
        activation_fn: Callable | None = None,
        **options: Any,
    ) -> None:
        self.reranker, self.prompts = as_reranker(model, options), prompts or {}
        self.activation_fn, self.model_card_data = activation_fn or torch.nn.Identity(), NoModelCard()

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
        """Score (query, document) pairs.

        Args:
            inputs: pairs, or a single pair.
            prompt_name: name of an instruction in `prompts`.
            prompt: the instruction.
            batch_size, show_progress_bar, apply_softmax: ignored. Batches are chosen by tokens, and one logit has no softmax.
            activation_fn: replaces the activation of the constructor.
            convert_to_numpy, convert_to_tensor: type of the result; a list of tensors if both are False.

        Returns:
            Scores in input order, fp32 [n]; a scalar for a single pair.

        Raises:
            ConfigError: an option has no meaning here, such as a pool of processes.
        """
        for key in (key for key, value in more.items() if value is not None):
            raise ConfigError(f"predict: '{key}' has no meaning for a Reranker; leave it out")
        elements = items(inputs, "inputs")
        single = len(elements) > 0 and isinstance(elements[0], str)
        pairs: list[Any] = [elements] if single else elements
        scores = torch.from_numpy(self.reranker.score(pairs, self._instruction(prompt_name, prompt)))
        scores = (activation_fn or self.activation_fn)(scores)
        result = scores if convert_to_tensor else scores.numpy() if convert_to_numpy else list(scores)
        return result[0] if single else result

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
        """Return [{"corpus_id", "score"}], best first, with "text" if `return_documents`; equal scores keep the input order.

        Args: see `predict`; `top_k`: number of hits, all by default.
        """
        documents, num_hits = items(documents, "documents"), RankOptions(top_k).top_k
        pairs = [(query, document) for document in documents]
        scores: list[float] = torch.as_tensor(self.predict(pairs, prompt_name, prompt, **more)).tolist()
        order = sorted(range(len(scores)), key=lambda i: -scores[i])
        texts = [{"text": document} if return_documents else {} for document in documents]
        return [{"corpus_id": i, "score": scores[i], **texts[i]} for i in order[:num_hits]]

    def _instruction(self, name: str | None, prompt: str | None) -> str | None:
        if prompt is not None or name is None:
            return prompt
        if name not in self.prompts:
            raise ConfigError(f"no prompt is called '{name}'{nearest(name, self.prompts)}")
        return self.prompts[name]
