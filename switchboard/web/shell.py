"""The page's own files, read once at the start: small, the same for everybody, and nothing in them is generated."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from switchboard.domain.errors import NotFound
from switchboard.web.guard import Guarded

PANEL = Path(__file__).parent / "panel"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".txt": "text/plain; charset=utf-8",
}
PAGES = ("/", "/sign-in", "/approvals", "/stops", "/machines", "/account", "/r/{id}", "/a/{id}", "/s/{id}")

router = APIRouter(route_class=Guarded, include_in_schema=False)


class Files:
    """What may be served, by its path: a request picks from these and opens nothing."""

    def __init__(self, root: Path = PANEL) -> None:
        self._files = {
            path.relative_to(root).as_posix(): (path.read_bytes(), KINDS[path.suffix])
            for path in root.rglob("*")
            if path.suffix in KINDS
        }
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:32]}"' for name, (data, _) in self._files.items()}

    def answer(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            raise NotFound(f"the page has no file {name[:100]!r}")
        tag = self._tags[name]
        headers = {"etag": tag, "cache-control": "no-cache"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found[0], media_type=found[1], headers=headers)

    def whole(self, name: str, status: int) -> Response:
        data, kind = self._files[name]
        return Response(data, status, media_type=kind, headers={"cache-control": "no-cache"})


async def page(request: Request) -> Response:
    files: Files = request.app.state.files
    return files.answer(request, "index.html")


def is_for_a_page(request: Request) -> bool:
    """Tell whether a browser asks for this address, to show what is there."""
    browses = "text/html" in request.headers.get("accept", "")
    return browses and request.method == "GET" and not request.url.path.startswith("/api/")


def no_such_page(request: Request) -> Response:
    """Return the page, which says itself that it knows no such address."""
    files: Files = request.app.state.files
    return files.whole("index.html", 404)


for _path in PAGES:
    router.add_api_route(_path, page, methods=["GET"])


@router.get("/panel/{path:path}")
async def asset(request: Request, path: str) -> Response:
    files: Files = request.app.state.files
    return files.answer(request, path)
