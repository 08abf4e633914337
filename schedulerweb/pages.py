"""Pages for people: a first page with links, and Swagger UI from this machine alone."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

from aiohttp import web

from schedulerweb.answers import answer, json_bytes
from schedulerweb.query import read_parameters

_STATIC = Path(__file__).parent / "static"
_FILES = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "docs.js": "text/javascript",
}
_SAFE = {
    # Swagger UI sets styles on its elements; all else comes from here
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Server": "VMStack",
}
_DOCS = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>VMStack API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/docs.js"></script>
</body>
</html>
"""


def add_docs(app: web.Application) -> None:
    """``/docs`` and what that page loads."""
    app.router.add_get("/docs", docs)
    app.router.add_get("/docs/{file}", docs_file)


async def docs(request: web.Request) -> web.Response:
    read_parameters(request)
    return _page(_DOCS)


async def docs_file(request: web.Request) -> web.Response:
    read_parameters(request)
    name = request.match_info["file"]
    if name not in _FILES:
        raise web.HTTPNotFound
    return web.Response(body=_content(name), content_type=_FILES[name], headers=_SAFE)


@cache
def _content(name: str) -> bytes:
    return (_STATIC / name).read_bytes()


def first_page(request: web.Request, title: str, links: dict[str, str]) -> web.Response:
    """What this is and where to go on, as JSON, or HTML for who prefers that."""
    if "text/html" not in request.headers.get("Accept", ""):
        return answer(json_bytes({"service": title, "routes": links}))
    items = "\n".join(
        f'<li><a href="{escape(path)}">{escape(path)}</a> {escape(text)}</li>'
        if "?" not in path and "{" not in path
        else f"<li>{escape(path)} {escape(text)}</li>"
        for path, text in links.items()
    )
    return _page(
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n<ul>\n{items}\n</ul>\n</body>\n</html>\n"
    )


def _page(text: str) -> web.Response:
    return web.Response(text=text, content_type="text/html", headers=_SAFE)
