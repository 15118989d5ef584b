"""Stage `sft`: the supervised start of a thinking model, loss on thought and answer alone (Rerank-R0 stage A).

Completions are joined to prompts as ids, so what the model learns to write begins exactly where it will begin to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from ...data.examples import cycled
from ...data.reasoning_examples import AnyReasoningExample, ListReasoningExample
from ...engine.flat_attention import is_flat
from ...engine.packing import Pack, collate, pack_completions
from ...errors import DataError
from ...prompts.prompt import AnyPromptEncoder, ListPromptEncoder, PairPromptEncoder
from ..forward import Logits
from ..settings.stage_settings import Sft

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class CompletionExample:
    """A prompt with its completion as a pack, and the completion's ids; `key` is its place in the run, `label`: 1 or 0 (None: a
    list), `answer`: the places of the tokens that answer, `cut`: tokens cut from its thought."""

    key: int
    pack: Pack
    target: list[int]
    label: int | None
    answer: range
    cut: int

    @property
    def length(self) -> int:
        return len(self.pack)


class SftStage:
    """Units are pairs or lists with thoughts, shuffled anew in each pass, as many of yes as of no if wanted; the loss is the mean
    over the tokens of a batch's completions, weighed if wanted.

    Args:
        thoughts: training data.
        bound: a thinking prompt, or one that asks for an order in writing.
        settings: see Sft.
        dev: held-out data, measured by its loss; may be empty.
        bf16: products in bf16.
    """

    cpu_units = 4

    def __init__(
        self, thoughts: Sequence[AnyReasoningExample], bound: AnyPromptEncoder,
        settings: Sft, dev: Sequence[AnyReasoningExample], bf16: bool
    ) -> None:
        self.thoughts, self.bound, self.settings, self.dev = thoughts, bound, settings, dev
        labels = [getattr(thought, "label", None) for thought in thoughts]  # lists have none
        self.sides = [[i for i, one in enumerate(labels) if one == label] for label in (0, 1)]
        if settings.balanced and not all(self.sides):
            raise DataError("balanced: the training data have pairs of one answer only")
        self.logits = Logits(settings, bf16)
        self._pass: tuple[int, list[int]] = (-1, [])
        self._batch: tuple[int, float] = (-1, 0.0)

    def __len__(self) -> int:
        return 2 * max(map(len, self.sides)) if self.settings.balanced else len(self.thoughts)

    def _order(self, epoch: int) -> list[int]:
        """Places of the pairs of a pass."""
        rng = Random(f"sft/{self.settings.seed}/{epoch}")
        if not self.settings.balanced:
            return rng.sample(range(len(self.thoughts)), len(self.thoughts))
        columns = [cycled(side, len(self) // 2, rng) for side in self.sides]
        return [row for rows in zip(*columns) for row in rows]

    def unit(self, index: int) -> CompletionExample:
        epoch, row = divmod(index, len(self))
        if self._pass[0] != epoch:
            self._pass = (epoch, self._order(epoch))
        return self._unit(index, self.thoughts[self._pass[1][row]])

    def _unit(self, key: int, thought: AnyReasoningExample) -> CompletionExample:
        prompt, answer = _asked(self.bound, thought)
        label = None if isinstance(thought, ListReasoningExample) else thought.label
        said = thought.answer if isinstance(thought, ListReasoningExample) else thought.label
        target, cut = self.bound.completion(thought.think, said, self.settings.max_think_tokens)
        end = len(target) - len(self.bound.end)
        return CompletionExample(key, pack_completions(prompt, target), target, label, range(end - len(answer), end), cut)

    def _weight(self, units: Iterable[CompletionExample]) -> float:
        """What all tokens of these completions count."""
        return sum(len(u.target) + len(u.answer) * (self.settings.answer_weight - 1) for u in units)

    def loss(self, model: PreTrainedModel, units: list[CompletionExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """The part of the batch's mean loss over its completions' tokens that these units have, times the number of parts, and
        figures."""
        loss, figures = self._mean(model, units)
        share = self._weight(units) / self._batch_weight(units[0].key)
        return loss * share * self.settings.batch_size / len(units), figures

    def _batch_weight(self, key: int) -> float:
        """What all tokens count of the completions of the batch that `key` belongs to."""
        size = self.settings.batch_size
        if self._batch[0] != key // size:
            first = key // size * size
            self._batch = (key // size, self._weight(self.unit(first + i) for i in range(size)))
        return self._batch[1]

    def _mean(self, model: PreTrainedModel, units: list[CompletionExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over the tokens of these units, and figures."""
        device = next(model.parameters()).device
        batch = collate([u.pack for u in units], self.bound.tokenizer.pad_token_id, is_flat(model)).to(device)
        targets = torch.tensor([t for u in units for t in u.target], device=device)
        logits = self.logits(model, batch)  # [N, V], N tokens of all completions
        answers = [place for places in _answers(units) for place in places]
        each = cross_entropy(logits, targets, reduction="none")
        loss = (each.sum() + (self.settings.answer_weight - 1) * each[answers].sum()) / self._weight(units)
        return loss, {
            "token_accuracy": float((logits.argmax(-1) == targets).float().mean()),
            "accuracy": self._answered(logits, targets, units),
            "documents": 1.0,
            "tokens": sum(u.length for u in units) / len(units),
            "completion_tokens": len(targets) / len(units),
            "thoughts_cut": sum(u.cut > 0 for u in units) / len(units),
        }

    def _answered(self, logits: torch.Tensor, targets: torch.Tensor, units: list[CompletionExample]) -> float:
        """Share of units whose answer's tokens are all the likeliest behind the given thought, of one document's two answers or of
        all tokens; logits [N, V]."""
        if self.bound.answer_ids:
            allowed = torch.tensor(self.bound.answer_ids, device=logits.device)
            said = [[int(allowed[logits[i, allowed].argmax()]) for i in places] for places in _answers(units)]
        else:
            said = [logits[list(places)].argmax(-1).tolist() for places in _answers(units)]
        return sum(one == targets[list(places)].tolist() for one, places in zip(said, _answers(units))) / len(units)

    @torch.no_grad()
    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """Loss, token accuracy and accuracy of the answers of the dev set; the lower loss is the better score."""
        sums, tokens, weight = dict.fromkeys(("loss", "token_accuracy", "accuracy"), 0.0), 0, 0.0
        for at in range(0, len(self.dev), self.cpu_units):
            units = [self._unit(at, thought) for thought in self.dev[at : at + self.cpu_units]]
            loss, figures = self._mean(model, units)
            count = sum(len(u.target) for u in units)
            tokens += count
            sums["loss"] += float(loss) * self._weight(units)
            weight += self._weight(units)
            sums["token_accuracy"] += figures["token_accuracy"] * count
            sums["accuracy"] += figures["accuracy"] * len(units)
        if not tokens:
            return {}
        means = {"loss": sums["loss"] / weight, "token_accuracy": sums["token_accuracy"] / tokens}
        return means | {"accuracy": sums["accuracy"] / len(self.dev), "score": -means["loss"]}


def _asked(bound: AnyPromptEncoder, thought: AnyReasoningExample) -> tuple[list[int], list[int]]:
    """Ids of the prompt and of the answer; pairs go with a prompt of one document, lists with one of several."""
    if isinstance(thought, ListReasoningExample):
        assert isinstance(bound, ListPromptEncoder)  # as `check_form` has seen to
        return bound.encode(thought.query, list(thought.documents)).ids, bound.answer_tokens(thought.answer)
    assert isinstance(bound, PairPromptEncoder)
    return bound.encode(thought.query, thought.document).ids, bound.answer_tokens(thought.label)


def _answers(units: list[CompletionExample]) -> list[range]:
    """Places of each unit's answering tokens among the tokens of all completions, one after the other."""
    begins = accumulate((len(u.target) for u in units), initial=0)
    return [range(begin + u.answer.start, begin + u.answer.stop) for begin, u in zip(begins, units)]
