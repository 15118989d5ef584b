"""Dev measures during training, by the very path that ranks in use.

Hard fact: the model in training is measured through `Reranker`, so a dev figure and a later evaluation cannot disagree on prompts.
"""

from __future__ import annotations

import copy

import numpy as np
import torch

from ..data.examples import Group
from ..model import cast_weights
from ..prompt import Prompt
from ..rank.methods import Listwise
from ..reranker import Reranker


class Dev:
    """A dev set of groups; `measure` gives nDCG@10, accuracy at log-odds 0, and the format rate.

    Args:
        groups: queries with candidates and labels (those without a relevant one are left out).
        prompt: the run's prompt.
        tokenizer: its tokenizer.
        bf16: whether training computes in bf16.
        limit: documents a query at most, relevant ones first.
    """

    def __init__(self, groups: list[Group], prompt: Prompt, tokenizer, bf16: bool, limit: int = 20) -> None:
        self.groups = [_limited(g, limit) for g in groups if max(g.labels, default=0) > 0]
        self.prompt, self.tokenizer, self.bf16 = prompt, tokenizer, bf16

    def __len__(self) -> int:
        return len(self.groups)

    def measure(self, model: torch.nn.Module) -> dict[str, float]:
        """{"ndcg@10", "accuracy", "format_rate"} of the model as it is now; with a prompt of several documents nDCG@10 alone. With
        a thinking prompt it thinks of every document, as in use, and "thoughts_cut" comes in place of the format rate."""
        # A bf16 copy, as the checkpoint will be run; autocast would cast the weights anew for every batch.
        model = cast_weights(copy.deepcopy(getattr(model, "module", model)), torch.bfloat16) if self.bf16 else model
        reranker = Reranker.of(model, self.tokenizer, self.prompt, think=self.prompt.kind == "thinking")
        if reranker.thinks:
            return self._after_thoughts(reranker)
        if self.prompt.lists:
            reranker.take_lists(Listwise())
            scores = reranker.score_lists([g.query for g in self.groups], [g.documents for g in self.groups])
            return {"ndcg@10": self._ndcg(np.concatenate(scores))}
        seen = reranker.diagnose([g.query for g in self.groups], [g.documents for g in self.groups])
        rate = float(seen.argmax_is_answer.mean())
        return {"ndcg@10": self._ndcg(seen.scores), "accuracy": self._accuracy(seen.answer == 1), "format_rate": rate}

    def _after_thoughts(self, reranker: Reranker) -> dict[str, float]:
        """Measures of scores behind the thoughts that the model writes now, and the share of thoughts that had to be closed."""
        ranked = reranker.rank_many([g.query for g in self.groups], [g.documents for g in self.groups])
        hits = [hit for some in ranked for hit in sorted(some, key=lambda hit: hit.index)]
        scores = np.array([hit.score for hit in hits], np.float32)
        cut = float(np.mean([hit.thought_cut for hit in hits]))
        return {"ndcg@10": self._ndcg(scores), "accuracy": self._accuracy(scores > 0), "thoughts_cut": cut}

    def _accuracy(self, said: np.ndarray) -> float:
        """Share of right answers, bool [n] (True: relevant); relevant and irrelevant count alike, whatever their numbers."""
        good = np.concatenate([g.labels for g in self.groups]) > 0
        return float(np.mean([said[good].mean(), (~said[~good]).mean()])) if not good.all() else float(said.mean())

    def _ndcg(self, scores: np.ndarray) -> float:
        from ..errors import extra

        with extra("train"):
            import ir_measures

        qrels, run, at = {}, {}, 0
        for i, group in enumerate(self.groups):
            n = len(group.documents)
            qrels[str(i)] = {str(k): int(label) for k, label in enumerate(group.labels)}
            run[str(i)] = {str(k): float(s) for k, s in enumerate(scores[at : at + n])}
            at += n
        return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])


def _limited(group: Group, limit: int) -> Group:
    """The group's relevant documents (at most half of `limit`) and its first others."""
    if len(group.documents) <= limit:
        return group
    good = [i for i, label in enumerate(group.labels) if label > 0][: limit // 2]
    keep = sorted(good + [i for i, label in enumerate(group.labels) if label <= 0][: limit - len(good)])
    return Group(group.query, tuple(group.documents[i] for i in keep), tuple(group.labels[i] for i in keep), group.query_id)
