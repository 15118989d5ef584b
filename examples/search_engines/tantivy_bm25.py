"""Tantivy finds candidates, ProRank puts them in order.

    pip install tantivy
    python examples/search_engines/tantivy_bm25.py "delete a folder and everything inside it"
"""

import sys

import standard_library
import tantivy

from prorank import Reranker

FIELDS = ("title", "text")


def build(documents: list[dict]) -> tantivy.Index:
    """Index documents in memory. The tokenizer "en_stem" compares English words by their stems."""
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("id", stored=True, tokenizer_name="raw")
    for field in FIELDS:
        schema.add_text_field(field, stored=True, tokenizer_name="en_stem")
    index = tantivy.Index(schema.build())
    writer = index.writer()
    for document in documents:
        writer.add_document(tantivy.Document(**document))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return index


def search(index: tantivy.Index, query: str, limit: int = 20) -> list[dict]:
    """Return the best documents by BM25 that contain any word of the query. Lenient: punctuation is no syntax error."""
    parsed, _ = index.parse_query_lenient(query, list(FIELDS))
    searcher = index.searcher()
    found = [searcher.doc(address) for _, address in searcher.search(parsed, limit).hits]
    return [{field: document.get_first(field) for field in ("id", *FIELDS)} for document in found]


def main(query: str, reranker: Reranker) -> None:
    index = build(standard_library.documents())
    candidates = search(index, query)
    hits = reranker.rank(query, candidates)  # reads "title" and "text"; hit.document is the whole row
    standard_library.show(query, candidates, [(hit.score, hit.document) for hit in hits])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "delete a folder and everything inside it", Reranker())
