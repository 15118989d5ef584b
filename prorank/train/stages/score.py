"""Stage `score`: fine-grained score learning on logit("1") - logit("0") over one query's documents (ProRank stage 2,
arXiv 2506.03487).

The documents of a query share one prefix in one row, with gradient, so the query is computed once for all of them, and scores equal
those of single prompts. With document-first prompts, queries with the same documents share the documents' tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from ...data.examples import Group, same_documents, sample_blocks
from ...engine.flat_attention import is_flat
from ...engine.packing import Batch, Pack, collate, pack, pack_document
from ...errors import DataError
from ...prompts.prompt import AnyPromptEncoder, Encoded, ListPromptEncoder, PairPromptEncoder
from ..dev_set import DevSet
from ..forward import Logits
from ..micro_batches import by_length
from ..objectives.ranking_losses import LOSSES, TEACHER_LOSSES, answer_mass
from ..settings.common_settings import max_list_size
from ..settings.stage_settings import Score
from ..training_data import read_ranking_data
from .list_examples import ListExample, lists_of, trainable_groups
from .score_inputs import bind_scored, check_list_data, dev_lists, taught_lists, thoughts_of
from .stage_spec import StageInputs, StageSpec
from .thought_cache import CachedThought, ThoughtCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_QUERIES_PER_BLOCK = 8  # maximum number of queries that share their documents
PREFETCH_DOCUMENTS = 64  # thoughts are generated for this number of documents at once, as in ranking


class ScoreStage:
    """Examples are lists of one query's documents, sampled again in each pass, or of a few queries with the same documents.

    The loss is a weighted sum, see `ranking_losses`.

    Args:
        groups: training data, with teacher scores for losses `kl` and `margin-mse`.
        encoder: the prompt, of one document or of several.
        settings: see Score.
        dev: dev set, or None.
        bf16: compute products in bf16.
        thoughts: thoughts of a thinking model, which precede the scores; None for scores directly after the prompts.
    """

    cpu_examples = 4
    arrange = staticmethod(by_length)

    def __init__(
        self, groups: list[Group], encoder: AnyPromptEncoder, settings: Score, dev: DevSet | None, bf16: bool = False,
        thoughts: ThoughtCache | None = None,
    ) -> None:  # fmt: skip
        groups = trainable_groups(groups, settings)
        taught = sorted(TEACHER_LOSSES & set(settings.loss))
        if taught and any(g.teacher is None for g in groups):
            remedy = "set 'teacher' to compute them"
            raise DataError(f"loss {taught[0]}: some queries have no teacher scores (pos_scores, neg_scores); {remedy}")
        self.encoder, self.settings, self.dev, self.thoughts = encoder, settings, dev, thoughts
        self.listwise = isinstance(encoder, ListPromptEncoder)
        shared = encoder.prompt.order == "document-first" and not thoughts
        self.blocks = same_documents(groups, MAX_QUERIES_PER_BLOCK) if shared else [(group,) for group in groups]
        self.logits = Logits(settings, bf16)
        self.max_grade = max(max(g.labels) for g in groups) or 1.0
        self._pass: tuple[int, list[tuple[Group, ...]]] = (-1, [])

    def __len__(self) -> int:
        return len(self.blocks)

    def example(self, index: int) -> ListExample:
        """See `Stage.example`."""
        lists, thoughts = self._lists(index), self._thoughts(index)
        return ListExample(index, self._packs(lists, thoughts), lists, tuple(thoughts))

    def _lists(self, index: int) -> tuple[Group, ...]:
        """Return the lists of the index-th example."""
        epoch, row = divmod(index, len(self.blocks))
        if self._pass[0] != epoch:
            self._pass = (epoch, sample_blocks(self.blocks, self.settings.list_size, self.settings.seed, epoch))
        return self._pass[1][row]

    def _group(self, index: int) -> Group:
        """Return the single list of the index-th example, for generating thoughts."""
        return self._lists(index)[0]

    def _thoughts(self, index: int) -> list[CachedThought]:
        """Return the thoughts of an example's documents.

        If any is missing, thoughts of the next examples are generated as well, up to the end of the pass or of the run.
        """
        if not self.thoughts:
            return []
        s, epoch = self.settings, index // len(self.blocks)
        last = min((epoch + 1) * len(self.blocks), index + max(1, PREFETCH_DOCUMENTS // max_list_size(s.list_size)))
        last = max(index + 1, min(last, s.steps * s.batch_size)) if s.steps else last
        generation = epoch // s.refresh_thoughts if s.refresh_thoughts else 0
        return self.thoughts.of(generation, self._group(index), lambda: map(self._group, range(index, last)))

    def _packs(self, lists: tuple[Group, ...], thoughts: list[CachedThought]) -> list[Pack]:
        """Pack one list (documents after their query, or all in one prompt) or several lists (queries after each document)."""
        if isinstance(self.encoder, ListPromptEncoder):
            return [pack([self.encoder.encode(g.query, list(g.documents)).whole], [0], share=False) for g in lists]
        encoded = [self._encoded(self.encoder, g, thoughts) for g in lists]
        by_document = list(zip(*encoded))  # the queries' prompts of each document
        if self.settings.baseline_step:
            return [pack([p], [0], share=False) for prompts in by_document for p in prompts]
        return [pack(encoded[0], range(len(encoded[0])))] if len(lists) == 1 else [pack_document(p) for p in by_document]

    def _encoded(self, encoder: PairPromptEncoder, group: Group, thoughts: list[CachedThought]) -> list[Encoded]:
        """Encode a prompt for each document of a list, with its thought if there are thoughts."""
        if self.thoughts:
            return self.thoughts.prompts(group, thoughts)
        return encoder.encode_many(group.query, list(group.documents))

    def scores(self, logits: torch.Tensor, examples: list[ListExample]) -> tuple[torch.Tensor, ...]:
        """Return scores [n] of each list from the logits [N, V] at the answers.

        A score is the log-odds of a document's answer or, in a prompt of several documents, the logit of its label.
        """
        if self.listwise:
            return tuple(row[self.encoder.answer_ids[: len(g.labels)]] for row, g in zip(logits, lists_of(examples)))
        no, yes = self.encoder.answer_ids
        parts = (logits[:, yes] - logits[:, no]).split([len(e.lists) * len(e.lists[0].labels) for e in examples])
        # Answers of an example are ordered by document, then by query.
        return tuple(row for part, e in zip(parts, examples) for row in part.view(-1, len(e.lists)).T)

    def loss(self, model: PreTrainedModel, examples: list[ListExample]) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the mean loss over queries, and its parts."""
        device = next(model.parameters()).device
        flat = is_flat(model) and not self.settings.baseline_step
        batch = collate([p for e in examples for p in e.packs], self.encoder.tokenizer.pad_token_id, flat).to(device)
        logits = self.logits(model, batch)  # [N, V], N prompts of all examples
        scores = self.scores(logits, examples)
        parts = self._loss_parts(examples, scores)
        nothing = torch.zeros((), device=device)
        loss = sum((weight * parts[name] for name, weight in self.settings.loss.items()), start=nothing)
        if self.settings.answer_mass_weight:
            parts["answer_mass"] = answer_mass(logits, self.encoder.answer_ids)
            loss = loss + self.settings.answer_mass_weight * parts["answer_mass"]
        extra, figures = self.extra_loss(model, batch, examples, scores)
        figures |= {f"loss_{name}": float(value.detach()) for name, value in parts.items()}
        return loss + extra, figures | self._figures(examples, scores, logits)

    def _loss_parts(self, examples: list[ListExample], scores: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor]:
        """Return the mean of each loss over lists, without its weight."""
        parts: dict[str, torch.Tensor] = {}
        for group, row in zip(lists_of(examples), scores):
            grades = torch.tensor(group.labels, device=row.device)
            targets: dict[str, Any] = {"labels": grades / self.max_grade, "grades": grades, "gain": self.settings.gain}
            targets["temperature"] = self.settings.teacher_temperature
            targets["teacher"] = torch.tensor(group.teacher, device=row.device) if group.teacher else None
            for name in self.settings.loss:
                parts[name] = parts.get(name, row.new_zeros(())) + LOSSES[name](row, **targets) / len(scores)
        return parts

    def extra_loss(
        self, model: PreTrainedModel, batch: Batch, examples: list[ListExample], scores: tuple[torch.Tensor, ...]
    ) -> tuple[torch.Tensor | float, dict[str, float]]:
        """Return (additional loss of a derived stage, its figures)."""
        return 0.0, {}

    def _figures(self, examples: list[ListExample], scores: tuple[torch.Tensor, ...], logits: torch.Tensor) -> dict[str, float]:
        """Return the share of lists whose highest score has the highest grade, format rate, documents and tokens per example, and
        length and truncated share of thoughts if there are any.
        """
        answered = torch.isin(logits.argmax(-1), torch.tensor(self.encoder.answer_ids, device=logits.device))
        top = [group.labels[int(row.argmax())] == max(group.labels) for group, row in zip(lists_of(examples), scores)]
        return _thought_figures([thought for e in examples for thought in e.thoughts]) | {
            "top1": sum(top) / len(top),
            "format_rate": float(answered.float().mean()),
            "documents": sum(map(len, scores)) / len(examples),
            "tokens": sum(e.length for e in examples) / len(examples),
        }

    def evaluate(self, model: PreTrainedModel) -> dict[str, float]:
        """See `Stage.evaluate`."""
        if not self.dev:
            return {}
        measures = self.dev.measure(model)
        return measures | {"score": measures["ndcg@10"]}


def _thought_figures(thoughts: Sequence[CachedThought]) -> dict[str, float]:
    if not thoughts:
        return {}
    return {"think_tokens": fmean(t.tokens for t in thoughts), "thoughts_cut": fmean(t.cut for t in thoughts)}


def _build(inputs: StageInputs) -> ScoreStage:
    dev, groups = dev_lists(inputs), taught_lists(inputs)
    return ScoreStage(groups, inputs.train_encoder, inputs.settings, dev, inputs.bf16, thoughts_of(inputs))


SCORE = StageSpec(Score, read_ranking_data, check_list_data, bind_scored, _build)
