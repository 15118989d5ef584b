"""Read documents once: tokenise them, compute their keys and values, and store these in segments."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..engine.key_value_models import KeyValueModel, bytes_per_token
from ..engine.key_values import KeyValues, quantise_key_values
from ..engine.packing import pack, packs_of
from ..prompts.encoded import Encoded
from ..rank.base_reranker import BaseReranker
from ..rank.documents import Document
from ..utils.memory import trim
from .index_settings import IndexSettings, frame_of, indexing_strategy, key_value_model
from .segments import Segment

SEGMENT_BYTES = 256 << 20
PASS_BYTES = 128 << 20  # keys and values of one forward pass
TOKENISED_DOCUMENTS = 64  # documents that are tokenised together


@dataclass(frozen=True)
class _Tokenised:
    """A document and its chunks: prompts that end with the document."""

    document: Document
    chunks: list[Encoded]
    cut: int

    @property
    def tokens(self) -> int:
        return sum(chunk.document_end - chunk.document_start for chunk in self.chunks)


def head_key_values(reranker: BaseReranker, settings: IndexSettings) -> KeyValues:
    """Return keys and values of the tokens before every document."""
    model, ids = key_value_model(reranker), frame_of(indexing_strategy(reranker), settings.instruction).head
    if not ids:
        return KeyValues(torch.empty(model.shape.of_tokens(0), dtype=model.dtype))
    with reranker.exclusive(), torch.inference_mode():
        return KeyValues(model.compute(pack([Encoded(ids, len(ids), len(ids))], [0], share=False)).cpu())


def build_segments(
    reranker: BaseReranker, settings: IndexSettings, documents: Sequence[Document], texts: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> Generator[Segment, None, None]:  # fmt: skip
    """Yield documents with their keys and values, in order.

    Args:
        reranker: a Reranker that can make an index.
        settings: how documents are stored.
        documents: the documents.
        texts: the text of each document.
        progress: called with the number of documents that were read since its last call.
    """
    model = key_value_model(reranker)
    dtype = settings.dtype(model)
    room = SEGMENT_BYTES // bytes_per_token(model, dtype)
    waiting: list[_Tokenised] = []
    tokens = 0
    with reranker.computing([list(texts)]):
        for start in range(0, len(texts), TOKENISED_DOCUMENTS):
            part = slice(start, start + TOKENISED_DOCUMENTS)
            for document in _tokenise(reranker, settings, documents[part], texts[part]):
                if waiting and tokens + document.tokens > room:
                    yield _segment(model, dtype, waiting, progress)
                    waiting, tokens = [], 0
                waiting.append(document)
                tokens += document.tokens
        if waiting:
            yield _segment(model, dtype, waiting, progress)


def _tokenise(
    reranker: BaseReranker, settings: IndexSettings, documents: Sequence[Document], texts: Sequence[str]
) -> Iterator[_Tokenised]:
    """Yield each document with its chunks, which leave room for the query."""
    strategy = indexing_strategy(reranker)
    truncation = settings.truncation(strategy)
    encoded = strategy.encoder.encode_chunks("", list(texts), settings.instruction, truncation)
    for document, prompts in zip(documents, encoded):
        chunks = [Encoded(prompt.ids[: prompt.document_end], prompt.document_start, prompt.document_end) for prompt in prompts]
        yield _Tokenised(document, chunks, prompts[0].document_cut)


def _segment(
    model: KeyValueModel, dtype: torch.dtype, documents: Sequence[_Tokenised], progress: Callable[[int], None] | None
) -> Segment:
    """Compute the keys and values of documents, pack by pack."""
    shape = model.shape
    chunks = [chunk for document in documents for chunk in document.chunks]
    lengths = [chunk.document_end - chunk.document_start for chunk in chunks]
    segment = Segment(
        shape,
        [document.document for document in documents],
        torch.tensor([document.cut for document in documents], dtype=torch.int32),
        torch.tensor([len(document.chunks) for document in documents], dtype=torch.int32),
        torch.tensor(lengths, dtype=torch.int32),
        torch.tensor([i for chunk in chunks for i in chunk.ids[chunk.document_start :]], dtype=torch.int32),
        torch.empty(sum(lengths) * shape.per_token, dtype=dtype),
        torch.zeros(len(chunks), *shape.of_tokens(1), dtype=model.dtype) if dtype == torch.int8 else None,
    )
    remaining = [len(document.chunks) for document in documents]
    owners = [number for number, document in enumerate(documents) for _ in document.chunks]
    for computed in compute_chunks(model, chunks):
        for chunk, values in computed.items():
            _store(segment, chunk, values)
            remaining[owners[chunk]] -= 1
        if progress:
            progress(sum(remaining[owner] == 0 for owner in {owners[chunk] for chunk in computed}))
    if progress:
        progress(sum(not any(map(lengths.__getitem__, segment.chunks(i))) for i in range(len(documents))))  # without tokens
    trim()
    return segment


def compute_chunks(model: KeyValueModel, chunks: Sequence[Encoded]) -> Iterator[dict[int, torch.Tensor]]:
    """Compute keys and values, pack by pack.

    Args:
        model: computes them.
        chunks: prompts that end with the document. All have the same tokens before it.

    Yields:
        Keys and values [layers, 2, num_kv_heads, T, head_dim] of the documents of a pack, by number of the chunk; none of documents
        without tokens.
    """
    max_tokens = min(model.pass_tokens, max(1, PASS_BYTES // bytes_per_token(model, model.dtype)))
    filled = [i for i, chunk in enumerate(chunks) if chunk.document_end > chunk.document_start]
    for one in packs_of([chunks[i] for i in filled], filled, max_tokens, len(chunks)):
        with torch.inference_mode():
            computed = model.compute(one)
        begins = [one.prefix_length, *one.ends[:-1]]
        yield {chunk: computed[:, :, :, begin:end] for chunk, begin, end in zip(one.owners, begins, one.ends)}


def _store(segment: Segment, chunk: int, values: torch.Tensor) -> None:
    """Write the keys and values of a chunk into the segment."""
    stored = segment.key_values(chunk)
    rounded = KeyValues(values) if stored.scales is None else quantise_key_values(values)
    stored.values.copy_(rounded.values)
    if stored.scales is not None and rounded.scales is not None:
        stored.scales.copy_(rounded.scales)
