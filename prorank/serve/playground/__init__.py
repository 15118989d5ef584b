"""The playground at `/`: a page that ranks documents for a query through the server's own `/v1/rerank`.

It consists of three static files, without a build step and without other hosts. Its Content-Security-Policy forbids inline scripts,
so displayed text can never run as a script.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}  # fmt: skip
FILES = {
    "/": ("playground.html", "text/html"),
    "/playground.css": ("playground.css", "text/css"),
    "/playground.js": ("playground.js", "text/javascript"),
}


def add_playground_routes(app: FastAPI) -> None:
    """Add the routes of the page. They need no key: the page is static, and asks the user for a key if required."""
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _page(name, kind), include_in_schema=False)


def _page(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = files(__package__).joinpath(name).read_bytes()

    async def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers=HEADERS)

    return page
