"""The policy gradient of a ranking: scores define a Plackett-Luce distribution over orders with a differentiable reward.

nDCG, reciprocal rank and average precision are sums over ranks, whose terms depend only on the set of documents at higher ranks. So
the expectation over all n! orders is a sum over 2^n sets (`expected_reward`).

Shapes: n documents of a list, G sampled orders, k = `depth` ranks that count. A set of documents is an integer, one bit each.

Sources: Plackett-Luce and its Gumbel sampler, Yellott 1977; policy gradient of rankings, Singh and Joachims 2019 (arXiv
1902.04056); leave-one-out baseline, Kool et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch

from ...evaluate.gains import LINEAR, gains_of

REWARDS = ("ndcg", "rr", "ap", "rearank")
MAX_EXACT_DOCUMENTS = 12  # a sum over 4,096 sets


def sample_orders(scores: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Sample G = `size` orders [G, n] of scores [n], best first, from their Plackett-Luce distribution (sorted Gumbel noise)."""
    uniform = torch.rand(size, len(scores), generator=generator, dtype=torch.float64).clamp_min(1e-300)
    return (scores.detach().cpu().double() - (-uniform.log()).log()).argsort(-1, descending=True)


def order_log_probs(scores: torch.Tensor, orders: torch.Tensor, depth: int | None = None) -> torch.Tensor:
    """Return log-probabilities [G, k] of the first k choices in orders: log softmax among the documents not yet placed.

    Their sum is the log-probability of the first k ranks.

    Args:
        scores: scores [n].
        orders: orders [G, n], best first.
        depth: k; None for n.
    """
    placed = scores[orders]  # [G, n]
    rest = placed.flip(-1).logcumsumexp(-1).flip(-1)  # of this rank and all after it
    return (placed - rest)[:, : depth or placed.shape[-1]]


def placed_rewards(
    grades: torch.Tensor, orders: torch.Tensor, reward: str, depth: int, gain: str = LINEAR
) -> torch.Tensor:  # fmt: skip
    """Return the contributions [G, k] of the first k ranks to the reward.

    Args:
        grades: grades [n] of the documents.
        orders: orders [G, n], best first.
        reward: see `_terms`.
        depth: k.
        gain: gain of a grade in nDCG.
    """
    table = _terms(grades.double().cpu(), reward, depth, gain)
    sets = (2**orders).cumsum(-1) - 2**orders  # bits of the documents at higher ranks, [G, n]
    return table(sets[:, :depth], orders[:, :depth]).float()


def policy_weights(rewards: torch.Tensor, advantage: str) -> torch.Tensor:
    """Return the weights [G, k] of the choices' log-probabilities.

    A choice is credited with the reward from its rank on, since it cannot change earlier ranks.

    Args:
        rewards: contribution [G, k] of each rank to the reward.
        advantage: "leave-one-out" subtracts the mean of the other orders at the same rank, which is unbiased. "group" subtracts the
            group's mean and divides by the standard deviation of the orders' rewards (GRPO).
    """
    to_come = rewards.flip(-1).cumsum(-1).flip(-1)
    centred = to_come - to_come.mean(0, keepdim=True)
    if advantage == "group":
        return centred / (rewards.sum(-1).std() + 1e-4)
    return centred * len(rewards) / (len(rewards) - 1)


def expected_reward(
    scores: torch.Tensor, grades: torch.Tensor, reward: str, depth: int, gain: str = LINEAR
) -> torch.Tensor:  # fmt: skip
    """Return the expected reward over all orders, differentiable and without sampling, for at most `MAX_EXACT_DOCUMENTS` documents.

    Args:
        scores: scores [n].
        grades, reward, depth, gain: see `placed_rewards`.
    """
    n = len(scores)
    probability, choices = _set_probabilities(scores.double(), min(depth, n))
    table = _terms(grades.double().cpu(), reward, depth, gain)
    sets = torch.arange(2**n)[:, None].expand(-1, n)
    terms = table(sets, torch.arange(n).expand(2**n, -1)).to(scores.device)
    return (probability[:, None] * choices * terms).sum().to(scores.dtype)


def order_kl(scores: torch.Tensor, reference: torch.Tensor, depth: int) -> torch.Tensor:
    """Return the KL divergence of the orders' first `depth` ranks from those of reference scores.

    It is exact for at most `MAX_EXACT_DOCUMENTS` documents; for more, only the first rank counts.

    Args:
        scores, reference: scores [n] of policy and reference.
        depth: number of ranks.
    """
    n = len(scores)
    if n > MAX_EXACT_DOCUMENTS:
        now, then = scores.log_softmax(-1), reference.log_softmax(-1)
        return (now.exp() * (now - then)).sum()
    probability, choices = _set_probabilities(scores.double(), min(depth, n))
    left = _left(n).to(scores.device)
    now, then = (_among(values.double(), left) for values in (scores, reference))
    return (probability[:, None] * choices * (now - then).masked_fill(~left, 0)).sum().to(scores.dtype)


def _set_probabilities(scores: torch.Tensor, depth: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities of sets and choices.

    Returns:
        (probability [2^n] that the first documents are this set, 0 for `depth` documents and more; probability [2^n, n] of each
        document to be next).
    """
    n = len(scores)
    left = _left(n).to(scores.device)
    choices = _among(scores, left).exp().masked_fill(~left, 0)
    sizes = _sizes(n)
    chance = [torch.ones(1, dtype=scores.dtype, device=scores.device)]
    places = [torch.zeros(1, dtype=torch.long)]
    for size in range(1, depth):
        sets = (sizes == size).nonzero()[:, 0]
        members = ((sets[:, None] >> torch.arange(n)) & 1).nonzero()[:, 1].view(-1, size)  # [sets, size]
        before = sets[:, None] - 2**members  # without the document placed last
        index = torch.zeros(2**n, dtype=torch.long)
        index[places[-1]] = torch.arange(len(places[-1]))
        flows = chance[-1][index[before].to(scores.device)] * choices[before.to(scores.device), members.to(scores.device)]
        chance.append(flows.sum(-1))
        places.append(sets)
    probability = torch.zeros(2**n, dtype=scores.dtype, device=scores.device)
    return probability.index_put((torch.cat(places).to(scores.device),), torch.cat(chance)), choices


def _among(scores: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
    """Return the log softmax [2^n, n] of scores [n] among the remaining documents."""
    rows = scores.expand(len(left), -1).masked_fill(~left, -torch.inf)
    return torch.where(left, rows - torch.where(left, rows, -1e30).logsumexp(-1, keepdim=True), 0.0)


@lru_cache(maxsize=16)
def _left(n: int) -> torch.Tensor:
    """Return the mask [2^n, n] of the documents that are not in each set."""
    return ((torch.arange(2**n)[:, None] >> torch.arange(n)) & 1) == 0


@lru_cache(maxsize=16)
def _sizes(n: int) -> torch.Tensor:
    return n - _left(n).sum(-1)


def _terms(grades: torch.Tensor, reward: str, depth: int, gain: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return a function from (sets at higher ranks, documents at the next rank), of equal shape, to the contribution to the reward.

    ndcg: gain / log2(1 + rank), divided by the best possible nDCG. rr: 1 / rank of the first relevant document. ap: precision at
    each relevant document, divided by their number (at most `depth`). rearank: 0.8 times the share of the possible nDCG gain over
    the input order, without the constants of REARANK (arXiv 2505.20046), which uses exponential gains. All are 0 if nothing is
    relevant.
    """
    n = len(grades)
    relevant, gains = grades > 0, gains_of(grades, gain)
    bits = 2 ** torch.arange(n)
    best = gains.sort(descending=True)[0][:depth]
    ideal = (best / torch.log2(torch.arange(len(best)) + 2.0)).sum().clamp_min(1e-12)
    shown = (gains[:depth] / torch.log2(torch.arange(len(best)) + 2.0)).sum() / ideal
    scale = 0.8 / (1 - shown) if reward == "rearank" and shown < 1 - 1e-9 else 1.0

    def among(sets: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        """Return the number of documents of `which` [n] in each set."""
        return ((sets[..., None] & bits[which]) > 0).sum(-1)

    def term(sets: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        rank = among(sets, torch.ones(n, dtype=torch.bool)) + 1
        if reward in ("ndcg", "rearank"):
            value = gains[documents] / torch.log2(rank + 1.0) / ideal * scale
        else:
            value = relevant[documents] * (among(sets, relevant) + 1.0) / rank
            count = max(1, min(int(relevant.sum()), depth))
            value = value / count if reward == "ap" else relevant[documents] * (among(sets, relevant) == 0) / rank.double()
        return value * (rank <= depth)

    return term
