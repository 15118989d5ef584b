"""Exports and engines of others (llama.cpp, onnxruntime, Ray, search engines) against the real packages, by `make test-exports`.

They are collected only where PRORANK_EXPORTS is set; there, a package that is missing fails them.
"""

import os

collect_ignore_glob = [] if os.environ.get("PRORANK_EXPORTS") else ["test_*.py"]
