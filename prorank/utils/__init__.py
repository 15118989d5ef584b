"""Helpers that know nothing of reranking: reading and writing files, text for a terminal."""
