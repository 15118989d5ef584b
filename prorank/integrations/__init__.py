"""Rerankers for other frameworks and search engines, one module each.

Import the module you need. This package imports none of them, so the other frameworks need not be installed.
"""
