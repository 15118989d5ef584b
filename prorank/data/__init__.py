"""Training and evaluation data: examples, file formats, BM25 and hard negatives.

This package knows no tokenizers or models; texts are returned as they were read.
"""
