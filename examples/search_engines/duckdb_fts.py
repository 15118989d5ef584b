"""DuckDB's full-text search finds candidates, ProRank puts them in order.

    pip install duckdb duckdb-extension-fts
    python examples/search_engines/duckdb_fts.py "delete a folder and everything inside it"

The extension comes from the wheel duckdb-extension-fts here. With access to DuckDB's server, `INSTALL fts; LOAD fts` does the same.
"""

import sys
from pathlib import Path

import duckdb
import duckdb_extension_fts
import standard_library

from prorank import Reranker


def build(documents: list[dict]) -> duckdb.DuckDBPyConnection:
    """Index documents in memory, with Porter's stemmer and English stop words, which are the defaults."""
    connection = duckdb.connect()
    extension = next(Path(duckdb_extension_fts.__file__).parent.rglob("fts.duckdb_extension"))
    connection.execute(f"LOAD '{extension}'")
    connection.execute("CREATE TABLE documents (id VARCHAR, title VARCHAR, text VARCHAR)")
    connection.executemany("INSERT INTO documents VALUES ($id, $title, $text)", documents)
    connection.execute("PRAGMA create_fts_index('documents', 'id', 'title', 'text')")
    return connection


def search(connection: duckdb.DuckDBPyConnection, query: str, limit: int = 20) -> list[dict]:
    """Return the best documents by BM25 that contain any word of the query."""
    rows = connection.execute(
        "SELECT id, title, text FROM (SELECT *, fts_main_documents.match_bm25(id, $query) AS score FROM documents) "
        "WHERE score IS NOT NULL ORDER BY score DESC, id LIMIT $limit",
        {"query": query, "limit": limit},
    )
    return [dict(zip(("id", "title", "text"), row)) for row in rows.fetchall()]


def main(query: str, reranker: Reranker) -> None:
    connection = build(standard_library.documents())
    candidates = search(connection, query)
    hits = reranker.rank(query, candidates)  # reads "title" and "text"; hit.document is the whole row
    standard_library.show(query, candidates, [(hit.score, hit.document) for hit in hits])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "delete a folder and everything inside it", Reranker())
