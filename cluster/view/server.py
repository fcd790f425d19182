"""The server of `bonfire view`: reads, never writes; answers for one library of runs.

What a model wrote is hostile. Pages are escaped by their templates, and a Content-Security-Policy forbids every script,
style and request but the server's own files. On this machine alone no token is asked for, but the name in the address
must be this machine's, so that no page elsewhere can point its own name here. Bound elsewhere a token is needed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.view import evaluation_pages, pages
from cluster.view.charts import curves_of, payload
from cluster.view.evaluations import Evaluation, held_out_curves
from cluster.view.group_facts import Unreadable
from cluster.view.library import EVALUATION, Library, Run
from cluster.view.templating import STATIC

COOKIE = "bonfire_view"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
MAX_RUNS = 8


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Adds the headers, lets in who may: by token where there is one, else by the name in the address."""

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        assert token != ""
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *(
                        pair
                        for pair in message["headers"]
                        if pair[0].decode("latin-1").lower() not in HEADERS
                    ),
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        refusal = self._refuse(Request(scope))
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refuse(self, request: Request) -> Response | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("these pages are for reading", status_code=405)
        if self._token is None:
            if re.sub(r":\d+$", "", request.headers.get("host", "")).lower() not in OWN_NAMES:
                return PlainTextResponse("ask for it as 127.0.0.1 or localhost", status_code=421)
            return None
        given = request.query_params.get("token")
        if given is not None and secrets.compare_digest(given.encode(), self._token.encode()):
            answer = RedirectResponse("/" + request.url.path.lstrip("/\\"), status_code=303)
            answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict", path="/")
            return answer
        known = request.cookies.get(COOKIE, "")
        if secrets.compare_digest(known.encode(), self._token.encode()):
            return None
        return PlainTextResponse(
            "a token is needed: open the address that `bonfire view` printed, with ?token=", status_code=401
        )


def make_app(library: Library, token: str | None = None) -> ASGIApp:
    """The whole server as an ASGI application. With a `token` nobody gets in without it."""
    handler = _Handler(library)
    routes = [
        Route("/", handler.page(handler.overview)),
        Route("/run/{run}", handler.page(handler.of_run(pages.run_page))),
        Route("/run/{run}/groups", handler.page(handler.of_run_and_query(pages.groups_page))),
        Route("/run/{run}/group/{step:int}/{row:int}", handler.page(handler.group)),
        Route("/run/{run}/group/{step:int}/{row:int}/tokens", handler.page(handler.tokens)),
        Route("/run/{run}/problems", handler.page(handler.of_run_and_query(pages.problems_page))),
        Route("/run/{run}/problem", handler.page(handler.problem)),
        Route("/run/{run}/held-out", handler.page(handler.held_out)),
        Route("/run/{run}/verifier", handler.page(handler.of_run(pages.verifier_page))),
        Route("/evaluation/{evaluation}", handler.page(handler.evaluation)),
        Route("/evaluation/{evaluation}/problem/{index:int}", handler.page(handler.answers)),
        Route("/evaluation/{evaluation}/picture/{name}", handler.picture),
        Route("/api/curves", handler.curves),
        Route("/api/state", handler.state),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    faults: dict[Any, Any] = {HTTPException: _http_fault, Exception: _fault}
    app = Starlette(routes=routes, exception_handlers=faults)
    return Guard(GZipMiddleware(app, minimum_size=2000, compresslevel=3), token=token)


class _Handler:
    def __init__(self, library: Library) -> None:
        self._library = library

    def page(self, make: Callable[[Request], str]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that makes the page in a thread, so that a slow disk holds up nobody else."""

        async def endpoint(request: Request) -> Response:
            try:
                return HTMLResponse(await asyncio.to_thread(self._make, make, request))
            except LookupError as error:
                return HTMLResponse(pages.fault_page(404, _text(error)), status_code=404)
            except (Unreadable, OSError) as error:
                return HTMLResponse(pages.fault_page(500, _text(error)), status_code=500)
            except ValueError as error:
                return HTMLResponse(pages.fault_page(400, _text(error)), status_code=400)

        return endpoint

    def _make(self, make: Callable[[Request], str], request: Request) -> str:
        self._library.refresh()
        return make(request)

    def of_run(self, make: Callable[[Run], str]) -> Callable[[Request], str]:
        return lambda request: make(self._run(request))

    def of_run_and_query(self, make: Callable[..., str]) -> Callable[[Request], str]:
        return lambda request: make(self._run(request), request.query_params)

    def overview(self, request: Request) -> str:
        return pages.overview(self._library, request.query_params.getlist("run")[:MAX_RUNS])

    def group(self, request: Request) -> str:
        place = request.path_params
        return pages.group_page(self._run(request), place["step"], place["row"], request.query_params)

    def tokens(self, request: Request) -> str:
        place = request.path_params
        sample = request.query_params.get("sample", "0")
        if not sample.isascii() or not sample.isdecimal() or len(sample) > 9:
            raise ValueError(f"sample = {sample!r} is no number: count from 0")
        return pages.tokens_part(self._run(request), place["step"], place["row"], int(sample))

    def problem(self, request: Request) -> str:
        return pages.problem_page(self._run(request), request.query_params.get("id", ""))

    def held_out(self, request: Request) -> str:
        return pages.held_out_page(self._run(request), request.query_params.get("id", ""))

    def evaluation(self, request: Request) -> str:
        evaluation, run = self._evaluation(request)
        return evaluation_pages.evaluation_page(evaluation, request.query_params, run)

    def answers(self, request: Request) -> str:
        evaluation, run = self._evaluation(request)
        return evaluation_pages.answers_page(
            evaluation, request.path_params["index"], request.query_params, run
        )

    async def picture(self, request: Request) -> Response:
        name = request.path_params["name"]
        found = self._library.evaluations.get(request.path_params["evaluation"])
        if found is None or name not in found.pictures:
            return PlainTextResponse("no such picture", status_code=404)
        return FileResponse(found.directory / name)

    async def curves(self, request: Request) -> Response:
        name = request.query_params.get("evaluation")
        if name is not None:
            evaluation = self._library.evaluations.get(name)
            report = evaluation.report if evaluation is not None else None
            if evaluation is None or report is None:
                return JSONResponse({"error": "no such evaluation"}, status_code=404)
            about = {"name": name, "x": [], "held_out": held_out_curves(report), "events": []}
            return JSONResponse(payload([about]))
        runs = self._chosen(request)
        try:
            first, last = (_step(request.query_params.get(end)) for end in ("from", "to"))
        except ValueError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(payload([await asyncio.to_thread(curves_of, run, first, last) for run in runs]))

    async def state(self, request: Request) -> Response:
        await asyncio.to_thread(self._library.refresh)
        found = {run.name: await asyncio.to_thread(pages.live_state, run) for run in self._chosen(request)}
        return JSONResponse({"runs": found, "names": [*self._library.runs, *self._library.evaluations]})

    def _chosen(self, request: Request) -> list[Run]:
        names = dict.fromkeys(request.query_params.getlist("run"))
        return [self._library.runs[name] for name in names if name in self._library.runs][:MAX_RUNS]

    def _run(self, request: Request) -> Run:
        name = request.path_params["run"]
        if name not in self._library.runs:
            raise LookupError(f"there is no run {name!r} here")
        return self._library.runs[name]

    def _evaluation(self, request: Request) -> tuple[Evaluation, Run | None]:
        name = request.path_params["evaluation"]
        if name not in self._library.evaluations:
            raise LookupError(f"there is no evaluation {name!r} here")
        return self._library.evaluations[name], self._library.runs.get(name.removesuffix(f".{EVALUATION}"))


async def _http_fault(request: Request, error: HTTPException) -> Response:
    return HTMLResponse(pages.fault_page(error.status_code, str(error.detail)), status_code=error.status_code)


async def _fault(request: Request, error: Exception) -> Response:
    return HTMLResponse(pages.fault_page(500, f"{type(error).__name__}: {error}"), status_code=500)


def _text(error: Exception) -> str:
    return str(error.args[0]) if error.args else repr(error)


def _step(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.removeprefix("-").isdecimal() or len(text) > 12:
        raise ValueError(f"{text!r} is no step")
    return int(text)
