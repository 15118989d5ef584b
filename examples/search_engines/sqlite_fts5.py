"""SQLite's full-text search (FTS5) finds candidates, ProRank puts them in order.

    python examples/search_engines/sqlite_fts5.py "delete a folder and everything inside it"

SQLite is part of Python's standard library.
"""

import re
import sqlite3
import sys

import standard_library

from prorank import Reranker


def build(documents: list[dict]) -> sqlite3.Connection:
    """Index documents in memory. The tokenizer "porter" compares words by their stems."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE VIRTUAL TABLE documents USING fts5(id UNINDEXED, title, text, tokenize = 'porter unicode61')")
    connection.executemany("INSERT INTO documents VALUES (:id, :title, :text)", documents)
    return connection


def search(connection: sqlite3.Connection, query: str, limit: int = 20) -> list[dict]:
    """Return the best documents by BM25 that contain any word of the query.

    Words are quoted, since FTS5 reads AND, OR, NOT, NEAR and punctuation as operators.
    """
    words = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", query))
    sql = "SELECT id, title, text FROM documents WHERE documents MATCH ? ORDER BY bm25(documents) LIMIT ?"
    return [dict(row) for row in connection.execute(sql, (words, limit))] if words else []


def main(query: str, reranker: Reranker) -> None:
    connection = build(standard_library.documents())
    candidates = search(connection, query)
    hits = reranker.rank(query, candidates)  # reads "title" and "text"; hit.document is the whole row
    standard_library.show(query, candidates, [(hit.score, hit.document) for hit in hits])


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "delete a folder and everything inside it", Reranker())
