"""`prorank serve`: one HTTP server for the rerank dialects of TEI, Jina, Cohere and vLLM.

The optional packages of the extra `serve` are checked here, once. All modules below can import them without a guard.
"""

from ..errors import extra

with extra("serve"):
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
