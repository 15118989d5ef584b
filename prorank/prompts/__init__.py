"""Prompts: settings, presets, chat templates, and encoders that turn queries and documents into token ids."""
