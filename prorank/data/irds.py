"""Read collections of the ir_datasets catalogue: `ir_datasets:NAME` in place of a BEIR folder.

The name contains the split (beir/scifact/train, msmarco-passage/trec-dl-2019/judged). ir_datasets downloads the files once into
its own folder (IR_DATASETS_HOME).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError, extra, nearest
from .beir import Collection
from .trec import Qrels, drop_pairs, read_exclude, read_qrels

PREFIX = "ir_datasets:"


def is_irds(source: str | Path) -> bool:
    """Whether a source is a name of the catalogue."""
    return str(source).startswith(PREFIX)


def read_irds(
    source: str | Path, qrels: str | Path | None = None, exclude: str | Path | None = None, documents: Iterable[str] | None = None
) -> Collection:
    """Read documents, queries and labels of a dataset.

    Args:
        source: `ir_datasets:NAME`.
        qrels: label file to use instead of the dataset's labels, in TREC or BEIR format.
        exclude: file of (query id, document id) pairs to leave out.
        documents: ids of documents to read in addition to the labelled ones; None for the whole corpus.

    Raises:
        DataError: the name is unknown, the dataset lacks documents, queries or labels, or the download failed.
        MissingExtra: ir_datasets is not installed.
    """
    name = str(source).removeprefix(PREFIX)
    dataset = _load(name, ("docs", "queries") if qrels else ("docs", "queries", "qrels"))
    excluded = read_exclude(exclude) if exclude else frozenset()
    with _with_data_errors(name):
        labels = drop_pairs(read_qrels(qrels) if qrels else _labels(dataset), excluded)
        queries = {query.query_id: _text(query) for query in dataset.queries_iter() if query.query_id in labels}
        corpus = {document.doc_id: _text(document) for document in _documents(dataset, labels, documents)}
    if not queries:
        raise DataError(f"{source}: none of its {len(labels)} labelled queries has a text")
    return Collection(name.replace("/", "-"), corpus, queries, labels, Path(qrels) if qrels else None, excluded)


def read_irds_texts(source: str | Path, queries: Iterable[str], documents: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Read the texts with these ids from a dataset, which needs no labels. Raises the errors of `read_irds`.

    Returns:
        (documents, queries), each text by id.
    """
    name, wanted = str(source).removeprefix(PREFIX), set(queries)
    dataset = _load(name, ("docs", "queries"))
    with _with_data_errors(name):
        known = {query.query_id: _text(query) for query in dataset.queries_iter() if query.query_id in wanted}
        return {document.doc_id: _text(document) for document in _documents(dataset, {}, documents)}, known


def _load(name: str, parts: tuple[str, ...]) -> Any:
    """Load a dataset that has these parts."""
    with extra("ir-datasets"):
        import ir_datasets
    try:
        dataset = ir_datasets.load(name)
    except KeyError:
        close = nearest(name, ir_datasets.registry)
        raise DataError(f"{PREFIX}{name}: no such dataset in ir_datasets{close if close.startswith('; did') else ''}") from None
    lacking = [part for part in parts if not getattr(dataset, f"has_{part}")()]
    if lacking:
        below = [other for other in ir_datasets.registry if other.startswith(f"{name}/")]
        remedy = f"; one of its parts may have them, such as {below[0]}" if below else ""
        raise DataError(f"{PREFIX}{name}: has no {lacking[0]}{remedy}")
    return dataset


@contextmanager
def _with_data_errors(name: str) -> Iterator[None]:
    """Convert any error of the catalogue (network, disk, licence terms to accept) to a one-line DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        message = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "ir_datasets downloads it at the first use, so check the network, and whether it has terms to accept"
        raise DataError(f"{PREFIX}{name}: cannot be read ({message}); {remedy}") from error


def _labels(dataset: Any) -> Qrels:
    """Label by query and document; the highest if a pair has several (one per aspect of a topic)."""
    labels: Qrels = {}
    for row in dataset.qrels_iter():
        known = labels.setdefault(row.query_id, {})
        known[row.doc_id] = max(int(row.relevance), known.get(row.doc_id, int(row.relevance)))
    return labels


def _documents(dataset: Any, labels: Qrels, wanted: Iterable[str] | None) -> Iterator[Any]:
    """All documents, or only the labelled and wanted ones, looked up by id."""
    if wanted is None:
        return dataset.docs_iter()
    ids = sorted({doc for row in labels.values() for doc in row} | set(wanted))
    return iter(dataset.docs_store().get_many(ids).values())


def _text(row: Any) -> str:
    """Text of a document or query by the catalogue's rule; for BEIR it is title, space, text."""
    return row.default_text().strip()
