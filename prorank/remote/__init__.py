"""Ranking by a rerank server instead of a local model."""
