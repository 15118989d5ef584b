"""Documents whose keys and values are computed once, so that ranking them computes the tokens of the query only.

In reading order:

- `index_settings`: what an index depends on, and whether a Reranker can make one.
- `segments`: stored documents, in memory or in a memory-mapped file.
- `segment_builder`: from documents to segments.
- `index_scores`: scores of stored documents for a query.
- `index_folder`: an index on disk.
- `document_table`: the documents, found by id or text.
- `document_index`: `Index`, which joins them.
- `document_cache`: documents that a server keeps in memory when they first come.
"""
