"""Stage `sft`: supervised fine-tuning of a thinking model, with the loss on thought and answer only (Rerank-R0 stage A).

Completions are joined to prompts as token ids, so training has exactly the same tokens as generation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import cross_entropy

from ...data.balanced_pairs import cycled
from ...data.reasoning_examples import AnyReasoningExample, ListReasoningExample
from ...engine.flat_attention import is_flat
from ...engine.packing import collate, pack_completions
from ...errors import ConfigError, DataError
from ...prompts.prompt import AnyPromptEncoder, Prompt
from ..forward import Logits
from ..micro_batches import by_length
from ..settings.stage_settings import Sft
from ..training_data import bind_thinking, bind_writing, read_reasoning_data
from .sft_examples import CompletionExample, answer_places, encoded
from .stage_spec import StageInputs, StageSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SftStage:
    """Examples are pairs or lists with thoughts, shuffled in each pass, optionally balanced between yes and no.

    The loss is the mean over the tokens of a batch's completions; the answer's tokens may have a larger weight, and the target of a
    pair's answer may be partly a teacher's probability.

    Args:
        thoughts: training data.
        encoder: a thinking prompt, or one of kind listwise.
        settings: see Sft.
        dev: held-out data; may be empty.
        bf16: compute products in bf16.
    """

    cpu_examples = 4
    arrange = staticmethod(by_length)

    def __init__(
        self,
        thoughts: Sequence[AnyReasoningExample],
        encoder: AnyPromptEncoder,
        settings: Sft,
        dev: Sequence[AnyReasoningExample],
        bf16: bool,
    ) -> None:
        self.thoughts, self.encoder, self.settings, self.dev = thoughts, encoder, settings, dev
        labels = [getattr(thought, "label", None) for thought in thoughts]  # lists have none
        self.rows_by_label = [[row for row, of_row in enumerate(labels) if of_row == label] for label in (0, 1)]
        if settings.balanced and not all(self.rows_by_label):
            raise DataError("balanced: the training data have pairs of one answer only")
        self.logits = Logits(settings, bf16)
        self._pass: tuple[int, list[int]] = (-1, [])
        self._batch: tuple[int, float] = (-1, 0.0)

    def __len__(self) -> int:
        return 2 * max(map(len, self.rows_by_label)) if self.settings.balanced else len(self.thoughts)

    def _order(self, epoch: int) -> list[int]:
        """Return indices into the data in the order of a pass."""
        rng = Random(f"sft/{self.settings.seed}/{epoch}")
        if not self.settings.balanced:
            return rng.sample(range(len(self.thoughts)), len(self.thoughts))
        columns = [cycled(rows, len(self) // 2, rng) for rows in self.rows_by_label]
        return [row for rows in zip(*columns) for row in rows]

    def example(self, index: int) -> CompletionExample:
        """See `Stage.example`."""
        epoch, row = divmod(index, len(self))
        if self._pass[0] != epoch:
            self._pass = (epoch, self._order(epoch))
        return self._example(index, self.thoughts[self._pass[1][row]])

    def _example(self, key: int, thought: AnyReasoningExample) -> CompletionExample:
        prompt, answer_tokens = encoded(self.encoder, thought)
        label = None if isinstance(thought, ListReasoningExample) else thought.label
        answer = thought.answer if isinstance(thought, ListReasoningExample) else thought.label
        think = "" if self._is_emptied(key, thought) else thought.think
        target, cut = self.encoder.completion(think, answer, self.settings.max_think_tokens)
        end = len(target) - len(self.encoder.end)
        places = range(end - len(answer_tokens), end)
        return CompletionExample(key, pack_completions(prompt, target), target, label, places, cut, self._relevance(thought))

    def _is_emptied(self, key: int, thought: AnyReasoningExample) -> bool:
        """Whether the thought of example `key` of the run is left out. Dev examples have negative keys and keep theirs."""
        share = self.settings.empty_thoughts
        if not share or key < 0 or isinstance(thought, ListReasoningExample):
            return False
        return Random(f"empty thoughts/{self.settings.seed}/{key}").random() < share

    def _relevance(self, thought: AnyReasoningExample) -> float | None:
        """Return the target probability of the answer "yes"."""
        if isinstance(thought, ListReasoningExample):
            return None
        share = self.settings.teacher_weight
        if not share:
            return float(thought.label)
        assert thought.score is not None  # see `_check`
        taught = torch.tensor(thought.score / self.settings.teacher_temperature, dtype=torch.float64).sigmoid().item()
        return share * taught + (1 - share) * thought.label

    def _weight(self, examples: Iterable[CompletionExample]) -> float:
        """Return the total weight of the completions' tokens in the loss."""
        return sum(len(e.target) + len(e.answer) * (self.settings.answer_weight - 1) for e in examples)

    def loss(self, model: PreTrainedModel, examples: list[CompletionExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Return (these examples' part of the batch's mean loss over tokens, times the number of parts; figures)."""
        loss, figures = self._mean_loss(model, examples)
        share = self._weight(examples) / self._batch_weight(examples[0].key)
        return loss * share * self.settings.batch_size / len(examples), figures

    def _batch_weight(self, key: int) -> float:
        """Return the total weight of the tokens in the batch that contains example `key`."""
        size = self.settings.batch_size
        if self._batch[0] != key // size:
            first = key // size * size
            self._batch = (key // size, self._weight(self.example(first + i) for i in range(size)))
        return self._batch[1]

    def _mean_loss(self, model: PreTrainedModel, examples: list[CompletionExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Return (mean loss over the tokens of these examples, figures)."""
        device = next(model.parameters()).device
        batch = collate([e.pack for e in examples], self.encoder.tokenizer.pad_token_id, is_flat(model)).to(device)
        targets = torch.tensor([token for e in examples for token in e.target], device=device)
        logits = self.logits(model, batch)  # [N, V], N tokens of all completions
        answers = [place for places in answer_places(examples) for place in places]
        each = cross_entropy(logits, targets, reduction="none")
        if self.settings.teacher_weight:
            each = each.index_copy(0, torch.tensor(answers, device=device), self._answer_losses(logits[answers], examples))
        loss = (each.sum() + (self.settings.answer_weight - 1) * each[answers].sum()) / self._weight(examples)
        return loss, {
            "token_accuracy": float((logits.argmax(-1) == targets).float().mean()),
            "accuracy": self._answer_accuracy(logits, targets, examples),
            "documents": 1.0,
            "tokens": sum(e.length for e in examples) / len(examples),
            "completion_tokens": len(targets) / len(examples),
            "thoughts_cut": sum(e.cut > 0 for e in examples) / len(examples),
        }

    def _answer_losses(self, logits: torch.Tensor, examples: list[CompletionExample]) -> torch.Tensor:
        """Return the cross-entropy [B] between each pair's target and its answer, from logits [B, V] at the answers."""
        no, yes = logits.log_softmax(-1)[:, list(self.encoder.answer_ids)].unbind(-1)
        relevance = torch.tensor([e.relevance for e in examples], device=logits.device)
        return -(relevance * yes + (1 - relevance) * no)

    def _answer_accuracy(self, logits: torch.Tensor, targets: torch.Tensor, examples: list[CompletionExample]) -> float:
        """Return the share of examples whose answer tokens are all the most probable ones after the reference thought.

        Probabilities are compared among the two answers if the prompt has them, else among all tokens; logits [N, V], targets [N].
        """
        if self.encoder.answer_ids:
            allowed = torch.tensor(self.encoder.answer_ids, device=logits.device)
            likeliest = [[int(allowed[logits[i, allowed].argmax()]) for i in places] for places in answer_places(examples)]
        else:
            likeliest = [logits[list(places)].argmax(-1).tolist() for places in answer_places(examples)]
        answers = [targets[list(places)].tolist() for places in answer_places(examples)]
        return sum(got == wanted for got, wanted in zip(likeliest, answers)) / len(examples)

    @torch.no_grad()
    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """Return loss, token accuracy and answer accuracy on the dev set; the score is the negated loss."""
        sums, tokens, weight = dict.fromkeys(("loss", "token_accuracy", "accuracy"), 0.0), 0, 0.0
        for start in range(0, len(self.dev), self.cpu_examples):
            examples = [self._example(-1, thought) for thought in self.dev[start : start + self.cpu_examples]]
            loss, figures = self._mean_loss(model, examples)
            count = sum(len(e.target) for e in examples)
            tokens += count
            sums["loss"] += float(loss) * self._weight(examples)
            weight += self._weight(examples)
            sums["token_accuracy"] += figures["token_accuracy"] * count
            sums["accuracy"] += figures["accuracy"] * len(examples)
        if not tokens:
            return {}
        means = {"loss": sums["loss"] / weight, "token_accuracy": sums["token_accuracy"] / tokens}
        return means | {"accuracy": sums["accuracy"] / len(self.dev), "score": -means["loss"]}


def _check(examples: list[AnyReasoningExample], dev_examples: list[AnyReasoningExample], settings: Sft) -> None:
    """Raise DataError if a teacher is to be distilled and a pair has no score. `read_reasoning_examples` checks each line."""
    if not settings.teacher_weight:
        return
    for example in [*examples, *dev_examples]:
        if getattr(example, "score", None) is None:
            raise DataError(
                f"key 'teacher_weight' needs a 'score' in each pair of the data, and {example.query[:40]!r} has none; "
                "make them with `prorank label --extractive --quote MODEL`, or set teacher_weight=0"
            )


def _bind(prompt: Prompt, tokenizer: Any, settings: Sft) -> AnyPromptEncoder:
    """Return the encoder of a thinking prompt, or of a listwise one, whose answer follows without a thought."""
    return (bind_writing if prompt.kind == "listwise" else bind_thinking)(prompt, tokenizer, settings)


def _check_encoder(examples: list[AnyReasoningExample], encoder: AnyPromptEncoder) -> None:
    """Raise ConfigError if thoughts are about one document and the prompt shows several, or vice versa."""
    if any(isinstance(example, ListReasoningExample) != encoder.prompt.lists for example in examples):
        shown = "several documents" if encoder.prompt.lists else "one document"
        raise ConfigError(f"stage sft: prompt {encoder.prompt.name} shows {shown}, but not all of the data do; see key 'prompt'")


def _build(inputs: StageInputs) -> SftStage:
    return SftStage(inputs.examples, inputs.train_encoder, inputs.settings, inputs.dev_examples, inputs.bf16)


SFT = StageSpec(Sft, read_reasoning_data, _check, _bind, _build, check_encoder=_check_encoder)
