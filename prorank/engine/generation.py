"""Generate thoughts and answers: samples of many prompts at once, up to their end (training) or to the answer (scoring)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import torch

from ..prompts.prompt import AnyPromptEncoder, Encoded
from ..prompts.thinking_tags import END
from .cpu_engine import Engine, supports_decoding
from .engine_decoder import EngineDecoder
from .heads import logits_of_hidden
from .layers import PackedLinear
from .modules import body, cast_weights, merged_copy
from .packing import Pack, batches_of, pack
from .sampling import Completion, Sampling, StopAt, draw, rng_of_key
from .transformers_decoder import TransformersDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLOSE = "</think>"
TAIL = 8  # number of last tokens of a completion that are searched for a closing tag
PROMPT_TOKENS_PER_BATCH = 16384
MIN_ACTIVE = 0.875  # compact a batch, which costs a copy, if a smaller share of its rows is still generating


class IncrementalDecoder(Protocol):
    """Processes prompts and then one token at a time: `EngineDecoder` or `TransformersDecoder`."""

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor:
        """Return the last hidden states [R, H] of the prompts, R = prompts * samples, with the samples of a prompt in sequence."""
        ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append a token [R] to each row and return the hidden states [R, H]."""
        ...

    def keep(self, rows: torch.Tensor) -> None:
        """Continue with these rows only."""
        ...


@dataclass(frozen=True)
class TextGenerator:
    """A model that generates text.

    Attributes:
        decoder: makes a decoder for a maximum number of new tokens per row.
        head: computes logits [R, V] from hidden states [R, H].
    """

    decoder: Callable[[int], IncrementalDecoder]
    head: Callable[[torch.Tensor], torch.Tensor]


def make_generator(model: PreTrainedModel, engine: Engine | None, bf16: bool = False) -> TextGenerator:
    """Return a generator for a model whose weights do not change.

    Args:
        model: a causal LM.
        engine: its engine. None, or an engine on a GPU, runs the layers of transformers.
        bf16: run the layers of transformers under autocast to bf16.
    """
    if engine is None or engine.device.type != "cpu":
        return TextGenerator(lambda _: TransformersDecoder(model, bf16), lambda hidden: logits_of_hidden(model, hidden))
    head = body(model)[1]
    product, bias = PackedLinear(head.weight.detach().to(engine.dtype)), getattr(head, "bias", None)
    return TextGenerator(
        lambda max_tokens: EngineDecoder(engine, max_tokens),
        lambda hidden: product(hidden) if bias is None else product(hidden) + bias,
    )


def make_training_generator(model: PreTrainedModel, bf16: bool, compiled: bool) -> TextGenerator:
    """Return a generator for the current weights of a policy in training.

    If the engine supports the model, on a CPU, it runs on a copy of the weights.

    Args:
        model: the policy.
        bf16: compute in bf16, as in training.
        compiled: see `Engine`.
    """
    policy = getattr(model, "module", model)  # under DDP
    if not supports_decoding(policy):
        return make_generator(policy, None, bf16)
    frozen = merged_copy(policy)
    if bf16:
        cast_weights(frozen, torch.bfloat16)
    return make_generator(frozen, Engine(frozen, compiled))


class Sampler:
    """Draws completions of prompts.

    Args:
        generator: see `make_generator`.
        encoder: encoder of the prompts, for its tags and end token.
        sampling: settings of the sampling.
        stop: where completions end.
    """

    def __init__(
        self, generator: TextGenerator, encoder: AnyPromptEncoder, sampling: Sampling, stop: StopAt = StopAt.END_TOKEN
    ) -> None:
        self.generator, self.encoder, self.sampling, self.stop = generator, encoder, sampling, stop
        self.opener_length, self.closing_ids, self.eos_id = len(encoder.opener), encoder.shut, encoder.tokenizer.eos_token_id

    @torch.no_grad()
    def __call__(self, packs: Sequence[Pack], keys: Sequence[Sequence[str]]) -> list[list[Completion]]:
        """Draw completions.

        Args:
            packs: packs of P prompts whose owners are 0..P-1.
            keys: [P][G], the seed of each completion.

        Returns:
            [P][G] completions.
        """
        to_answer = self.stop is StopAt.ANSWER_START
        decoder = self.generator.decoder(self.sampling.max_tokens + (len(self.closing_ids) if to_answer else 0))
        hidden = decoder.start(packs, len(keys[0]))
        completions = [[self._new_row(key) for key in of_prompt] for of_prompt in keys]
        rows = [row for of_prompt in completions for row in of_prompt]
        while True:
            _store_states(rows, hidden)
            active = [i for i, row in enumerate(rows) if not row.done]
            if not active:
                break
            if len(active) < MIN_ACTIVE * len(rows):
                index = torch.tensor(active, device=hidden.device)
                decoder.keep(index)
                hidden, rows = hidden[index], [rows[i] for i in active]
            self._append_tokens(rows, hidden)
            if all(row.done for row in rows):
                break
            hidden = decoder.step(torch.tensor([row.ids[-1] for row in rows], device=hidden.device))
        return completions

    def _new_row(self, key: str) -> Completion:
        forced = list(self.encoder.opener) if self.stop is StopAt.ANSWER_END else []
        return Completion(torch.rand(self.sampling.max_tokens, generator=rng_of_key(key)), forced_tokens=forced)

    def _append_tokens(self, rows: list[Completion], hidden: torch.Tensor) -> None:
        """Draw a token for each row and append it to the rows that are not done."""
        noise = torch.stack([row.noise[min(len(row.ids), len(row.noise) - 1)] for row in rows]).to(hidden.device)
        tokens = draw(self.generator.head(hidden), noise, self.sampling.temperature, self.sampling.top_p)
        for row, token in zip(rows, tokens.tolist()):
            if not row.done:
                row.append(token)
                (self._advance_to_answer if self.stop is StopAt.ANSWER_START else self._advance_to_end)(row)

    def _advance_to_end(self, row: Completion) -> None:
        """After a token of a row that ends with an end token: set `done`, or close a thought that is too long."""
        row.finished = row.ids[-1] == self.eos_id
        row.done = row.finished or len(row.ids) >= self.sampling.max_tokens or self._answer_closed(row)
        limit = self.sampling.max_think_tokens
        if not row.done and limit is not None and len(row.ids) == limit + self.opener_length:
            text = self.encoder.tokenizer.decode(row.ids)
            if (not self.opener_length or "<think>" in text) and CLOSE not in text:
                row.forced_tokens, row.thought_truncated = list(self.closing_ids), True

    def _answer_closed(self, row: Completion) -> bool:
        """Whether completions end with their answer, and the answer of this one is closed."""
        if self.stop is not StopAt.ANSWER_END or not self.encoder.thinks or row.forced_tokens:
            return False
        decode = self.encoder.tokenizer.decode
        return END in decode(row.ids[-TAIL:]) and CLOSE in decode(row.ids)

    def _advance_to_answer(self, row: Completion) -> None:
        """After a token of a row that ends at its answer: prompt the answer once the thought is closed."""
        if row.answer_prompted:
            return
        if row.ids[-1] == self.eos_id:  # an end token closes an open thought
            row.ids[-1:], row.forced_tokens, row.answer_prompted = self.closing_ids[:1], self.closing_ids[1:], True
        elif CLOSE in self.encoder.tokenizer.decode(row.ids[-TAIL:]):
            row.forced_tokens, row.answer_prompted = self._rest_of_closing(row.ids), True
        elif len(row.ids) >= self.sampling.max_tokens:
            row.forced_tokens, row.answer_prompted, row.thought_truncated = list(self.closing_ids), True, True

    def _rest_of_closing(self, ids: list[int]) -> list[int]:
        """Return the tokens between thought and answer that the model has not generated."""
        for length in range(len(self.closing_ids), 0, -1):
            if ids[-length:] == self.closing_ids[:length]:
                return self.closing_ids[length:]
        return self.encoder.asking


def _store_states(rows: list[Completion], hidden: torch.Tensor) -> None:
    """Finish the rows whose next token is the answer, and store their hidden states."""
    for row, state in zip(rows, hidden):
        if row.answer_prompted and not row.forced_tokens and not row.done:
            row.state, row.done = state.clone(), True


def generate(sampler: Sampler, prompts: Sequence[Encoded], keys: Sequence[Sequence[str]]) -> list[list[Completion]]:
    """Generate completions of any number of prompts, in batches of `PROMPT_TOKENS_PER_BATCH` tokens of prompts.

    Args:
        sampler: the sampler.
        prompts: the prompts.
        keys: seeds of the completions of each prompt.

    Returns:
        The completions of each prompt, one per key.
    """
    completions: list[list[Completion]] = []
    singles = [pack([prompt], [i], share=False) for i, prompt in enumerate(prompts)]
    for batch in batches_of(singles, PROMPT_TOKENS_PER_BATCH, flat=True):
        first = batch[0].owners[0]
        renumbered = [replace(one, owners=[i]) for i, one in enumerate(batch)]
        completions += sampler(renumbered, keys[first : first + len(batch)])
    return completions
