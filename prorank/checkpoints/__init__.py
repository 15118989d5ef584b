"""Checkpoints: what a folder says of itself, its weights' check, adapters, prompts of known models, names, the loading lock."""
