"""Two readers of values for several documents in one prompt: label logits, or a generated answer.

Label logits: one forward pass gives a log-probability to each document's label (FIRST, arXiv 2406.15657).
Generated answers: the model writes the best label, or an order such as `[2] > [1] > [3]` (RankGPT, arXiv 2304.09542).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..engine.batches import batch_limits
from ..engine.flat_attention import is_flat
from ..engine.generation import Sampler, TextGenerator, generate
from ..engine.heads import answer_rows
from ..engine.packing import batches_of, collate, pack
from ..engine.sampling import Completion, Sampling, StopAt
from ..errors import ModelError
from ..prompts.list_encoder import ListPromptEncoder
from ..prompts.prompt import Encoded
from .answer_parsing import parse_ranking
from .methods import ListMethod
from .model_runtime import ModelRuntime

# Takes prompts and the number of documents in each; returns fp32 values [n] of each prompt's documents, higher is better.
ListReader = Callable[[list[Encoded], list[int]], list[np.ndarray]]


class LabelReader:
    """Reads log-probabilities of the documents' labels at the answer position, normalised over the documents in the prompt.

    Args:
        runtime: the model.
        encoder: a prompt whose answer is one label.

    Attributes:
        rows, bias: fp32 [20, H] and [20], the labels' rows of the output matrix.
    """

    def __init__(self, runtime: ModelRuntime, encoder: ListPromptEncoder) -> None:
        self.runtime = runtime
        self.rows, self.bias = answer_rows(runtime.model, encoder.answer_ids)
        self.flat, self.max_tokens = is_flat(runtime.model), batch_limits(runtime.model).tokens

    def __call__(self, prompts: list[Encoded], counts: list[int]) -> list[np.ndarray]:
        """See `ListReader`. Raises ModelError for scores that are not finite."""
        values: list[np.ndarray] = [np.empty(0)] * len(prompts)
        packs = [pack([prompt], [i], share=False) for i, prompt in enumerate(prompts)]
        for chunk in batches_of(sorted(packs, key=len, reverse=True), self.max_tokens, flat=self.flat):
            batch = collate(chunk, self.runtime.tokenizer.pad_token_id, self.flat).to(self.rows.device)
            with torch.inference_mode():
                logits = self.runtime.hidden(batch).float() @ self.rows.T + self.bias  # [B, 20]
            for i, row in zip(batch.owners, logits):
                values[i] = row[: counts[i]].log_softmax(-1).cpu().numpy()
                if not np.isfinite(values[i]).all():
                    raise ModelError("scores are not finite; the weights are damaged or the training diverged")
        return values


class AnswerReader:
    """Generates an answer, after a thought if the prompt requests one, and parses which documents it names.

    Args:
        runtime: the model; generated tokens, and answers that name no document, are counted in its `cost`.
        encoder: a prompt whose answer is generated.
        method: gives values to a parsed answer.
        generator: decodes with the model, see `engine.generation.make_generator`.
    """

    def __init__(self, runtime: ModelRuntime, encoder: ListPromptEncoder, method: ListMethod, generator: TextGenerator) -> None:
        self.runtime, self.encoder, self.method, self.generator = runtime, encoder, method, generator

    def __call__(self, prompts: list[Encoded], counts: list[int]) -> list[np.ndarray]:
        """See `ListReader`."""
        budget = self.encoder.prompt.max_think_tokens if self.encoder.thinks else None
        max_tokens = max_generated_tokens(self.encoder, self.method, max(counts, default=0))
        sampling = Sampling(0.0, max_tokens=max_tokens, max_think_tokens=budget)
        sampler = Sampler(self.generator, self.encoder, sampling, stop=StopAt.ANSWER_END)
        completions = [rows[0] for rows in generate(sampler, prompts, [["0"]] * len(prompts))]
        self.runtime.cost.count_generated(completions)
        return [self._values(completion, count) for completion, count in zip(completions, counts, strict=True)]

    def _values(self, completion: Completion, count: int) -> np.ndarray:
        answer = self.encoder.tokenizer.decode(completion.ids, skip_special_tokens=True)
        ranking = parse_ranking(answer, count)
        self.runtime.cost.unparsed_answers += ranking.best is None
        return self.method.values(ranking)


def max_generated_tokens(encoder: ListPromptEncoder, method: ListMethod, count: int) -> int:
    """Return the maximum number of tokens of an answer about `count` documents: thought, tags and answer."""
    thought = encoder.prompt.max_think_tokens + len(encoder.opener) + len(encoder.shut) if encoder.thinks else 0
    return thought + method.max_answer_tokens(count)
