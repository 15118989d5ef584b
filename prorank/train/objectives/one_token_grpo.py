"""The exact one-token policy gradient: GRPO where the whole action is the next token, from one forward a prompt.

All G samples of a group read one row of logits, so with rewards that take few values the group can be summed out: the
expected gradient is sum_c w_c * grad log P(c) over classes c of tokens with the same reward (reference/ProRank sec. stage 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import lgamma
from typing import Any

import torch

from ...errors import ConfigError

NONE = -1e4  # the log of no probability
CLASSES = ("correct", "wrong", "near", "other")
STD_EPSILON = 1e-4  # as TRL adds to a group's standard deviation


@dataclass(frozen=True)
class Rewards:
    """Weights of the rule rewards. `format`: the token is one of the two answers; `relevance`: it is the labelled one; `near`:
    share of `format` for a token that spells an answer with blanks around it (" 1"), a graded step towards the form."""

    format: float = 0.5
    relevance: float = 1.0
    near: float = 0.5

    def of_classes(self) -> torch.Tensor:
        """Reward of each class, [4], in the order of CLASSES."""
        return torch.tensor([self.format + self.relevance, self.format, self.near * self.format, 0.0])


def near_tokens(tokenizer: Any, answer_ids: Sequence[int]) -> list[int]:
    """Ids of tokens that spell an answer once blanks are stripped, the answers themselves left out."""
    spelled = {tokenizer.decode([i]).strip() for i in answer_ids}
    texts = ((i, tokenizer.decode([i])) for i in tokenizer.get_vocab().values())
    return sorted(i for i, text in texts if i not in answer_ids and text.strip() in spelled)


def class_log_probs(
    logits: torch.Tensor, labels: torch.Tensor, answer_ids: Sequence[int], near: list[int], counts: torch.Tensor | None = None
) -> torch.Tensor:
    """log P of the four classes, [B, 4], from logits [B, V] and labels [B], places of the right answers among the A `answer_ids`
    (1 relevant, 0 not; or the label of the best document). `counts` [B]: how many of the answers a prompt has, all by default."""
    logp = logits.log_softmax(-1)
    known = logp[:, list(answer_ids)]  # [B, A]
    answers = known.masked_fill(~valid_answers(answer_ids, counts, known), NONE)
    correct = answers.gather(1, labels[:, None].long())
    wrong = answers.scatter(1, labels[:, None].long(), NONE).logsumexp(-1, keepdim=True)
    floor = torch.full_like(correct, NONE)  # an empty class: no probability, and no NaN
    close = logp[:, near].logsumexp(-1, keepdim=True) if near else floor
    rest = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    rest[[*answer_ids, *near]] = False
    other = logp[:, rest].logsumexp(-1, keepdim=True) if rest.any() else floor
    if counts is not None:  # labels of documents that are not there
        beyond = known.masked_fill(valid_answers(answer_ids, counts, known), NONE)
        other = torch.cat([other, beyond], 1).logsumexp(-1, keepdim=True)
    return torch.cat([correct, wrong, close, other], 1)


def valid_answers(answer_ids: Sequence[int], counts: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    """Which answers each prompt has [B, A]."""
    if counts is None:
        return torch.ones_like(like, dtype=torch.bool)
    return torch.arange(len(answer_ids), device=like.device) < counts.to(like.device)[:, None]


def advantages(rewards: torch.Tensor, scaling: str) -> torch.Tensor:
    """Group-relative advantages of rewards [..., G]: "group" (r - mean) / (std + 1e-4), "batch" the same with the std of all
    rewards, "none" r - mean, "leave-one-out" r minus the mean of the others (unbiased, no scaling). DeepSeekMath sec. 4.1;
    RLOO arXiv 2402.14740."""
    size = rewards.shape[-1]
    centred = rewards - rewards.mean(-1, keepdim=True)
    if scaling == "group":
        return centred / (rewards.std(-1, keepdim=True) + STD_EPSILON)
    if scaling == "batch":
        return centred / (rewards.std() + STD_EPSILON)
    if scaling == "none":
        return centred
    if scaling == "leave-one-out":
        return centred * size / (size - 1)
    raise ConfigError(f"scaling '{scaling}' is not known; valid: group, batch, none, leave-one-out")


@lru_cache(maxsize=8)
def compositions(size: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ways a group of `size` falls into classes: counts [N, C] and log multinomial coefficients [N], float64."""
    bars = torch.tensor(list(combinations(range(size + classes - 1), classes - 1)))
    edges = torch.cat([torch.full((len(bars), 1), -1), bars, torch.full((len(bars), 1), size + classes - 1)], 1)
    counts = edges.diff(dim=1) - 1
    table = torch.tensor([lgamma(n + 1) for n in range(size + 1)], dtype=torch.float64)
    return counts.double(), table[size] - table[counts].sum(1)


def expected_weights(log_p: torch.Tensor, rewards: torch.Tensor, size: int, scaling: str) -> torch.Tensor:
    """w_c [B, C] such that the expected group gradient is sum_c w_c grad log P(c).

    Args:
        log_p: [B, C] log probability of each class under the sampling policy, no gradient.
        rewards: [C].
        size: G; 0 takes the limit of large groups.
        scaling: see `advantages`.
    """
    log_p, rewards = log_p.detach().double(), rewards.double().to(log_p.device)
    p = log_p.exp()
    if size == 0:
        mean = (p * rewards).sum(1, keepdim=True)
        centred = rewards - mean
        if scaling == "group":
            centred = centred / ((p * centred**2).sum(1, keepdim=True).sqrt() + STD_EPSILON)
        return (p * centred).float()
    counts, log_ways = (t.to(log_p.device) for t in compositions(size, len(rewards)))
    # A class without probability and without members contributes 0, not 0 * -inf.
    chance = (log_ways + log_p.clamp(min=-1e4) @ counts.T).exp()  # [B, N]
    mean = counts @ rewards / size
    centred = rewards - mean[:, None]  # [N, C]
    if scaling == "group":
        spread = ((counts * centred**2).sum(1) / (size - 1)).sqrt()
        centred = centred / (spread[:, None] + STD_EPSILON)
    elif scaling == "leave-one-out":
        centred = centred * size / (size - 1)
    return (chance @ (counts / size * centred)).float()


def forced(log_p: torch.Tensor, force: float, counts: torch.Tensor | None = None) -> torch.Tensor:
    """The sampling policy over classes when a share `force` of draws is an answer token at random: exploration for a model that
    never answers in the asked form. [B, C] -> [B, C] logs. `counts` [B]: answers of each prompt, 2 by default."""
    if not force:
        return log_p.detach()
    counts = torch.full((len(log_p),), 2) if counts is None else counts
    spread = torch.zeros_like(log_p)
    spread[:, 0] = (1 / counts).to(log_p.device)
    spread[:, 1] = 1 - spread[:, 0]
    return ((1 - force) * log_p.detach().exp() + force * spread).clamp(min=1e-30).log()


def draw(logits: torch.Tensor, size: int, generator: torch.Generator, answer_ids: Sequence[int], force: float) -> torch.Tensor:
    """A group of tokens [G] from one row of logits [V]; each is forced to a random answer with chance `force`."""
    # Logits that are not finite give a loss that is not, which ends the run with its own words: drawing must not fail before.
    p = logits.detach().float().cpu().softmax(-1).nan_to_num(1.0)
    tokens = torch.multinomial(p, size, replacement=True, generator=generator)
    if force:
        swap = torch.rand(size, generator=generator) < force
        tokens[swap] = torch.tensor(answer_ids)[torch.randint(len(answer_ids), (size,), generator=generator)][swap]
    return tokens


def token_rewards(
    tokens: torch.Tensor, labels: torch.Tensor, answer_ids: Sequence[int], near: list[int], rewards: torch.Tensor,
    counts: torch.Tensor | None = None,
) -> torch.Tensor:  # fmt: skip
    """Rewards [B, G] of sampled tokens [B, G] for labels [B]; `rewards` [4] by class; `counts` as in `class_log_probs`."""
    right = torch.tensor(answer_ids)[labels.long().cpu()][:, None]
    valid = valid_answers(answer_ids, counts, torch.empty(len(tokens), len(answer_ids)))
    answered = ((tokens[:, :, None] == torch.tensor(answer_ids)) & valid[:, None]).any(-1)
    close = torch.isin(tokens, torch.tensor(near or [-1]))
    kind = torch.where(tokens == right, 0, torch.where(answered, 1, torch.where(close, 2, 3)))
    return rewards.cpu()[kind]


def clipped(log_now: torch.Tensor, log_old: torch.Tensor, weights: torch.Tensor, clip: float) -> torch.Tensor:
    """The clipped surrogate to maximise, elementwise: min(ratio * w, clip(ratio) * w) (PPO eq. 7). On the first pass the ratio is
    exactly 1 and the gradient is w * grad log_now."""
    ratio = (log_now - log_old).exp()
    return torch.minimum(ratio * weights, ratio.clamp(1 - clip, 1 + clip) * weights)


def exact_kl(logits: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(policy || reference) [B] over the whole vocabulary from logits [B, V]: no estimator."""
    now, then = logits.log_softmax(-1), reference.log_softmax(-1)
    return (now.exp() * (now - then)).sum(-1)
