"""A thinking model's own thoughts, behind which its scores are learned: written when their pairs are first drawn, then kept.

They are written by the code that ranks in use, greedily and within the prompt's budget, so the logits behind them are
those that ranking reads; each write to `thoughts.jsonl` is one block, so a killed run loses none that a step has seen.
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
Key = tuple[int, str, str]  # round, query, document


@dataclass(frozen=True)
class CachedThought:
    """What the model wrote behind prompt and opener, up to the place of the answer. `tokens`: how many of the `ids` it drew;
    `cut`: its budget ran out."""

    ids: tuple[int, ...]
    tokens: int
    cut: bool


class ThoughtCache:
    """Prompts with the thoughts of the model in training.

    Args:
        model: its weights write, as they are when a thought is first wanted.
        bound: the thinking prompt.
        settings: of the run; thoughts kept in its folder serve again if they belong to the same first weights and prompt.
        bf16: write in bf16.
    """

    def __init__(self, model: PreTrainedModel, bound: PairPromptEncoder, settings: Score, bf16: bool) -> None:
        self.model, self.settings, self.bf16 = model, settings, bf16
        self.bound = thinking_encoder(Prompt.of(bound.prompt), bound.tokenizer, model)
        self.path = Path(settings.out) / FILE
        self.by = _fingerprint(model, self.bound)
        self.known = dict(self._kept())

    def of(self, number: int, group: Group, ahead: Callable[[], Iterable[Group]]) -> list[CachedThought]:
        """Thoughts of a group's documents in a round, the `number`-th time that all are written; where one is missing, those of the
        groups `ahead` (this one and some that come next) are written together."""
        keys = [(number, group.query, document) for document in group.documents]
        if any(key not in self.known for key in keys):
            self._write(number, ahead())
        return [self.known[key] for key in keys]

    def prompts(self, group: Group, thoughts: list[CachedThought]) -> list[Encoded]:
        """Prompts of a group's documents with these thoughts, up to their answers."""
        opener = self.bound.opener
        prompts = self.bound.encode_many(group.query, list(group.documents))
        return [replace(prompt, ids=[*prompt.ids, *opener, *own.ids]) for prompt, own in zip(prompts, thoughts)]

    def _write(self, number: int, groups: Iterable[Group]) -> None:
        """Write the thoughts that these groups lack; each process writes a share and has all."""
        if not self.known:
            log.info("thoughts: written as pairs are first drawn, the first before the first step; kept in %s", self.path)
        todo: dict[str, dict[str, None]] = {}
        for group in groups:
            new = [document for document in group.documents if (number, group.query, document) not in self.known]
            todo.setdefault(group.query, {}).update(dict.fromkeys(new))
        rank, world = place()
        rows = _together(self._rows(number, [(query, list(some)) for query, some in todo.items() if some][rank::world]))
        self.known.update(map(_entry, rows))
        if is_main():
            append_text(self.path, "".join(map(line_of, rows)))

    def _rows(self, number: int, lists: list[tuple[str, list[str]]]) -> list[dict[str, Any]]:
        """Lines of the file for these queries and their documents."""
        sampling = Sampling(0.0, max_tokens=self.bound.prompt.max_think_tokens)
        training = self.model.training
        self.model.eval()
        writer = Sampler(
            make_training_generator(self.model, self.bf16, self.settings.compile is True), self.bound, sampling, StopAt.ANSWER_START
        )
        asked = [(self.bound.encode_many(query, some), some) for query, some in lists]
        out = []
        for some in generate_batches(writer, asked):
            for which, at, (row,) in some:
                query, documents = lists[which]
                out.append({"round": number, "query": query, "document": documents[at], **self._said(row), "by": self.by})
        self.model.train(training)
        return out

    def _said(self, row: Completion) -> dict[str, Any]:
        said = read_thought(self.bound, row)
        return {"thought": said.text, "cut": said.cut, "tokens": len(row.ids) - len(row.forced_positions), "ids": row.ids}

    def _kept(self) -> list[tuple[Key, CachedThought]]:
        """What the file holds for these weights and this prompt; other lines, and one that a kill cut short, leave the file."""
        if not self.path.is_file():
            return []
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
            with suppress(ValueError):
                rows.append(json.loads(line))
        rows = [row for row in rows if row.get("by") == self.by]
        if is_main():
            with atomic_file(self.path) as handle:
                handle.writelines(map(line_of, rows))
        return [_entry(row) for row in rows]


def _entry(row: dict[str, Any]) -> tuple[Key, CachedThought]:
    return (row["round"], row["query"], row["document"]), CachedThought(tuple(row["ids"]), row["tokens"], row["cut"])


def _together(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of all processes."""
    world = place()[1]
    if world == 1:
        return rows
    parts: list[list[dict[str, Any]]] = [[] for _ in range(world)]
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _fingerprint(model: PreTrainedModel, bound: PairPromptEncoder) -> str:
    """Changes with the weights and with the prompt."""
    digest = hashlib.sha256(f"{bound.prompt.fingerprint()} {bound.longest}".encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
