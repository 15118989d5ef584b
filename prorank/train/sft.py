"""Stage `sft`: the supervised start of a thinking model, loss on thought and answer alone (Rerank-R0 stage A).

Hard fact: completions are joined to prompts as ids, so what the model learns to write begins exactly where it will begin to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

import torch
from torch.nn.functional import cross_entropy

from ..data.examples import cycled
from ..data.thoughts import Thought
from ..errors import DataError
from ..prompt import BoundPrompt
from ..rank.batching import Pack, collate, completed
from ..rank.flat import is_flat
from .config import Sft
from .forward import Logits


@dataclass(frozen=True)
class Unit:
    """A prompt with its completion as a pack, and the completion's ids; `key` is its place in the run, `label`: 1 or 0, `answer`:
    the place of the token that answers, `cut`: tokens cut from its thought."""

    key: int
    pack: Pack
    target: list[int]
    label: int
    answer: int
    cut: int

    @property
    def length(self) -> int:
        return len(self.pack)


class SftStage:
    """Units are pairs with thoughts, shuffled anew in each pass, as many of yes as of no if wanted; the loss is the mean over the
    tokens of a batch's completions, weighed if wanted.

    Args:
        thoughts: training data.
        bound: a thinking prompt.
        settings: see Sft.
        dev: held-out data, measured by its loss; may be empty.
        bf16: products in bf16.
    """

    cpu_units = 4

    def __init__(self, thoughts: Sequence[Thought], bound: BoundPrompt, settings: Sft, dev: Sequence[Thought], bf16: bool) -> None:
        self.thoughts, self.bound, self.settings, self.dev = thoughts, bound, settings, dev
        self.sides = [[i for i, thought in enumerate(thoughts) if thought.label == label] for label in (0, 1)]
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

    def unit(self, index: int) -> Unit:
        epoch, row = divmod(index, len(self))
        if self._pass[0] != epoch:
            self._pass = (epoch, self._order(epoch))
        return self._unit(index, self.thoughts[self._pass[1][row]])

    def _unit(self, key: int, thought: Thought) -> Unit:
        prompt = self.bound.encode(thought.query, thought.document)
        target, cut = self.bound.completion(thought.think, thought.label, self.settings.max_think_tokens)
        answer = len(target) - 1 - target[::-1].index(self.bound.answer_ids[thought.label])
        return Unit(key, completed(prompt.ids, target), target, thought.label, answer, cut)

    def _weight(self, units: Iterable[Unit]) -> float:
        """What all tokens of these completions count."""
        return sum(len(u.target) - 1 + self.settings.answer_weight for u in units)

    def loss(self, model: torch.nn.Module, units: list[Unit]) -> tuple[torch.Tensor, dict[str, float]]:
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

    def _mean(self, model: torch.nn.Module, units: list[Unit]) -> tuple[torch.Tensor, dict[str, float]]:
        """Mean loss over the tokens of these units, and figures."""
        device = next(model.parameters()).device
        batch = collate([u.pack for u in units], self.bound.tokenizer.pad_token_id, is_flat(model)).to(device)
        targets = torch.tensor([t for u in units for t in u.target], device=device)
        logits = self.logits(model, batch)  # [N, V], N tokens of all completions
        answers = _answers(units)
        each = cross_entropy(logits, targets, reduction="none")
        loss = (each.sum() + (self.settings.answer_weight - 1) * each[answers].sum()) / self._weight(units)
        return loss, {
            "token_accuracy": float((logits.argmax(-1) == targets).float().mean()),
            "accuracy": self._answered(logits[answers], units),
            "documents": 1.0,
            "tokens": sum(u.length for u in units) / len(units),
            "completion_tokens": len(targets) / len(units),
            "thoughts_cut": sum(u.cut > 0 for u in units) / len(units),
        }

    def _answered(self, logits: torch.Tensor, units: list[Unit]) -> float:
        """Share of units whose own answer is the likelier of the two, behind the given thought; logits [U, V] at the answers."""
        said = logits[:, list(self.bound.answer_ids)].argmax(-1).cpu()
        return float((said == torch.tensor([u.label for u in units])).float().mean())

    @torch.no_grad()
    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
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


def _answers(units: list[Unit]) -> list[int]:
    """Places of the answering tokens among those of all completions, one after the other."""
    begins = accumulate((len(u.target) for u in units), initial=0)
    return [begin + u.answer for begin, u in zip(begins, units)]
