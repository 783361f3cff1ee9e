"""A classifier for the third stage of moderation: the trained model of alt-profanity-check, behind HTTP.

It owns the model and one thread to run it in. It must never keep a comment, nor take more work than it can do in time.
"""

import argparse
import asyncio
import hmac
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from profanity_check import predict_prob

BATCH = 1000  # comments in one request
BODY_BYTES = 4 << 20
WAITING = 16  # requests that wait for the model: past it 503, which says more than a late answer


class Service:
    def __init__(self, key: str) -> None:
        self._expected = f"Bearer {key}".encode() if key else b""
        self._model = ThreadPoolExecutor(1, "model")  # one: it computes under the interpreter's lock anyway
        self._waiting = 0

    def app(self) -> web.Application:
        made = web.Application(client_max_size=BODY_BYTES)
        made.add_routes([web.post("/classify", self.classify), web.get("/healthz", self.healthz)])
        return made

    async def healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"ok": True})

    async def classify(self, request: web.Request) -> web.Response:
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if self._expected and not hmac.compare_digest(given, self._expected):
            return web.json_response({"error": "unauthorized"}, status=401)
        try:
            texts = texts_of(json.loads(await request.read()))
        except (ValueError, RecursionError) as error:
            return web.json_response({"error": "bad_request", "message": str(error)}, status=400)
        if self._waiting >= WAITING:
            return web.json_response({"error": "overloaded"}, status=503, headers={"Retry-After": "1"})
        self._waiting += 1
        try:
            scores = await asyncio.get_running_loop().run_in_executor(self._model, scores_of, texts)
        finally:
            self._waiting -= 1
        return web.json_response({"scores": scores})


def texts_of(body: Any) -> list[str]:
    comments = body.get("comments") if isinstance(body, dict) else None
    if not isinstance(comments, list) or len(comments) > BATCH:
        raise ValueError(f'"comments" is to be a list of at most {BATCH}')
    texts = [comment.get("x") if isinstance(comment, dict) else None for comment in comments]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError('each comment is to have its text as "x"')
    return texts


def scores_of(texts: list[str]) -> list[float]:
    """How likely each is offensive, 0 to 1. The model takes no empty list."""
    return [round(float(score), 4) for score in predict_prob(texts)] if texts else []


async def serve(host: str, port: int, key: str) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    scores_of(["the first one is slow"])
    runner = web.AppRunner(Service(key).app(), access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    host, port = runner.addresses[0][:2]
    print(f"classifier: ready on http://{host}:{port}/classify", flush=True)
    await ended.wait()
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores comments: POST /classify")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 for any that is free (default 8090)")
    given = parser.parse_args()
    key = os.environ.get("CLASSIFIER_KEY", "")  # not an argument: everybody on the machine may read those
    if not key and given.host not in ("127.0.0.1", "::1", "localhost"):
        sys.exit("classifier: set CLASSIFIER_KEY to listen beyond this machine")
    asyncio.run(serve(given.host, given.port, key))


if __name__ == "__main__":
    main()
