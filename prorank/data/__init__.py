"""Training and evaluation data: examples, file formats, BM25, hard negatives, the demo's task.

Nothing in here knows a tokenizer or a model; texts go out as they came in.
"""
