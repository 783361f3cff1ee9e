# The aiohttp server underneath the application, with timeouts and bounds that suit a public port. It listens nowhere:
# connections come from the engine, by loop.connect_accepted_socket(runner.server, sock).
# It must never answer in plain text or HTML, also where a request does not even parse.

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from edge.api.answers import COMMON, from_aiohttp, refusal
from edge.errors import EdgeError

log = logging.getLogger("edge.api")

KEEPALIVE_S = 75.0  # longer than the 60 s after which common balancers drop an idle connection themselves
LINGERING_S = 5.0  # for the rest of a body whose answer is out already


class Handler(RequestHandler):
    """One connection: aiohttp's own, but for the words of its errors."""

    __slots__ = ("_headers", "peer")

    def __init__(self, manager: web.Server, headers: Mapping[str, str], **options: Any) -> None:
        super().__init__(manager, **options)
        self._headers = headers
        self.peer = b""
        """What the engine counts the connection by; it wants to know that again, should the connection come back."""

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has been begun already")
        if status < 500:  # what strangers send to a public port is not worth a line of log each
            log.debug("a malformed request from %s: %s", request.remote, message)
        else:
            log.error("a request from %s", request.remote, exc_info=exc)
        response = refusal(EdgeError("bad_request" if status < 500 else "internal"))
        response.headers.update(self._headers)
        response.force_close()
        return response

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if isinstance(resp, web.HTTPException):  # raised outside of the middlewares: an Expect that nobody can meet
            resp = from_aiohttp(resp)
            resp.headers.update(self._headers)
        return await super().finish_response(request, resp, start_time)


class Server(web.Server):
    def __init__(self, like: web.Server, headers: Mapping[str, str]) -> None:
        super().__init__(like.request_handler, request_factory=like.request_factory, loop=like._loop, **like._kwargs)
        self._headers = headers

    def __call__(self) -> RequestHandler:
        return Handler(self, self._headers, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    __slots__ = ()

    async def _make_server(self) -> web.Server:
        return Server(await super()._make_server(), self.app[COMMON])


def runner(app: web.Application, keepalive_s: float = KEEPALIVE_S) -> web.AppRunner:
    """To be set up by the worker. A head may take as long as a kept connection may idle; the engine has seen the first
    one of each connection whole."""
    return Runner(
        app,
        access_log=None,
        keepalive_timeout=keepalive_s,
        lingering_time=LINGERING_S,
        shutdown_timeout=5.0,
        # As the engine's own head parser has it.
        max_line_size=8190,
        max_field_size=8190,
        max_headers=64,
        auto_decompress=False,
    )
