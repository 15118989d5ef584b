"""Thoughts of a thinking model for training its scores: generated when their pairs are first sampled, then cached.

They are generated as in ranking, greedily and within the prompt's budget, so training has the same logits after them as ranking.
`thoughts.jsonl` is written in whole blocks, so a killed run loses no thought that a step has used.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...data.examples import Group
from ...data.jsonl import line_of
from ...engine.generation import Sampler, make_training_generator
from ...engine.sampling import Completion, Sampling, StopAt
from ...prompts.prompt import Encoded, PairPromptEncoder, Prompt
from ...rank.thinking import generate_batches, read_thought, thinking_encoder
from ...utils.files import append_text, atomic_file
from ..distributed import is_main, place
from ..settings.stage_settings import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("prorank")
FILE = "thoughts.jsonl"
ThoughtKey = tuple[int, str, str]  # generation, query, document


@dataclass(frozen=True)
class CachedThought:
    """A thought of the model.

    Attributes:
        ids: tokens after prompt and opener, up to the answer.
        tokens: number of generated tokens in `ids`; the others were forced.
        cut: whether the thought was closed because its budget ran out.
    """

    ids: tuple[int, ...]
    tokens: int
    cut: bool


class ThoughtCache:
    """Prompts with the thoughts of the model in training.

    Args:
        model: generates each thought with its weights when the thought is first needed.
        encoder: the thinking prompt.
        settings: settings of the run. Thoughts in the run folder are reused if initial weights and prompt are the same.
        bf16: generate in bf16.
    """

    def __init__(self, model: PreTrainedModel, encoder: PairPromptEncoder, settings: Score, bf16: bool) -> None:
        self.model, self.settings, self.bf16 = model, settings, bf16
        self.encoder = thinking_encoder(Prompt.of(encoder.prompt), encoder.tokenizer, model)
        self.path = Path(settings.out) / FILE
        self.fingerprint = _fingerprint(model, self.encoder)
        self.known = dict(self._stored())

    def of(self, generation: int, group: Group, ahead: Callable[[], Iterable[Group]]) -> list[CachedThought]:
        """Return the thoughts of a group's documents.

        Args:
            generation: number of times that all thoughts were generated again.
            group: query and documents.
            ahead: returns this group and the next ones. If a thought is missing, those of all these groups are generated together.
        """
        keys = [(generation, group.query, document) for document in group.documents]
        if any(key not in self.known for key in keys):
            self._generate(generation, ahead())
        return [self.known[key] for key in keys]

    def prompts(self, group: Group, thoughts: list[CachedThought]) -> list[Encoded]:
        """Return the prompts of a group's documents with these thoughts, up to their answers."""
        opener = self.encoder.opener
        prompts = self.encoder.encode_many(group.query, list(group.documents))
        return [replace(prompt, ids=[*prompt.ids, *opener, *thought.ids]) for prompt, thought in zip(prompts, thoughts)]

    def _generate(self, generation: int, groups: Iterable[Group]) -> None:
        """Generate missing thoughts of these groups. Each process generates a share and gets all."""
        if not self.known:
            log.info("thoughts: generated when pairs are first sampled, beginning before the first step; stored in %s", self.path)
        missing: dict[str, dict[str, None]] = {}
        for group in groups:
            new = [document for document in group.documents if (generation, group.query, document) not in self.known]
            missing.setdefault(group.query, {}).update(dict.fromkeys(new))
        rank, world = place()
        lists = [(query, list(documents)) for query, documents in missing.items() if documents]
        rows = _gathered(self._rows(generation, lists[rank::world]))
        self.known.update(map(_entry, rows))
        if is_main():
            append_text(self.path, "".join(map(line_of, rows)))

    def _rows(self, generation: int, lists: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
        """Generate lines of the file for these queries and their documents."""
        sampling = Sampling(0.0, max_tokens=self.encoder.prompt.max_think_tokens)
        training = self.model.training
        self.model.eval()
        generator = make_training_generator(self.model, self.bf16, self.settings.compile is True)
        sampler = Sampler(generator, self.encoder, sampling, StopAt.ANSWER_START)
        prompts = [(self.encoder.encode_many(query, documents), documents) for query, documents in lists]
        out = []
        for batch in generate_batches(sampler, prompts):
            for number, place_in_list, (row,) in batch:
                query, documents = lists[number]
                key = {"round": generation, "query": query, "document": documents[place_in_list]}
                out.append({**key, **self._thought(row), "by": self.fingerprint})
        self.model.train(training)
        return out

    def _thought(self, row: Completion) -> dict[str, Any]:
        thought = read_thought(self.encoder, row)
        tokens = len(row.ids) - len(row.forced_positions)
        return {"thought": thought.text, "cut": thought.cut, "tokens": tokens, "ids": row.ids}

    def _stored(self) -> list[tuple[ThoughtKey, CachedThought]]:
        """Return the file's thoughts for these weights and this prompt. Other lines and an incomplete last line are removed."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError):
                rows.append(json.loads(line))
        rows = [row for row in rows if row.get("by") == self.fingerprint]
        if is_main():
            with atomic_file(self.path) as handle:
                handle.writelines(map(line_of, rows))
        return [_entry(row) for row in rows]


def _entry(row: dict[str, Any]) -> tuple[ThoughtKey, CachedThought]:
    return (row["round"], row["query"], row["document"]), CachedThought(tuple(row["ids"]), row["tokens"], row["cut"])


def _gathered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather the lines of all processes."""
    world = place()[1]
    if world == 1:
        return rows
    parts: list[list[dict[str, Any]]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _fingerprint(model: PreTrainedModel, encoder: PairPromptEncoder) -> str:
    """Return a fingerprint of weights and prompt."""
    digest = hashlib.sha256(f"{encoder.prompt.fingerprint()} {encoder.longest}".encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
