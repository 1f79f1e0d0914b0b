"""A small HTTP server for one exported student, and a page on which to pick a window and see its forecast.

Answers are JSON, NumPy or NetCDF; every page is served from here, and nothing is loaded from elsewhere. There is no
login: it listens on this machine alone unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.middleware.trustedhost import TrustedHostMiddleware

from pipeline.errors import UserError
from pipeline.serving.bodies import CONTENT, ONE_FILE, TooLargeError
from pipeline.serving.model import Model
from pipeline.serving.reader import Windows, open_windows

PAGES = {
    "/": ("index.html", "text/html"),
    "/docs": ("docs.html", "text/html"),
    "/pages/style.css": ("style.css", "text/css"),
    "/pages/index.js": ("index.js", "text/javascript"),
    "/pages/docs.js": ("docs.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST_MAP = 256  # rows or columns that the page is sent; finer grids are thinned
KEPT_FORECASTS = 8
REQUESTS_AT_ONCE = 64
PREDICT_BODY = {
    "required": True,
    "content": {
        name: {"schema": {"type": "object" if name.endswith("json") else "string", "description": read.__doc__}}
        for name, read in CONTENT.items()
    },
}
PREDICT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "Forecasts, in the body's own format"},
    413: {"description": "The body, or the forecasts it asks for, are above the limit"},
    415: {"description": "Another content type"},
    422: {"description": "A shape, grid, variable, unit or value that the model was not made for"},
}


def create_app(model: Model, windows: Windows | None, limit: int, host: str) -> FastAPI:
    """The application. `windows`: of a file to pick from. `limit`: bytes of a body and of what it asks for."""
    app = FastAPI(title="s2kd", summary=model.spec.title, version="1", docs_url=None, redoc_url=None)
    if host in LOOPBACK:  # a name that resolves to this machine is not enough: other people's pages could use one
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    _add_errors(app)
    _add_pages(app)
    _add_model(app, model, windows is not None, limit)
    _add_windows(app, model, windows)
    return app


def serve(folder: Path, data: str | None, raw: bool, precision: str, host: str, port: int, megabytes: float) -> None:
    """Runs until it is interrupted; raises UserError if the model, the data or the address cannot be used."""
    import uvicorn

    if megabytes <= 0:
        raise UserError(f"--max-megabytes is {megabytes:g}; more than 0 is expected")
    model = Model(folder, precision)
    windows = open_windows(data, model.spec, raw) if data else None
    app = create_app(model, windows, int(megabytes * 1e6), host)
    listening = _bound(host, port)
    with listening:
        name = f"[{host}]" if ":" in host else host
        print(f"{model.spec.title}: http://{name}:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=REQUESTS_AT_ONCE, server_header=False)
        uvicorn.Server(config).run(sockets=[listening])


def _bound(host: str, port: int) -> Any:
    import socket

    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UserError(f"{host}:{port} cannot be listened on: {error}; choose --host and --port") from None


def _add_errors(app: FastAPI) -> None:
    """Each answer carries the headers; a user's mistake is a sentence, and nobody is shown a traceback."""

    @app.middleware("http")
    async def headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 413 if isinstance(error, TooLargeError) else 422)

    @app.exception_handler(500)
    async def failed(request: Request, error: object) -> JSONResponse:
        return JSONResponse({"detail": "the server failed; its log says why"}, 500, HEADERS)


def _add_pages(app: FastAPI) -> None:
    def add(path: str, name: str, kind: str) -> None:
        content = resources.files("pipeline.serving").joinpath("pages", name).read_bytes()
        app.add_api_route(path, lambda: Response(content, media_type=kind), include_in_schema=False)

    for path, (name, kind) in PAGES.items():
        add(path, name, kind)


def _add_model(app: FastAPI, model: Model, has_data: bool, limit: int) -> None:
    @app.get("/health")
    def health() -> dict[str, str]:
        """Whether the server is up."""
        return {"status": "ok"}

    @app.get("/metadata")
    def metadata() -> dict[str, Any]:
        """What the model was made for: variables, units, grid, frames, step; and the server's limits."""
        of_server = {"precision": model.precision, "max_bytes": limit, "data": has_data}
        return model.spec.model_dump(mode="json") | of_server

    @app.post("/predict", openapi_extra={"requestBody": PREDICT_BODY}, responses=PREDICT_RESPONSES)
    async def predict(request: Request) -> Response:
        """Forecasts from fields in physical units, as /metadata describes them; JSON, NumPy or NetCDF."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in CONTENT:
            raise HTTPException(415, f"content type '{kind}' is not read; known: {', '.join(CONTENT)}")
        body = await _body(request, limit)
        return Response(await run_in_threadpool(CONTENT[kind], model, body, limit), media_type=kind)


async def _body(request: Request, limit: int) -> bytes:
    """The whole body; no more than `limit` bytes of it are ever held."""
    refusal = TooLargeError(f"the body is larger than {limit / 1e6:g} MB")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise refusal
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise refusal
    return bytes(body)


def _add_windows(app: FastAPI, model: Model, windows: Windows | None) -> None:
    names = [each.name for each in model.spec.variables]

    @lru_cache(maxsize=KEPT_FORECASTS)
    def shown(number: int) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32] | None]:
        """The last input frame (C, H, W), the forecast (t_out, C, H, W), and what came to be."""
        with ONE_FILE:
            inputs, truth = opened().inputs(number, number + 1), opened().truth(number)
        return inputs[0, -1], model.forecast(inputs)[0], truth

    def opened() -> Windows:
        if windows is None:
            raise HTTPException(404, "the server was started without --data")
        return windows

    @app.get("/windows")
    def window_list() -> dict[str, list[str]]:
        """The initial times that the server's file holds; their positions number the windows."""
        return {"init_times": [str(time) for time in opened().init_times]}

    @app.get("/windows/{number}")
    def window(number: int, variable: str, lead: int = Query(ge=0, lt=model.spec.t_out)) -> dict[str, Any]:
        """Maps of one variable at one lead time (from 0): last input frame, forecast, truth where it is known."""
        if not 0 <= number < len(opened()):
            raise HTTPException(404, f"there is no window {number}; there are 0 to {len(opened()) - 1}")
        if variable not in names:
            raise HTTPException(404, f"there is no variable '{variable}'; there are {', '.join(names)}")
        index = names.index(variable)
        last, forecast, truth = shown(number)
        maps = {"last input": last[index], "forecast": forecast[lead, index]}
        maps["truth"] = None if truth is None else truth[lead, index]
        error = None if truth is None else float(np.sqrt(np.square(forecast[lead, index] - truth[lead, index]).mean()))
        rounded = None if error is None or not np.isfinite(error) else float(f"{error:.4g}")
        return {"maps": {title: _rows(values) for title, values in maps.items()}, "rmse": rounded}


def _rows(values: NDArray[np.float32] | None) -> list[list[float]] | None:
    """A map for the page: thinned, and rounded to what colours show. None where a value is missing."""
    if values is None or not np.isfinite(values).all():
        return None
    step = -(-max(values.shape) // LARGEST_MAP)
    return [[float(f"{value:.5g}") for value in row] for row in values[::step, ::step].tolist()]
