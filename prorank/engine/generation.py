"""Writing thoughts: samples of many prompts at once, to their end (for training) or to the place of the answer (for scores).

A row draws by its own chain of uniform numbers, keyed by what it is and not by where it stands, so what it writes does
not depend on its batch or its process, float noise aside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch

from ..prompts.prompt import AnyPromptEncoder, Encoded
from ..prompts.thinking_tags import END
from .cpu_engine import Engine, is_supported
from .engine_decoder import EngineDecoder
from .heads import vocabulary_of
from .layers import PackedLinear
from .modules import body, cast_weights, merged_copy
from .packing import Pack, batches_of, pack
from .transformers_decoder import CacheDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CLOSE = "</think>"
TAIL = 8  # tokens at the end of a row among which a closing tag can lie
TOKENS = 16384  # of prompts that are written for at once
STAY = 0.875  # rows that are done stay in the batch while they are fewer than the rest of this share: letting go costs a copy


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: `temperature` 0 takes the likeliest; `top_p` leaves out the unlikely rest; `most`: tokens a row;
    `budget`: tokens of a thought, after which it is closed for the model (None: never)."""

    temperature: float = 0.7
    top_p: float = 1.0
    most: int = 256
    budget: int | None = None


@dataclass
class Completion:
    """What one row writes. `forced_positions`: places of tokens that were put in and not drawn; `finished`: it came to its end
    token; `thought_truncated`: its thought had to be closed for it; `state` [H]: the hidden state at the answer, where that was
    asked for."""

    noise: torch.Tensor  # [most], uniform
    ids: list[int] = field(default_factory=list)
    forced_positions: list[int] = field(default_factory=list)
    forced_tokens: list[int] = field(default_factory=list)
    answer_prompted: bool = False  # the words that ask for the answer are in the queue
    finished: bool = False
    thought_truncated: bool = False
    done: bool = False
    state: torch.Tensor | None = None

    def take(self, drawn: int) -> None:
        """Append what is put in next, or what was drawn."""
        if self.forced_tokens:
            self.forced_positions.append(len(self.ids))
        self.ids.append(self.forced_tokens.pop(0) if self.forced_tokens else drawn)


class IncrementalDecoder(Protocol):
    """Reads prompts and writes behind them, see `cache.EngineDecoder`."""

    def start(self, packs: Sequence[Pack], samples: int) -> torch.Tensor: ...

    def step(self, tokens: torch.Tensor) -> torch.Tensor: ...

    def keep(self, rows: torch.Tensor) -> None: ...


class Sampler:
    """Writes completions of a thinking prompt.

    Args:
        pen: what decodes, see `make_generator`.
        bound: a prompt whose answer is written, for its tags and end token.
        sampling: see Sampling.
        to_answer: stop at the answer's place and keep the hidden state there; else rows end at the end token alone.
        in_form: for use and not for training: a thought is opened for the model, and a row ends with its answer, too.
    """

    def __init__(
        self, pen: "TextGenerator", bound: AnyPromptEncoder, sampling: Sampling, to_answer: bool = False, in_form: bool = False
    ) -> None:
        self.pen, self.bound, self.sampling, self.to_answer, self.in_form = pen, bound, sampling, to_answer, in_form
        self.opener, self.shut, self.eos = len(bound.opener), bound.shut, bound.tokenizer.eos_token_id
        self.room = sampling.most + (len(self.shut) if to_answer else 0)

    @torch.no_grad()
    def __call__(self, packs: Sequence[Pack], keys: Sequence[Sequence[str]]) -> list[list[Completion]]:
        """Rows of each prompt: `packs` hold prompts 0..P-1 (their owners), `keys` [P][G] name the chains of chance."""
        first = self.bound.opener if self.in_form else []
        noise = (torch.rand(self.sampling.most, generator=generator_of(key)) for some in keys for key in some)
        rows = [Completion(one, forced_tokens=list(first)) for one in noise]
        decoder = self.pen.decoder(self.room)
        hidden, held = decoder.start(packs, len(keys[0])), list(rows)
        while True:
            for row, state in zip(held, hidden):
                if row.answer_prompted and not row.forced_tokens and not row.done:
                    row.state, row.done = state.clone(), True
            alive = [i for i, row in enumerate(held) if not row.done]
            if not alive:
                break
            if len(alive) < STAY * len(held):
                places = torch.tensor(alive, device=hidden.device)
                decoder.keep(places)
                hidden, held = hidden[places], [held[i] for i in alive]
            tokens = self._draw(hidden, held).tolist()
            for row, token in zip(held, tokens):
                if not row.done:
                    row.take(token)
                    (self._think if self.to_answer else self._write)(row)
            if all(row.done for row in held):
                break
            hidden = decoder.step(torch.tensor([row.ids[-1] for row in held], device=hidden.device))
        chain = iter(rows)
        return [[next(chain) for _ in some] for some in keys]

    def _draw(self, hidden: torch.Tensor, rows: list[Completion]) -> torch.Tensor:
        noise = torch.stack([row.noise[min(len(row.ids), len(row.noise) - 1)] for row in rows])
        return draw(self.pen.head(hidden), noise.to(hidden.device), self.sampling.temperature, self.sampling.top_p)

    def _write(self, row: Completion) -> None:
        """After a token in training: text after the answer and a missing end are for the reward to see."""
        row.finished = row.ids[-1] == self.eos
        row.done = row.finished or len(row.ids) >= self.sampling.most or (self.in_form and self._ended(row))
        if not row.done and self.sampling.budget is not None and len(row.ids) == self.sampling.budget + self.opener:
            text = self.bound.tokenizer.decode(row.ids)
            if (not self.opener or "<think>" in text) and CLOSE not in text:
                row.forced_tokens, row.thought_truncated = list(self.shut), True

    def _ended(self, row: Completion) -> bool:
        """Whether the answer behind the thought is closed."""
        decode = self.bound.tokenizer.decode
        return self.bound.thinks and not row.forced_tokens and END in decode(row.ids[-TAIL:]) and CLOSE in decode(row.ids)

    def _think(self, row: Completion) -> None:
        """After a token on the way to the answer: a closed thought is followed by the words that ask for it."""
        if row.answer_prompted:
            return
        if row.ids[-1] == self.eos:  # an end in the middle of a thought closes it
            row.ids[-1:], row.forced_tokens, row.answer_prompted = self.shut[:1], self.shut[1:], True
        elif CLOSE in self.bound.tokenizer.decode(row.ids[-TAIL:]):
            row.forced_tokens, row.answer_prompted = self._rest(row.ids), True
        elif len(row.ids) >= self.sampling.most:
            row.forced_tokens, row.answer_prompted, row.thought_truncated = list(self.shut), True, True

    def _rest(self, ids: list[int]) -> list[int]:
        """What of the words between thought and answer the model has not written itself."""
        for k in range(len(self.shut), 0, -1):
            if ids[-k:] == self.shut[:k]:
                return self.shut[k:]
        return self.bound.asking


def generate(writer: Sampler, prompts: Sequence[Encoded], keys: Sequence[Sequence[str]]) -> list[list[Completion]]:
    """Rows of each prompt, as many as it has keys of chance, in batches of `TOKENS` tokens of prompts."""
    rows: list[list[Completion]] = []
    singles = [pack([prompt], [i], share=False) for i, prompt in enumerate(prompts)]
    for some in batches_of(singles, TOKENS, flat=True):
        first = some[0].owners[0]
        rows += writer([replace(one, owners=[i]) for i, one in enumerate(some)], keys[first : first + len(some)])
    return rows


def draw(logits: torch.Tensor, noise: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Tokens [R] from logits [R, V] by inverting the distribution at `noise` [R] in 0..1: the same number, the same token."""
    if temperature == 0:
        return logits.argmax(-1)
    p = (logits.float() / temperature).softmax(-1)
    if top_p < 1:
        ordered, which = p.sort(-1, descending=True)
        kept = ordered * (ordered.cumsum(-1) - ordered < top_p)  # the token that passes top_p stays
        p = torch.zeros_like(p).scatter_(-1, which, kept)
    chain = p.cumsum(-1)
    return torch.searchsorted(chain, noise[:, None] * chain[:, -1:], right=True)[:, 0].clamp_max(p.shape[-1] - 1)


def generator_of(key: str) -> torch.Generator:
    """The chance that belongs to a key, the same in every process."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))


@dataclass(frozen=True)
class TextGenerator:
    """`decoder(room)`: a new Decoder for so many tokens a row; `head`: hidden states [R, H] to logits [R, V]."""

    decoder: Callable[[int], IncrementalDecoder]
    head: Callable[[torch.Tensor], torch.Tensor]


def make_generator(model: PreTrainedModel, engine: Engine | None, bf16: bool = False) -> TextGenerator:
    """What writes with a model: its engine, or its own layers where it has none (under autocast with `bf16`)."""
    if engine is None:
        return TextGenerator(lambda room: CacheDecoder(model, bf16), lambda hidden: vocabulary_of(model, hidden))
    head = body(model)[1]
    product, bias = PackedLinear(head.weight.detach().to(engine.dtype)), getattr(head, "bias", None)
    return TextGenerator(
        lambda room: EngineDecoder(engine, room), lambda hidden: product(hidden) if bias is None else product(hidden) + bias
    )


def make_training_generator(model: PreTrainedModel, bf16: bool, compiled: bool) -> TextGenerator:
    """What writes with a policy as it is now: on a CPU a copy of it, in bf16 where training computes in that."""
    policy = getattr(model, "module", model)  # under DDP
    if not is_supported(policy):
        return make_generator(policy, None, bf16)
    frozen = merged_copy(policy)
    if bf16:
        cast_weights(frozen, torch.bfloat16)
    return make_generator(frozen, Engine(frozen, compiled))
