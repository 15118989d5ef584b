"""Training and evaluation data: examples, file formats, BM25 and hard negatives.

This package is independent of tokenizers and models. Texts are returned unchanged.
"""
