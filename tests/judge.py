"""A classifier that says what it is told to: a text's score stands in it, as `score=0.9`. In a thread of the test's."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

HARMLESS = 0.0


class Judge:
    """With `delay_s`, each answer about a text with `slow` in it comes so much later. `away` makes it answer 503."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.away = False
        self.asked: list[str] = []
        judge = self
        waits = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                texts = [comment["x"] for comment in body["comments"]]
                judge.asked += texts
                if any("slow" in text for text in texts):
                    waits.wait(delay_s)
                answer = json.dumps({"scores": [score_in(text) for text in texts]}).encode()
                self.send_response(503 if judge.away else 200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> "Judge":
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def score_in(text: str) -> float:
    found = re.search(r"score=([0-9.]+)", text)
    return float(found[1]) if found else HARMLESS
