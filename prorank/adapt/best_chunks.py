"""Training on long documents: each is replaced by the chunk that the start model ranks highest for its query.

Long documents are scored in the same way, see `Reranker(long_documents=...)`. The beginning of a relevant document may be
irrelevant, so its label would teach something wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..data.examples import Group
from ..prompts.pair_encoder import PairPromptEncoder
from ..reranker import Reranker


def best_chunks(reranker: Reranker, groups: Sequence[Group]) -> list[Group]:
    """Return the groups with every document that takes several chunks replaced by its best one.

    Args:
        reranker: the start model. If it reads no chunks, the groups are returned as they are.
        groups: labelled lists.
    """
    if not reranker.reads_chunks:
        return list(groups)
    return [_best_chunks_of(reranker, group) for group in groups]


def _best_chunks_of(reranker: Reranker, group: Group) -> Group:
    encoder = reranker.encoder
    assert isinstance(encoder, PairPromptEncoder)
    texts = list(group.documents)
    chunks = encoder.encode_chunks(group.query, texts, truncation=reranker.strategy.truncation)
    long = [(place, prompts) for place, prompts in enumerate(chunks) if len(prompts) > 1]
    if not long:
        return group
    lists = [(prompts, [texts[place]] * len(prompts)) for place, prompts in long]
    for (place, prompts), scores in zip(long, reranker.score_encoded(lists).scores):
        texts[place] = encoder.document_text(prompts[int(np.argmax(scores))])
    return replace(group, documents=tuple(texts))
