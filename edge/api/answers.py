# How the HTTP application answers: JSON in one line, every error by its name, CORS on all of it. It owns the headers
# that every answer carries. It must never answer in HTML, nor show a client what went wrong inside.

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from edge.errors import EdgeError

log = logging.getLogger("edge.api")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
COMMON = web.AppKey("common", Mapping[str, str])

PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
    "Access-Control-Max-Age": "86400",
}
STATUS_NAMES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
# The rest of a body that was too large or too slow is not waited for.
LAST_ANSWERS = ("too_large", "timeout")


def common_headers(origin: str) -> dict[str, str]:
    """What every answer carries. `origin` is *, one origin, or empty for none."""
    headers = {"X-Content-Type-Options": "nosniff", "Server": "edge"}
    if origin:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "Retry-After"
        if origin != "*":
            headers["Vary"] = "Origin"
    return headers


def answer(body: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body) + b"\n",
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def refusal(error: EdgeError) -> web.Response:
    response = answer(error.body(), error.status)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.name in LAST_ANSWERS:
        response.force_close()
    return response


def from_aiohttp(error: web.HTTPException) -> web.Response:
    """What aiohttp raises by itself, in our words: no route, no method, a body over the limit, Expect."""
    response = refusal(EdgeError(STATUS_NAMES.get(error.status, "bad_request")))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"] + ",OPTIONS"
    return response


@web.middleware
async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Makes an answer of whatever happens inside."""
    response: web.StreamResponse
    if request.method == "OPTIONS" and request.path.startswith("/v1/"):
        response = web.Response(status=204, headers=PREFLIGHT)
    else:
        try:
            response = await handler(request)
        except EdgeError as error:
            response = refusal(error)
        except web.HTTPException as error:
            response = from_aiohttp(error)
        except RequestPayloadError:
            response = refusal(EdgeError("bad_request", "the body is malformed"))
        except ConnectionError:  # the client has gone
            raise
        except Exception:
            log.exception("%s %s", request.method, request.path)
            response = refusal(EdgeError("internal"))
    if not response.prepared:
        response.headers.update(request.app[COMMON])
    return response
