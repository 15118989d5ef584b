"""Checkpoints: resolve names, load and save folders, check weights, apply adapters, and write model cards."""
