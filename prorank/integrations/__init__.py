"""Rerankers for the frameworks, one file each: LangChain, LlamaIndex, Haystack, MTEB, sentence-transformers, rerankers.

Nothing here is imported before it is asked for, so a framework that is not installed is not missed.
"""
