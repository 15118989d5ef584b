"""Rerankers for other frameworks, one module each: LangChain, LlamaIndex, Haystack, MTEB, sentence-transformers, rerankers.

Import the module you need. This package imports none of them, so the other frameworks need not be installed.
"""
