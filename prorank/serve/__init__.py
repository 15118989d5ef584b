"""`prorank serve`: one HTTP server that speaks the rerank dialects of TEI, Jina, Cohere and vLLM.

What the extra `serve` brings is looked for here, once, so everything below may take it for granted.
"""

from ..errors import extra

with extra("serve"):
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
